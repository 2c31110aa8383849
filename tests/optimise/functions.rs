//! Objective functions with gradients for optimiser tests.

/// Returns deterministic pseudo-random numbers in -1 .. 1.
pub fn spread(count: usize, seed: u32) -> Vec<f64> {
    (0..count)
        .map(|i| {
            let mixed = (i as u32 + 1).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503));
            let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519);
            f64::from(mixed >> 8) / f64::from(1 << 23) - 1.0
        })
        .collect()
}

pub fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|value| *value as f32).collect()
}

/// `sum w_i (x_i - c_i)^2 / 2`, with weights from 1 to `condition`.
pub fn quadratic(x: &[f64], center: &[f64], condition: f64) -> (f64, Vec<f64>) {
    let last = (x.len() - 1).max(1) as f64;
    let weight = |i: usize| condition.powf(i as f64 / last);
    let loss = x.iter().zip(center).enumerate().map(|(i, (x, c))| weight(i) * (x - c).powi(2) / 2.0).sum();
    (loss, x.iter().zip(center).enumerate().map(|(i, (x, c))| weight(i) * (x - c)).collect())
}

/// A quadratic whose variables depend on each other, with quartic terms between neighbours.
pub fn coupled(x: &[f64], center: &[f64]) -> (f64, Vec<f64>) {
    let (mut loss, mut gradient) = quadratic(x, center, 30.0);
    let along = spread(x.len(), 5);
    let sum: f64 = x.iter().zip(&along).map(|(x, a)| a * x).sum();
    loss += sum * sum / 2.0;
    gradient.iter_mut().zip(&along).for_each(|(g, a)| *g += sum * a);
    for i in 1..x.len() {
        let difference = x[i] - x[i - 1];
        loss += difference.powi(4);
        gradient[i] += 4.0 * difference.powi(3);
        gradient[i - 1] -= 4.0 * difference.powi(3);
    }
    (loss, gradient)
}

/// Rosenbrock's valley in each pair of variables; the minimum is 0 at 1, 1, ...
pub fn rosenbrock(x: &[f64]) -> (f64, Vec<f64>) {
    let (mut loss, mut gradient) = (0.0, vec![0.0; x.len()]);
    for i in (0..x.len() - 1).step_by(2) {
        let (a, b) = (1.0 - x[i], x[i + 1] - x[i] * x[i]);
        loss += a * a + 100.0 * b * b;
        gradient[i] = -2.0 * a - 400.0 * x[i] * b;
        gradient[i + 1] = 200.0 * b;
    }
    (loss, gradient)
}
