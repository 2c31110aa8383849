//! Times whole iterations of the default mirage with the default network: `cargo bench --bench iteration
//! [-- SIDE... --layers]`.
//!
//! Wall clock of ten iterations after ten that warm up (kernels are compiled, the balance is measured), no
//! reports between. With `--layers` the steps of one iteration follow, run one by one.

use neural_mirage::gpu::DeviceOptions;
use neural_mirage::graph::Engine;
use neural_mirage::image_io::Picture;
use neural_mirage::mirage::{Event, Request, Schedule, Session};
use neural_mirage::vgg::{Network, locate};
use std::ops::ControlFlow;

/// Iterations that are not counted; the balance is measured for the last time after these.
const WARM: u32 = 11;
const TIMED: u32 = 10;

fn main() -> neural_mirage::Result<()> {
    let mut sides: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let layers = std::env::args().any(|argument| argument == "--layers");
    if sides.is_empty() {
        sides = vec![128, 256];
    }
    let engine = Engine::open(&DeviceOptions::default())?;
    let network = Network::open(&locate::find_weights(None)?, None)?;
    println!("{}", engine.context.describe());
    for side in sides {
        let value = |index: usize| (index * 37 % 101) as f32 * 0.01;
        let photo = Picture { width: side, height: side, rgb: (0..side * side * 3).map(value).collect() };
        let mut request = Request::new(photo);
        request.iterations = WARM + TIMED;
        request.schedule = Schedule::default();
        let mut session = Session::new(&engine, &network, request)?;
        let mut first = 0.0;
        let mut last = 0.0;
        session.run(&mut |event| {
            match event {
                // Two iterations are in flight at most, so both marks are off by the same.
                Event::Progress { iteration, seconds } if iteration == WARM => first = seconds,
                Event::Progress { iteration, seconds } if iteration == WARM + TIMED => last = seconds,
                _ => {}
            }
            Ok(ControlFlow::Continue(()))
        })?;
        let each = (last - first) / f64::from(TIMED);
        let memory = session.memory().total() >> 20;
        println!("{side:5} px  {each:8.3} s an iteration  {memory} MiB of device memory");
        if layers {
            for (step, seconds) in session.profile()? {
                println!("{:10.2} ms  {step}", seconds * 1e3);
            }
        }
    }
    Ok(())
}
