//! The balance on real photos with the default network: measured shares must match the requested shares.
//!
//! Each run continues to the iteration at which the balance is measured again. A separate session then evaluates its
//! picture with only the run's raw weights, so the shares are measured independently of the code that set the weights.
//! By default each photo, each size and each set of layers occurs in some run, and all but the first run measure again
//! after three iterations instead of ten, to save time. `MIRAGE_BALANCE_SIZES=192,256,384,512` tests every photo with
//! both sets at these sizes, after ten iterations; `--nocapture` prints the table of docs/balance.md.

use crate::common::{engine, turn};
use neural_mirage::gpu::Family;
use neural_mirage::image_io::{self, Picture};
use neural_mirage::mirage::preset::{self, FACTORS, Preset};
use neural_mirage::mirage::statistic::by_name;
use neural_mirage::mirage::{Event, Init, Request, Scales, Session, Strength, Weights};
use neural_mirage::vgg::Network;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Acceptance limit for the error of a measured share, in percentage points. Measured at these sizes: below 0.001, from
/// rounding of the gradients.
const POINTS: f32 = 5.0;

fn photo(name: &str, size: usize) -> Picture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/photos").join(name);
    let picture = image_io::read(&path).expect(name).picture;
    let (width, height) = image_io::fit(picture.width, picture.height, size);
    image_io::resize(&picture, width, height).expect(name)
}

/// Builds the preset with these layers of the three factors, each with the given strength.
fn factors(layers: [&str; 3], strength: impl Fn(&str) -> Strength) -> Preset {
    let mut preset = Preset::default();
    preset.style.statistic = by_name("mean-covariance").expect("a statistic");
    for (name, layers) in FACTORS.into_iter().zip(layers) {
        let factor = preset.factor_mut(name).expect("a factor");
        factor.layers = preset::layers(layers).expect("layers");
        factor.strength = strength(name);
    }
    preset
}

#[test]
fn measured_shares_match_requested_shares() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/vgg16-narrow.safetensors");
    let network = Arc::new(Network::open(&weights, None).expect("the default network"));
    let sets = [
        ("default", ["relu4_2", "fc8", "relu1_1,relu2_1,relu3_1,relu4_1,relu5_1"], [20.0, 40.0, 40.0]),
        ("fine", ["relu2_2,relu3_1:0.5", "fc6,fc7", "relu2_1,relu4_1"], [30.0, 30.0, 40.0]),
    ];
    println!("| photo | size | layers | asked | measured |\n| --- | --- | --- | --- | --- |");
    let mut worst: f32 = 0.0;
    let photos = ["astronaut.png", "chelsea.png", "coffee.png"];
    // Photo, size, set of layers, and interval of measurements (0: the default, after ten iterations).
    let runs: Vec<(usize, usize, usize, u32)> = match std::env::var("MIRAGE_BALANCE_SIZES") {
        Ok(sizes) => {
            let sizes = sizes.split(',').map(|size| size.trim().parse().expect("sizes"));
            let sizes: Vec<usize> = sizes.collect();
            let sizes = (0..photos.len()).flat_map(|photo| sizes.iter().map(move |size| (photo, *size)));
            sizes.flat_map(|(photo, size)| (0..sets.len()).map(move |set| (photo, size, set, 0))).collect()
        }
        Err(_) => vec![(0, 64, 0, 0), (1, 80, 1, 3), (2, 96, 0, 3), (0, 112, 1, 3)],
    };
    for (photo_index, size, set, rebalance_every) in runs {
        let again = if rebalance_every == 0 { 10 } else { rebalance_every };
        let (name, (set, names, asked_for)) = (photos[photo_index], sets[set]);
        let mut request = Request::new(photo(name, size));
        let asked_for =
            |name: &str| asked_for[FACTORS.iter().position(|other| *other == name).expect("a factor")];
        request.groups = factors(names, |name| Strength::Share(asked_for(name))).groups();
        request.rebalance_every = rebalance_every;
        request.scales = Scales::single(again + 1);
        // Then the picture that is read back is the measured one.
        request.average_decay = 0.0;
        request.top_classes = 0;
        request.schedule.report_every = 0;
        request.schedule.snapshot_at = vec![again];
        let mut session = Session::new(&engine, &network, request.clone()).expect("a session");
        let (mut raw, mut reached) = (Weights::default(), None);
        session
            .run(&mut |event: Event<'_>| {
                match event {
                    Event::Weighted { iteration, weights, .. } if iteration == again => raw = weights.clone(),
                    Event::Snapshot { picture, .. } => reached = Some(picture.clone()),
                    _ => {}
                }
                Ok(ControlFlow::Continue(()))
            })
            .expect("a run");
        let measured = raw.0.iter().filter(|weight| weight.norm.is_some()).count();
        assert_eq!(measured, 3, "the balance is measured after {again} iterations");
        request.groups = factors(names, |name| Strength::Weight(raw.of(name))).groups();
        request.init = Init::Picture(Arc::new(reached.expect("a picture")));
        request.scales = Scales::single(1);
        session.restart(request).expect("a session");
        let mut shares = None;
        session
            .run(&mut |event: Event<'_>| {
                if let Event::Report(report) = event
                    && report.iteration == 0
                {
                    shares = Some(report.gradient_shares.clone());
                }
                Ok(ControlFlow::Continue(()))
            })
            .expect("an evaluation");
        let shares = shares.expect("a report");
        assert_eq!(shares.len(), 3);
        let list = |share: &dyn Fn(&str) -> f32| {
            FACTORS.map(|name| format!("{:.1}", 100.0 * share(name))).join(" / ")
        };
        let measured = |name: &str| shares.iter().find(|(other, _)| other == name).expect("a share").1;
        let asked = list(&|name| asked_for(name) / 100.0);
        println!("| {name} | {size} | {set} | {asked} | {} |", list(&measured));
        for factor in FACTORS {
            let off = (100.0 * measured(factor) - asked_for(factor)).abs();
            assert!(off <= POINTS, "{name} {size} {set}: {factor} is {off} points off");
            worst = worst.max(off);
        }
    }
    println!("worst: {worst:.3} points");
}
