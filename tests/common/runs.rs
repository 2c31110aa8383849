//! Sessions that tests run: prepared, run, and the states that they left.

use neural_mirage::graph::Engine;
use neural_mirage::mirage::{Event, Observer, Request, RunResult, Session, State};
use neural_mirage::vgg::Network;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What an observer says that lets a run continue.
pub const GO_ON: neural_mirage::Result<ControlFlow<()>> = Ok(ControlFlow::Continue(()));

/// A device, a network, and a request that tests vary.
pub type Setting = (Arc<Engine>, Arc<Network>, Request);

pub fn session(setting: &Setting, request: Request) -> Session {
    Session::new(&setting.0, &setting.1, request).expect("a session")
}

pub fn run(session: &mut Session, observer: &mut dyn Observer) -> RunResult {
    session.run(observer).expect("a run")
}

/// Runs, and returns the states that the schedule asked for.
pub fn states(session: &mut Session) -> (RunResult, Vec<State>) {
    let mut states = Vec::new();
    let result = run(session, &mut |event: Event<'_>| {
        if let Event::State(state) = event {
            states.push(state.clone());
        }
        GO_ON
    });
    (result, states)
}
