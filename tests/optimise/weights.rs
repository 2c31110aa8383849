//! Weights that change where a run is resumed.

use crate::common::golden::Golden;
use crate::common::objective::{iterate, network, picture, use_style_statistic, weigh};
use crate::common::runs::{GO_ON, Setting, run, session, states};
use crate::common::{engine, turn};
use neural_mirage::gpu::Family;
use neural_mirage::mirage::optimizer::Lbfgs;
use neural_mirage::mirage::preset::SMOOTH;
use neural_mirage::mirage::{Event, Request, State, Strength};
use std::sync::Arc;

/// Where the scalars of L-BFGS hold the loss of the accepted picture.
const LOSS: usize = 8;

fn tensor<'a>(state: &'a State, name: &str) -> &'a [f32] {
    let found = state.tensors.iter().find(|(found, _)| found == name || found.ends_with(&format!(":{name}")));
    &found.expect("a tensor of the state").1
}

/// While the line search tries a picture, the run is at the one that was accepted before. With other weights it goes on from
/// that one.
#[test]
fn a_rejected_picture_is_not_taken_up_with_other_weights() {
    let _turn = turn();
    let mut request = Request::new(picture(&Golden::open("objective.safetensors"), "photo"));
    use_style_statistic(&mut request, "mean-covariance");
    weigh(&mut request, |_| 1.0);
    request.average_decay = 0.0;
    // Far too long steps, of which many are rejected.
    request.optimizer = Arc::new(Lbfgs { learning_rate: 30.0, ..Lbfgs::default() });
    iterate(&mut request, 14);
    request.schedule.state_every = 1;
    let setting: Setting = (engine(Family::Auto), network(), request);
    let (_, saved) = states(&mut session(&setting, setting.2.clone()));
    let tried = |state: &&State| tensor(state, "picture") != tensor(state, "accepted");
    let tried: Vec<&State> = saved.iter().filter(tried).filter(|state| state.iteration < 14).collect();
    assert!(!tried.is_empty(), "no picture was rejected, so this tests nothing");
    for state in tried {
        let mut request = setting.2.clone();
        let smooth = request.groups.iter_mut().find(|group| group.name == SMOOTH).expect("smoothness");
        smooth.strength = Strength::Weight(smooth.strength.value() * 1.0001);
        request.schedule.report_every = 1;
        let mut later = session(&setting, request);
        later.resume(state.clone()).unwrap();
        let mut first = None;
        run(&mut later, &mut |event: Event<'_>| {
            if let Event::Report(report) = event {
                first = first.or(Some(report.total));
            }
            GO_ON
        });
        let accepted = f64::from(tensor(state, "scalars")[LOSS]);
        let found = first.expect("a report");
        assert!(
            (found - accepted).abs() <= 1e-3 * accepted,
            "after {}: {found} instead of {accepted}",
            state.iteration
        );
    }
}
