//! Resuming a run with changed weights.

use crate::common::golden::Golden;
use crate::common::objective::{iterate, network, picture, use_style_statistic, weigh};
use crate::common::runs::{CONTINUE, Setting, run, session, states};
use crate::common::{engine, turn};
use neural_mirage::gpu::Family;
use neural_mirage::mirage::optimizer::Lbfgs;
use neural_mirage::mirage::preset::SMOOTH;
use neural_mirage::mirage::{Event, Request, State, Strength};
use std::sync::Arc;

/// Index of the accepted picture's loss in the `scalars` of L-BFGS.
const LOSS: usize = 8;

fn tensor<'a>(state: &'a State, name: &str) -> &'a [f32] {
    let found = state.tensors.iter().find(|(found, _)| found == name || found.ends_with(&format!(":{name}")));
    &found.expect("a tensor of the state").1
}

/// While the line search tries a picture, the state of the run is the last accepted picture. With changed weights the
/// run continues from that one.
#[test]
fn changed_weights_resume_from_accepted_picture() {
    let _turn = turn();
    let mut request = Request::new(picture(&Golden::open("objective.safetensors"), "photo"));
    use_style_statistic(&mut request, "mean-covariance");
    weigh(&mut request, |_| 1.0);
    request.average_decay = 0.0;
    // The steps are far too long, so many are rejected.
    request.optimizer = Arc::new(Lbfgs { learning_rate: 30.0, ..Lbfgs::default() });
    iterate(&mut request, 14);
    request.schedule.state_every = 1;
    let setting: Setting = (engine(Family::Auto), network(), request);
    let (_, saved) = states(&mut session(&setting, setting.2.clone()));
    let tried = |state: &&State| tensor(state, "picture") != tensor(state, "accepted");
    let tried: Vec<&State> = saved.iter().filter(tried).filter(|state| state.iteration < 14).collect();
    assert!(!tried.is_empty(), "no picture was rejected, so nothing is tested");
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
            CONTINUE
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
