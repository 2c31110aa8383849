//! Creates and runs sessions, and collects the states that they save.

use neural_mirage::graph::Engine;
use neural_mirage::mirage::{Event, Observer, Request, RunResult, Session, State};
use neural_mirage::vgg::Network;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The observer's answer that lets a run continue.
pub const CONTINUE: neural_mirage::Result<ControlFlow<()>> = Ok(ControlFlow::Continue(()));

/// A device, a network, and a request to be varied by tests.
pub type Setting = (Arc<Engine>, Arc<Network>, Request);

pub fn session(setting: &Setting, request: Request) -> Session {
    Session::new(&setting.0, &setting.1, request).expect("a session")
}

pub fn run(session: &mut Session, observer: &mut dyn Observer) -> RunResult {
    session.run(observer).expect("a run")
}

/// Runs a session and returns the states requested by its schedule.
pub fn states(session: &mut Session) -> (RunResult, Vec<State>) {
    let mut states = Vec::new();
    let result = run(session, &mut |event: Event<'_>| {
        if let Event::State(state) = event {
            states.push(state.clone());
        }
        CONTINUE
    });
    (result, states)
}
