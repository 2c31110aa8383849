//! A simulated run that reports to a live page and applies its commands.

use neural_mirage::image_io::{Picture, resize};
use neural_mirage::web::{Command, Group, GroupReport, LivePage, Report, Scale, Start};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// The groups with adjustable shares; a fourth has a given weight.
const NAMES: [&str; 3] = ["spatial", "abstract", "style"];
const ABOUT: [&str; 3] = ["the photo’s layout", "what the network sees", "textures and colours"];
/// Iterations after which the scales end, if the run is that long.
const ENDS: [u32; 2] = [20, 50];

/// Length and schedule of the simulated run.
#[derive(Debug, Clone)]
pub struct StandIn {
    pub photo: Picture,
    pub iterations: u32,
    /// Duration of one iteration.
    pub pace: Duration,
    /// Interval of reports, in iterations.
    pub report_every: u32,
    /// Interval of snapshots, in iterations.
    pub snapshot_every: u32,
}

impl StandIn {
    /// Runs until the end or a stop command. Returns all received commands.
    pub fn run(&self, page: LivePage, commands: &Receiver<Command>) -> Vec<Command> {
        let mut shares = [0.3, 0.3, 0.4_f32];
        let scales = self.scales();
        let photos: Vec<Picture> =
            scales.iter().map(|scale| resize(&self.photo, scale.width, scale.height).unwrap()).collect();
        let mut groups: Vec<Group<'_>> = (0..3)
            .map(|at| Group { name: NAMES[at], about: ABOUT[at], share: Some(shares[at]), adjustable: true })
            .collect();
        groups.push(Group { name: "smooth", about: "", share: None, adjustable: false });
        let photo_classes = classes(0.0);
        page.begin(&Start {
            device: "stand-in, no device",
            scales: scales.clone(),
            groups: &groups,
            photo_classes: &photo_classes,
            ..Start::new("harbour.jpg", &self.photo, self.iterations)
        });
        let named = |shares: [f32; 3]| {
            let sum: f32 = shares.iter().sum();
            [0, 1, 2].map(|at| (NAMES[at], shares[at] / sum))
        };
        let weights = |shares: [f32; 3]| [0, 1, 2].map(|at| (NAMES[at], shares[at] * [3.0, 40.0, 0.7][at]));
        page.weights(0, &named(shares), &weights(shares));
        page.note("style.jpg is the photo itself: no style picture was given");
        let start = Instant::now();
        let (mut received, mut paused, mut iteration) = (Vec::new(), false, 0);
        let (mut reported, mut current) = (None, None);
        let ending = loop {
            if reported.replace(iteration) != Some(iteration) {
                let scale = scales.iter().position(|scale| iteration < scale.end).unwrap_or(scales.len() - 1);
                if current.replace(scale) != Some(scale) {
                    page.scale(scale);
                }
                let seconds = start.elapsed().as_secs_f64();
                self.report(&page, iteration, seconds, shares, &photos[scale]);
            }
            if iteration == self.iterations {
                break "finished";
            }
            let command = if paused { commands.recv().ok() } else { commands.recv_timeout(self.pace).ok() };
            received.extend(command.clone());
            match &command {
                Some(Command::Pause) => paused = true,
                Some(Command::Resume) => paused = false,
                Some(Command::Save) => page.note(&format!("Saved harbour-{iteration:04}.png")),
                Some(Command::Stop) => break "stopped",
                Some(Command::Shares(wanted)) => {
                    let share = |name: &str| wanted.iter().find(|(other, _)| other == name).unwrap().1;
                    shares = NAMES.map(share);
                    let sum: f32 = shares.iter().sum();
                    shares = shares.map(|share| share / sum);
                    page.weights(iteration, &named(shares), &weights(shares));
                }
                // Later commands of the page have no effect.
                Some(_) | None => {}
            }
            match command {
                Some(Command::Pause | Command::Resume) => page.paused(paused),
                _ if !paused => iteration += 1,
                _ => {}
            }
        };
        page.end(ending, "harbour-mirage.png");
        received
    }

    fn scales(&self) -> Vec<Scale> {
        let (width, height) = (self.photo.width, self.photo.height);
        let mut first = 0;
        let ends = ENDS.iter().copied().filter(|end| *end < self.iterations).chain([self.iterations]);
        let ends: Vec<u32> = ends.collect();
        let scale = |(at, end): (usize, &u32)| {
            let part = 0.5 + 0.5 * (at + 1) as f64 / ends.len() as f64;
            let scaled = |length: usize| (length as f64 * part).round() as usize;
            let (width, height) = (scaled(width), scaled(height));
            let work = (width * height) as u64;
            let scale = Scale { width, height, first, end: *end, work, preparing: 0 };
            first = *end;
            scale
        };
        ends.iter().enumerate().map(scale).collect()
    }

    fn report(&self, page: &LivePage, iteration: u32, seconds: f64, shares: [f32; 3], photo: &Picture) {
        let done = iteration as f32 / self.iterations as f32;
        page.progress(iteration, seconds);
        if iteration.is_multiple_of(self.report_every) {
            page.report(&report(iteration, seconds, done, shares));
        }
        let is_snapshot = iteration > 0 && iteration.is_multiple_of(self.snapshot_every);
        if is_snapshot || page.wants_pictures() {
            let picture = paint(photo, done, shares);
            page.picture(iteration, &picture);
            if is_snapshot {
                page.snapshot(iteration, &picture, &format!("harbour-{iteration:04}.png"), &classes(done));
            }
        }
    }
}

fn report(iteration: u32, seconds: f64, done: f32, shares: [f32; 3]) -> Report {
    // Measured shares are close to the requested ones.
    let wobble = |at: usize| 1.0 + 0.06 * (iteration as f32 * 0.37 + at as f32 * 2.1).sin();
    let measured = [0, 1, 2].map(|at| shares[at] * wobble(at));
    let sum: f32 = measured.iter().sum();
    let fall = [30.0, 12.0, 900.0_f64];
    let losses = [0, 1, 2].map(|at| {
        let rate = 2.0 + at as f64 * 1.5;
        fall[at] * ((-rate * f64::from(done) * 2.0).exp() + 0.02) * f64::from(wobble(at))
    });
    let total: f64 = losses.iter().sum();
    let mut groups: Vec<GroupReport> = (0..3)
        .map(|at| GroupReport {
            name: NAMES[at].into(),
            loss: losses[at],
            loss_share: Some((losses[at] / total) as f32),
            gradient_share: Some(measured[at] / sum),
        })
        .collect();
    let smooth = 0.4 + f64::from(done);
    groups.push(GroupReport {
        name: "smooth".into(),
        loss: smooth,
        loss_share: Some((smooth / total) as f32),
        gradient_share: None,
    });
    Report {
        iteration,
        seconds,
        total,
        groups,
        classes: classes(done),
        class_distance: Some(0.9 * done.sqrt()),
        change: Some(0.02 / (1.0 + 9.0 * done)),
    }
}

fn classes(done: f32) -> Vec<(String, f32)> {
    [("lakeside", 0.41), ("dock", 0.2), ("boathouse", 0.12), ("catamaran", 0.07), ("breakwater", 0.04)]
        .map(|(label, share): (&str, f32)| {
            let drift = 1.0 + done * ((label.len() as f32).sin() * 0.8);
            (label.to_owned(), share * drift)
        })
        .into()
}

/// Returns the photo, increasingly distorted and banded, with a colour cast that depends on the shares.
fn paint(photo: &Picture, done: f32, shares: [f32; 3]) -> Picture {
    let (width, height) = (photo.width, photo.height);
    let mut picture = photo.clone();
    let bend = 14.0 * done;
    for (at, pixel) in picture.rgb.chunks_exact_mut(3).enumerate() {
        let (x, y) = ((at % width) as f32, (at / width) as f32);
        let moved_x = x + bend * (y * 0.07 + 3.0 * done).sin();
        let moved_y = y + bend * (x * 0.05).sin() * (y * 0.03).cos();
        let column = moved_x.clamp(0.0, width as f32 - 1.0) as usize;
        let row = moved_y.clamp(0.0, height as f32 - 1.0) as usize;
        let from = (row * width + column) * 3;
        for (channel, value) in pixel.iter_mut().enumerate() {
            let source = photo.rgb[from + channel];
            let bands = (source * 6.0 + (moved_x * 0.4).sin() * 0.35).round() / 6.0;
            *value = source + done * (bands * (0.55 + 1.35 * shares[channel]) - source);
        }
    }
    picture
}

/// Creates a synthetic photo of an evening at the water.
pub fn photo(width: usize, height: usize) -> Picture {
    let mut rgb = Vec::with_capacity(width * height * 3);
    for row in 0..height {
        for column in 0..width {
            let (x, y) = (column as f32 / width as f32, row as f32 / height as f32);
            let hills = 0.52 - 0.10 * (x * 7.0).sin().abs() - 0.05 * (x * 23.0 + 1.0).sin();
            let sun = (-((x - 0.68).powi(2) * 1.8 + (y - 0.30).powi(2)) * 160.0).exp();
            let color = if y < hills {
                [0.93 - 0.55 * (hills - y), 0.68 - 0.42 * (hills - y), 0.52 + 0.42 * (hills - y)]
            } else if y < 0.6 {
                [0.22 + 0.1 * x, 0.25, 0.33 - 0.1 * y]
            } else {
                let wave = 0.06 * ((y * 90.0).sin() + (x * 40.0 + y * 60.0).sin());
                [0.55 - 0.4 * (y - 0.6) + wave, 0.42 + wave, 0.45 + 0.1 * y + wave]
            };
            rgb.extend(color.map(|value| (value + sun * if y < hills { 0.6 } else { 0.0 }).clamp(0.0, 1.0)));
        }
    }
    Picture { width, height, rgb }
}
