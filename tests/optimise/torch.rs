//! L-BFGS without a line search as defined by Torch's `optim.lbfgs` and PyTorch's `torch.optim.LBFGS`, in f64 on
//! vectors. The reference for the device's implementation, which works on dot products.

use std::collections::VecDeque;

pub struct Torch {
    history: usize,
    learning_rate: f64,
    clamp: bool,
    pairs: VecDeque<(Vec<f64>, Vec<f64>)>,
    gamma: f64,
    last: Option<(Vec<f64>, Vec<f64>)>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, other: &[f64]) {
    to.iter_mut().zip(other).for_each(|(to, other)| *to += factor * other);
}

impl Torch {
    pub fn new(history: usize, learning_rate: f64, clamp: bool) -> Self {
        Self { history, learning_rate, clamp, pairs: VecDeque::new(), gamma: 1.0, last: None }
    }

    /// Moves x by one step.
    pub fn step(&mut self, x: &mut [f64], gradient: &[f64]) {
        // With bounds, components whose -g leads out of them stay fixed.
        let held = |x: f64, g: f64| self.clamp && ((x <= 0.0 && g > 0.0) || (x >= 1.0 && g < 0.0));
        let held: Vec<bool> = x.iter().zip(gradient).map(|(x, g)| held(*x, *g)).collect();
        let free = |values: &mut [f64]| {
            values.iter_mut().zip(&held).filter(|(_, held)| **held).for_each(|(value, _)| *value = 0.0);
        };
        if let Some((before, gradient_before)) = &self.last {
            let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
            let (s, y) = (difference(x, before), difference(gradient, gradient_before));
            let curvature = dot(&s, &y);
            if curvature > 1e-10 {
                self.gamma = curvature / dot(&y, &y);
                self.pairs.push_back((s, y));
                if self.pairs.len() > self.history {
                    self.pairs.pop_front();
                }
            }
        }
        let mut q = gradient.to_vec();
        free(&mut q);
        let sum: f64 = q.iter().map(|g| g.abs()).sum();
        let mut alphas = Vec::new();
        for (s, y) in self.pairs.iter().rev() {
            let alpha = dot(s, &q) / dot(s, y);
            add(&mut q, -alpha, y);
            alphas.push(alpha);
        }
        q.iter_mut().for_each(|q| *q *= self.gamma);
        for ((s, y), alpha) in self.pairs.iter().zip(alphas.iter().rev()) {
            let beta = dot(y, &q) / dot(s, y);
            add(&mut q, alpha - beta, s);
        }
        free(&mut q);
        let short = if self.last.is_none() { (1.0 / sum).min(1.0) } else { 1.0 };
        self.last = Some((x.to_vec(), gradient.to_vec()));
        add(x, -short * self.learning_rate, &q);
        if self.clamp {
            x.iter_mut().for_each(|x| *x = x.clamp(0.0, 1.0));
        }
    }

    /// Returns the number of stored pairs.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }
}
