//! Every entry of `STATISTICS` and one statistic defined here, used only through the trait.
//!
//! Each builds a graph of summaries, target and distance. The f64 references compute it, and the gradient must match
//! finite differences of the loss. Loss and gradient must match PyTorch, and the device must match the references.

use crate::common::golden::{Golden, shape, text};
use crate::common::objective;
use crate::common::statistics::{Built, Quarters};
use crate::common::{draw, engine, relative_l2, turn, widen};
use neural_mirage::gpu::Family;
use neural_mirage::mirage::statistic::{Classes, Domain, STATISTICS, Statistic, by_name};
use neural_mirage::mirage::{Event, Group, Init, Loss, Request, Scales, Session, Source, Strength, Target};
use neural_mirage::ops::{CaseInput, Shape};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Shapes with odd, tiny and prime sizes, with fewer pixels than channels, and with a single pixel.
fn shapes(domain: Domain) -> Vec<Shape> {
    let maps = [(3, 1, 1), (1, 5, 1), (5, 7, 11), (13, 5, 17), (11, 2, 3), (19, 23, 4)];
    let maps = maps.map(|(channels, height, width)| Shape::map(channels, height, width));
    let vectors = [1, 7, 101].map(Shape::Vector);
    match domain {
        Domain::Maps => maps.into(),
        Domain::Vectors => vectors.into(),
        Domain::Any => [maps.as_slice(), &vectors].concat(),
    }
}

/// Draws activations with nonzero mean and distinct channels.
fn activation(shape: Shape, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let values = draw(shape, CaseInput::Normal, &mut random);
    let each = shape.layout().map_or(1, |map| map.pixels());
    let scaled = |(index, value): (usize, &f32)| {
        let channel = index / each;
        (value + 0.4) * (0.5 + 0.3 * (channel % 5) as f32)
    };
    values.iter().enumerate().map(scaled).collect()
}

/// Relative tolerance of the device, for f32 sums and cancellation in the distances. The root of a covariance with
/// eigenvalues near the ridge (1e-4, with the largest about 5) amplifies rounding of 1e-6 up to a thousandfold: its
/// gradient scales with the power -1/2 of eigenvalues, which are accurate to 1e-7 of the largest in f32.
///
/// The covariance of a single pixel is 0, so a relative distance would measure only f32 rounding. There the test only
/// rejects NaN.
fn tolerance(statistic: &dyn Statistic, shape: Shape) -> f64 {
    let pixels = |most: usize| shape.layout().is_some_and(|map| map.pixels() <= most);
    let deficient = pixels(shape.layout().map_or(0, |map| map.channels));
    match statistic.name() {
        "mean-covariance" if pixels(1) => f64::MAX,
        "wasserstein" if deficient => 2e-2,
        "wasserstein" => 1e-3,
        _ => 2e-5,
    }
}

/// Returns the relative distance of gradients: 0 if both are exactly zero, infinite if only the expected one is.
fn distance(actual: &[f32], expected: &[f64]) -> f64 {
    if expected.iter().any(|value| *value != 0.0) {
        return relative_l2(actual, expected);
    }
    let zero = actual.len() == expected.len() && actual.iter().all(|value| *value == 0.0);
    if zero { 0.0 } else { f64::INFINITY }
}

/// Checks a statistic on one shape, in f64 and on the device.
fn check(statistic: &dyn Statistic, shape: Shape, seed: u64) {
    let what = format!("{} on {shape}", statistic.key());
    let built = Built::new(statistic, shape);
    let (x, target) = (activation(shape, seed), activation(shape, seed + 100));
    let (loss, gradient) = built.reference(&widen(&x), &widen(&target));
    assert!(loss.is_finite() && loss >= 0.0, "{what}: {loss}");

    // Central differences along a random direction with two step sizes, in case one crosses a kink of an absolute
    // value.
    let direction = widen(&draw(shape, CaseInput::Normal, &mut ChaCha8Rng::seed_from_u64(seed + 200)));
    let at = |step: f64| {
        let moved: Vec<f64> =
            x.iter().zip(&direction).map(|(value, d)| f64::from(*value) + step * d).collect();
        built.reference(&moved, &widen(&target)).0
    };
    let slope = |step: f64| (at(step) - at(-step)) / (2.0 * step);
    let along: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let scale = norm(&gradient) * norm(&direction);
    // The curvature error is 1e-12 (the squared step) times the third derivative. The rounding error is 1e-16 of the
    // terms whose difference is the loss, divided by the step.
    let close = |step| (slope(step) - along).abs() <= 1e-5 * scale + 1e-9;
    assert!(close(1e-5) || close(1e-6), "{what}: adjoints {along}, finite differences {}", slope(1e-6));

    for family in [Family::Texture, Family::Buffer] {
        let (device_loss, device_gradient) = built.device(&engine(family), &x, &target);
        let tolerance = tolerance(statistic, shape);
        // A loss may be a small difference of large terms, so the error is relative to the activations' mean square.
        let size = loss.abs().max(widen(&x).iter().map(|x| x * x).sum::<f64>() / x.len() as f64 * 1e-2);
        let off = (f64::from(device_loss) - loss).abs() / size;
        assert!(off <= tolerance, "{what}, {family:?}: loss {device_loss} for {loss}");
        let off = distance(&device_gradient, &gradient);
        assert!(off <= tolerance, "{what}, {family:?}: gradient off by {off:.1e}");
        println!("{what}, {family:?}: loss {loss:.4e}, gradient off by {off:.1e}");
    }
}

#[test]
fn every_statistic_passes_gradient_check() {
    let _turn = turn();
    for entry in STATISTICS {
        let statistic = (entry.make)();
        for (shape, seed) in shapes(statistic.domain()).into_iter().zip(1..) {
            check(statistic.as_ref(), shape, seed);
        }
    }
}

#[test]
fn external_statistic_passes_gradient_check() {
    let _turn = turn();
    for (shape, seed) in shapes(Domain::Maps).into_iter().zip(1..) {
        check(&Quarters, shape, seed);
    }
}

/// The distance is 0 up to rounding, so a picture that already has the target's style is not changed.
#[test]
fn distance_to_itself_is_zero() {
    for entry in STATISTICS.iter().filter(|entry| (entry.make)().has_target()) {
        let statistic = (entry.make)();
        let shape =
            if statistic.domain() == Domain::Vectors { Shape::Vector(7) } else { Shape::map(5, 7, 11) };
        let x = widen(&activation(shape, 5));
        let (loss, gradient) = Built::new(statistic.as_ref(), shape).reference(&x, &x);
        assert!(loss.abs() <= 1e-6, "{}: {loss}", entry.name);
        assert!(gradient.iter().all(|value| value.abs() <= 1e-6), "{}", entry.name);
    }
}

/// Runs a group of its own with a statistic defined outside the library, and with each built-in one.
#[test]
fn every_statistic_works_in_a_run() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let golden = Golden::open("objective.safetensors");
    let network = objective::network();
    let mut statistics: Vec<Arc<dyn Statistic>> = STATISTICS.iter().map(|entry| (entry.make)()).collect();
    statistics.push(Arc::new(Quarters));
    for statistic in statistics {
        let key = statistic.key();
        let smooth = !statistic.has_target();
        let source = match statistic.domain() {
            _ if smooth => Source::Picture,
            Domain::Vectors => Source::Layer("fc8".to_owned()),
            Domain::Maps | Domain::Any => Source::Layer("relu3_1".to_owned()),
        };
        let loss = Loss { source, statistic, target: Target::Photo, weight: 1.0 };
        let group = Group { name: "tested".to_owned(), losses: vec![loss], strength: Strength::Share(9.0) };
        let mut request = Request::new(objective::picture(&golden, "photo_large"));
        request.groups = vec![group];
        if smooth {
            // Smoothness alone is refused.
            let layout = Loss {
                source: Source::Layer("relu3_1".to_owned()),
                statistic: by_name("feature").unwrap(),
                target: Target::Photo,
                weight: 1.0,
            };
            let strength = Strength::Share(1.0);
            request.groups.push(Group { name: "layout".to_owned(), losses: vec![layout], strength });
        }
        request.scales = Scales::single(8);
        request.init = Init::Gray;
        request.schedule.report_every = 8;
        let mut reports = Vec::new();
        let mut session = Session::new(&engine, &network, request).unwrap();
        let observer = &mut |event: Event<'_>| {
            if let Event::Report(report) = event {
                reports.push((report.iteration, report.group_loss("tested")));
            }
            Ok(ControlFlow::Continue(()))
        };
        let result = session.run(observer).unwrap();
        let [(0, first), (8, last)] = reports[..] else { panic!("{key}: {reports:?}") };
        // Statistics that preserve layout make a gray start less smooth.
        let falls = last < first || (smooth && last.is_finite());
        assert!(first.is_finite() && falls, "{key}: the loss goes from {first} to {last}");
        assert!(result.picture.rgb.iter().all(|value| value.is_finite()), "{key}");
    }
}

/// Relative tolerance of the references against PyTorch. Constants such as 1/C are f32 in both; target summaries are
/// f32 here and f64 there. That is an error of 6e-8 each, and more for a gradient that is a small difference of large
/// terms (measured: up to 8.7e-7, for `gram/one/1`).
const REFERENCES: f64 = 1e-5;

#[test]
fn losses_and_gradients_match_pytorch() {
    let _turn = turn();
    let golden = Golden::open("statistics.safetensors");
    let engine = engine(Family::Auto);
    let mut tested = std::collections::BTreeSet::new();
    for case in golden.cases.as_array().expect("a list") {
        let name = text(&case["name"]);
        let statistic = by_name(text(&case["statistic"])).unwrap();
        let (sizes, x) = golden.tensor(text(&case["activation"]));
        let listed = case["targets"].as_array().expect("a list");
        let targets: Vec<(f32, Shape, Vec<f32>)> = listed
            .iter()
            .map(|target| {
                let (sizes, values) = golden.tensor(text(&target["key"]));
                (target["weight"].as_f64().expect("a weight") as f32, shape(&sizes), values)
            })
            .collect();
        // A distribution over the classes replaces a picture's logits.
        let named = case["distribution"].as_bool().unwrap_or(false);
        let built = match targets.as_slice() {
            [] => Built::new(statistic.as_ref(), shape(&sizes)),
            [(_, _, p)] if named => {
                Built::of_summary(statistic.as_ref(), shape(&sizes), Classes::summary_of(p))
            }
            targets => {
                let blended = Built::blend(statistic.as_ref(), targets);
                Built::of_summary(statistic.as_ref(), shape(&sizes), blended)
            }
        };
        let loss = case["loss"].as_f64().expect("a number");
        let gradient = widen(&golden.tensor(text(&case["gradient"])).1);
        let (own_loss, own_gradient) = built.reference(&widen(&x), &[]);
        let close = (own_loss - loss).abs() <= REFERENCES * loss.abs().max(1e-3);
        assert!(close, "{name}: the references give {own_loss}, PyTorch {loss}");
        let narrow: Vec<f32> = own_gradient.iter().map(|value| *value as f32).collect();
        let off = distance(&narrow, &gradient);
        assert!(off <= REFERENCES, "{name}: the references' gradient is off by {off:.1e}");

        let (device_loss, device_gradient) = built.device(&engine, &x, &[]);
        let allowed = tolerance(statistic.as_ref(), shape(&sizes)) + REFERENCES;
        let off = (f64::from(device_loss) - loss).abs() / loss.abs().max(1e-2);
        assert!(off <= allowed, "{name}: loss {device_loss}, PyTorch {loss}");
        let off = distance(&device_gradient, &gradient);
        assert!(off <= allowed, "{name}: the device's gradient is off by {off:.1e}");
        tested.insert(text(&case["statistic"]).to_owned());
    }
    let names: std::collections::BTreeSet<String> =
        STATISTICS.iter().map(|entry| entry.name.to_owned()).collect();
    assert_eq!(tested, names, "every statistic has a golden");
}
