//! One iteration on two devices: whether a device computes what the CPU device computes.

use super::objective::Objective;
use super::objective::targets::Cache;
use super::run::session::Session;
use super::run::start;
use super::weighting::Weights;
use crate::error::{Error, Result};

/// Largest distance of the gradients that counts as agreement, relative L2. It is not the rounding of sums, which is a
/// few 1e-6: ReLU and pooling decisions within rounding of a tie fall either way. At full size they move an f32 gradient
/// by up to 3.8e-3 from that in f64 (docs/accuracy.md), and two devices so by up to twice that; small pictures have
/// fewer values, among which one decision weighs more.
pub const GRADIENT_LIMIT: f64 = 2e-2;
/// Largest relative difference of a loss. Losses do not jump where decisions fall otherwise; at full size they are within
/// 4.1e-7 of f64. The rest is for losses that are small differences of large numbers.
pub const LOSS_LIMIT: f64 = 1e-3;

/// How far one iteration on a device is from the same on the CPU device.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Agreement {
    /// Height and width of the picture.
    pub size: [usize; 2],
    /// Distance of the gradients of the picture, relative L2; infinite if one is not finite.
    pub gradient: f64,
    /// Largest relative difference of a loss; infinite if one is not finite.
    pub loss: f64,
    /// Group and layer of that loss.
    pub loss_name: String,
}

impl Session {
    /// Computes losses and gradient of one iteration at the present scale, with its weights measured for the shares of the
    /// request, on this session's device and on the CPU device. The picture is the one that [`super::Init::Blur`] starts
    /// from, whatever the run starts from: there no loss is met.
    ///
    /// # Errors
    /// [`Error::WrongResult`] if they are further apart than [`GRADIENT_LIMIT`] or [`LOSS_LIMIT`]; else if a device fails or
    /// has too little memory.
    pub fn compare_with_cpu(&self) -> Result<Agreement> {
        let size = self.scales[self.scale].size;
        let picture = start::blurred(&self.request, size)?;
        let own = self.objective()?;
        own.set_picture(&picture)?;
        let norms = own.measure()?.norms;
        let weights = Weights::measured(&own.groups, &norms, &Weights::given(&own.groups), false);
        let (numbers, gradient) = own.evaluate(&picture, &weights)?;
        own.release();

        let cpu = self.engine.cpu_beside()?;
        let other = Objective::new(&cpu, &self.network, &self.request, size, &mut Cache::default())?;
        let (expected, expected_gradient) = other.evaluate(&picture, &weights)?;
        let mut agreement = Agreement {
            size,
            gradient: relative_l2(&gradient, &expected_gradient),
            loss: 0.0,
            loss_name: String::new(),
        };
        for (term, (loss, expected)) in own.terms.iter().zip(numbers.losses.iter().zip(&expected.losses)) {
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
    /// What differs by more than is allowed, if anything does.
    fn fault(&self) -> Option<String> {
        let Self { gradient, loss, loss_name, .. } = self;
        // False for NaN.
        let (losses_agree, gradients_agree) = (*loss <= LOSS_LIMIT, *gradient <= GRADIENT_LIMIT);
        if !losses_agree {
            Some(format!(
                "the loss {loss_name} is {loss:.1e} away from the CPU device's (relative), and {LOSS_LIMIT:.0e} is allowed"
            ))
        } else if !gradients_agree {
            Some(format!(
                "the gradient of the picture is {gradient:.1e} away from the CPU device's (relative L2), and {GRADIENT_LIMIT:.0e} is allowed"
            ))
        } else {
            None
        }
    }
}

/// `|actual - expected| / |expected|`; infinite where that is not a number.
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
    fn distances_are_relative_and_what_is_no_number_is_infinitely_far() {
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
    fn what_is_too_far_or_no_number_is_a_fault() {
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
