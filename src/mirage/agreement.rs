//! Compares one iteration on a device with the same iteration on the CPU device.

use super::request::Request;
use super::run::session::Session;
use super::run::start;
use super::weighting::Weights;
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::image_io::Picture;
use crate::vgg::Network;
use std::sync::Arc;

/// Largest relative L2 distance of the gradients that still counts as agreement. Rounding of sums accounts for only a
/// few 1e-6. The rest comes from ReLU and pooling decisions near a tie, which rounding can flip. At full size these
/// move an f32 gradient by up to 3.8e-3 from the f64 one (docs/accuracy.md), and so two devices by up to twice that. In
/// small pictures one decision weighs more.
pub const GRADIENT_LIMIT: f64 = 2e-2;
/// Largest relative difference of a loss that still counts as agreement. Flipped decisions do not make losses jump: at
/// full size they are within 4.1e-7 of f64. The limit leaves room for losses that are small differences of large
/// numbers.
pub const LOSS_LIMIT: f64 = 1e-3;

/// Difference between one iteration on a device and the same iteration on the CPU device.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Agreement {
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// Relative L2 distance of the gradients with respect to the picture; infinite if one is not finite.
    pub gradient: f64,
    /// Largest relative difference of a loss; infinite if one is not finite.
    pub loss: f64,
    /// Group and layer of that loss.
    pub loss_name: String,
}

/// Result of one iteration on the CPU device, the reference for other devices.
#[derive(Debug, Clone)]
pub struct CpuIteration {
    size: [usize; 2],
    picture: Picture,
    weights: Weights,
    losses: Vec<f32>,
    gradient: Vec<f32>,
}

impl CpuIteration {
    /// Computes losses and gradient at the first scale of the request, with weights measured for its shares. The
    /// picture is always the start picture of [`super::Init::Blur`], because no loss is at its minimum there.
    ///
    /// # Errors
    /// Same as [`Session::new`], and any failure of the CPU device.
    pub fn compute(engine: &Engine, network: &Arc<Network>, request: &Request) -> Result<Self> {
        let session = Session::new(&engine.cpu_beside()?, network, request.clone())?;
        let size = session.scales[session.scale].size;
        let picture = start::blurred(request, size)?;
        let objective = session.objective()?;
        objective.set_picture(&picture)?;
        let norms = objective.measure()?.norms;
        let weights = Weights::measured(&objective.groups, &norms, &Weights::given(&objective.groups), false);
        let (numbers, gradient) = objective.evaluate(&picture, &weights)?;
        Ok(Self { size, picture, weights, losses: numbers.losses, gradient })
    }
}

impl Session {
    /// Compares an iteration on this session's device with the same one on the CPU device. The session must be at its
    /// first scale; its state is not changed.
    ///
    /// # Errors
    /// [`Error::WrongResult`] if they differ by more than [`GRADIENT_LIMIT`] or [`LOSS_LIMIT`]; otherwise if the device
    /// fails.
    pub fn compare_with(&self, expected: &CpuIteration) -> Result<Agreement> {
        let CpuIteration { size, picture, weights, losses: expected_losses, gradient: expected_gradient } =
            expected;
        let size = *size;
        let own = self.objective()?;
        let (numbers, gradient) = own.evaluate(picture, weights)?;
        own.release();
        let mut agreement = Agreement {
            size,
            gradient: relative_l2(&gradient, expected_gradient),
            loss: 0.0,
            loss_name: String::new(),
        };
        for (term, (loss, expected)) in own.terms.iter().zip(numbers.losses.iter().zip(expected_losses)) {
            let difference = relative_l2(&[*loss], &[*expected]);
            if difference >= agreement.loss {
                agreement.loss = difference;
                agreement.loss_name = format!("{} of {}", term.group, term.source);
            }
        }
        match agreement.fault() {
            None => Ok(agreement),
            Some(message) => Err(Error::WrongResult {
                kernel: "an iteration".to_owned(),
                at: format!("{}x{} pixels", size[1], size[0]),
                device: self.engine.describe(),
                message,
            }),
        }
    }
}

impl Agreement {
    /// Describes the difference that exceeds its limit, if any.
    fn fault(&self) -> Option<String> {
        let Self { gradient, loss, loss_name, .. } = self;
        // Written so that NaN does not agree.
        let (losses_agree, gradients_agree) = (*loss <= LOSS_LIMIT, *gradient <= GRADIENT_LIMIT);
        if !losses_agree {
            Some(format!(
                "the loss {loss_name} differs from the CPU device's by {loss:.1e} (relative); the limit is {LOSS_LIMIT:.0e}"
            ))
        } else if !gradients_agree {
            Some(format!(
                "the gradient of the picture differs from the CPU device's by {gradient:.1e} (relative L2); the limit is {GRADIENT_LIMIT:.0e}"
            ))
        } else {
            None
        }
    }
}

/// Returns `|actual - expected| / |expected|`, or infinity if that is not finite.
fn relative_l2(actual: &[f32], expected: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let pairs = actual.iter().zip(expected);
    let difference = norm(&mut pairs.map(|(actual, expected)| f64::from(*actual) - f64::from(*expected)));
    let relative = difference / norm(&mut expected.iter().map(|value| f64::from(*value))).max(1e-30);
    if relative.is_finite() && actual.len() == expected.len() { relative } else { f64::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_is_relative_and_infinite_for_nan() {
        assert_eq!(relative_l2(&[3.0, 4.5], &[3.0, 4.0]), 0.1);
        assert_eq!(relative_l2(&[0.0], &[0.0]), 0.0);
        for (actual, expected) in [
            (&[f32::NAN, 1.0][..], &[0.0, 1.0][..]),
            (&[f32::INFINITY], &[f32::INFINITY]),
            (&[1.0], &[f32::NAN]),
            (&[1.0], &[1.0, 2.0]),
        ] {
            assert_eq!(relative_l2(actual, expected), f64::INFINITY, "{actual:?} {expected:?}");
        }
    }

    #[test]
    fn distances_beyond_limit_or_nan_are_faults() {
        let fault = |gradient, loss| {
            Agreement { size: [1, 1], gradient, loss, loss_name: "style of relu1_1".to_owned() }.fault()
        };
        assert_eq!(fault(GRADIENT_LIMIT, LOSS_LIMIT), None);
        for wrong in [0.021, f64::INFINITY, f64::NAN] {
            assert!(fault(wrong, 0.0).unwrap().contains("gradient"), "{wrong}");
            assert!(fault(0.0, wrong).unwrap().contains("style of relu1_1"), "{wrong}");
        }
    }
}
