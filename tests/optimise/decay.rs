//! Adam with learning rate decay, including the state tensors named by the trait.

use crate::common::{engine, relative_l2, turn};
use crate::functions::{narrow, spread};
use crate::stepper::Stepper;
use neural_mirage::gpu::Family;
use neural_mirage::mirage::optimizer::Adam;
use neural_mirage::ops::Shape;
use std::sync::Arc;

#[test]
fn adam_with_decay_matches_reference() {
    let _turn = turn();
    let engine = engine(Family::Auto);
    let shape = Shape::map(3, 5, 7);
    let start = spread(shape.elements(), 1);
    for clamp in [false, true] {
        let adam = Adam { learning_rate: 0.05, decay: 0.3, clamp, ..Adam::default() };
        let mut stepper = Stepper::new(&engine, Arc::new(adam), shape, &narrow(&start));
        let (mut x, mut m, mut v) = (start.clone(), vec![0.0; start.len()], vec![0.0; start.len()]);
        for done in 0..25 {
            let gradient = spread(x.len(), 100 + done);
            stepper.step_with(0.0, &narrow(&gradient));
            let t = done as i32 + 1;
            let rate = 0.05 / (1.0 + 0.3 * f64::from(done)).sqrt();
            for (((x, m), v), g) in x.iter_mut().zip(&mut m).zip(&mut v).zip(&gradient) {
                *m = adam.beta1 * *m + (1.0 - adam.beta1) * g;
                *v = adam.beta2 * *v + (1.0 - adam.beta2) * g * g;
                let (mean, square) = (*m / (1.0 - adam.beta1.powi(t)), *v / (1.0 - adam.beta2.powi(t)));
                *x -= rate * mean / (square.sqrt() + adam.epsilon);
                if clamp {
                    *x = x.clamp(0.0, 1.0);
                }
            }
            // Each step rounds x, at most 1, by up to 6e-8.
            let distance = relative_l2(&stepper.picture(), &x);
            assert!(distance <= 2e-6, "clamp {clamp}, step {t}: off by {distance:.1e}");
        }
        let counters = stepper.state("counters");
        assert_eq!(counters[0], 25.0);
        for (name, moment) in [("first_moment", &m), ("second_moment", &v)] {
            let distance = relative_l2(&stepper.state(name), moment);
            assert!(distance <= 1e-5, "{name} is off by {distance:.1e}");
        }
    }
}
