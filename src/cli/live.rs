//! `--web`: the live page of a run, told of everything and obeyed.

use super::args::WatchingArgs;
use super::names::Names;
use super::plan::Plan;
use crate::error::Result;
use crate::image_io::Picture;
use crate::mirage;
use crate::mirage::preset::{ABSTRACT, FACTORS, SPATIAL, STYLE};
use crate::mirage::{Controls, Readout, Report, Started, Weights, effective_shares};
use crate::web::{Command, FactorReport, LivePage, Options, Shares, Start};
use std::path::Path;

/// The page of a run; without `--web` there is none, and all of this does nothing.
#[derive(Debug)]
pub(super) struct Live {
    page: Option<LivePage>,
    /// True while the run is held.
    held: bool,
}

impl Live {
    /// Opens the page if it is wanted. What its viewers ask for goes to the controls.
    ///
    /// # Errors
    /// If the port can't be had.
    pub(super) fn open(args: &WatchingArgs, controls: &Controls) -> Result<Self> {
        let open = |port| {
            let controls = controls.clone();
            LivePage::open(&Options { host: args.web_host, port }, move |command| match command {
                Command::Pause => controls.pause(),
                Command::Resume => controls.resume(),
                Command::Save => controls.save(),
                Command::Stop => controls.stop(),
                Command::Shares(Shares { spatial, abstracted, style }) => {
                    let shares = [(SPATIAL, spatial), (ABSTRACT, abstracted), (STYLE, style)];
                    controls.set_shares(mirage::Shares(
                        shares.map(|(name, share)| (name.to_owned(), share)).into(),
                    ));
                }
            })
        };
        Ok(Self { page: args.web.map(open).transpose()?, held: false })
    }

    /// Where it is, with the token.
    pub(super) fn url(&self) -> Option<&str> {
        self.page.as_ref().map(LivePage::url)
    }

    /// The run starts.
    pub(super) fn begin(&self, plan: &Plan, photo: &Path, started: &Started) {
        let Some(page) = &self.page else { return };
        let request = &plan.request;
        let [height, width] = started.size;
        let present = request.present();
        let is_present = |name: &&str| present.iter().any(|group| group.name == *name);
        let steerable: Vec<&str> = FACTORS.into_iter().filter(is_present).collect();
        let shares = effective_shares(&request.groups);
        let title = photo.file_name().unwrap_or_default().to_string_lossy();
        page.begin(&Start {
            device: &started.device,
            size: [width, height],
            shares: (!shares.is_empty()).then(|| three(&shares)),
            steerable: &steerable,
            photo_classes: &named(&started.photo_classes, &plan.names),
            ..Start::new(&title, &request.photo, started.scales.last().map_or(0, |scale| scale.end))
        });
        for note in plan.notes.iter().chain(&started.notes) {
            page.note(note);
        }
    }

    pub(super) fn report(&self, report: &Report, names: &Names) {
        let Some(page) = &self.page else { return };
        let factors = report.groups().into_iter().map(|group| FactorReport {
            name: group.to_owned(),
            loss: report.group_loss(group),
            loss_share: Some(report.loss_share(group) as f32),
            gradient_share: report.gradient_share(group),
        });
        page.report(&crate::web::Report {
            iteration: report.iteration,
            seconds: report.seconds,
            total: report.total,
            factors: factors.collect(),
            classes: named(&report.readout.classes, names),
            class_distance: report.readout.distance,
            change: report.change,
        });
    }

    pub(super) fn weighted(&self, iteration: u32, shares: &mirage::Shares, weights: &Weights) {
        let Some(page) = &self.page else { return };
        let sum: f32 = shares.0.iter().map(|(_, share)| share).sum();
        let shares: Vec<_> = shares.0.iter().map(|(name, share)| (name.as_str(), share / sum)).collect();
        let measured = weights.0.iter().filter(|weight| weight.norm.is_some());
        let weights: Vec<_> = measured.map(|weight| (weight.group.as_str(), weight.weight)).collect();
        page.weights(iteration, &shares, &weights);
    }

    pub(super) fn progress(&self, iteration: u32, seconds: f64) {
        if let Some(page) = &self.page {
            page.progress(iteration, seconds);
        }
    }

    /// Shows a picture; the last one, and that of a run that is held, however busy the viewers are, and also if there
    /// are none yet.
    pub(super) fn picture(&self, iteration: u32, picture: &Picture, last: bool) {
        if let Some(page) = &self.page
            && (last || self.held || page.wants_pictures())
        {
            page.picture(iteration, picture);
        }
    }

    pub(super) fn snapshot(
        &self,
        iteration: u32,
        picture: &Picture,
        path: &Path,
        readout: &Readout,
        names: &Names,
    ) {
        let Some(page) = &self.page else { return };
        page.snapshot(iteration, picture, &path.to_string_lossy(), &named(&readout.classes, names));
        page.note(&format!("Saved {}", path.display()));
    }

    pub(super) fn paused(&mut self, paused: bool) {
        self.held = paused;
        if let Some(page) = &self.page {
            page.paused(paused);
        }
    }

    pub(super) fn warn(&self, text: &str) {
        if let Some(page) = &self.page {
            page.note(text);
        }
    }

    /// The run is over, in one way or the other.
    pub(super) fn end(&mut self, ending: &str, output: &str) {
        if let Some(page) = self.page.take() {
            page.end(ending, output);
        }
    }
}

fn three(shares: &[(&str, f32)]) -> Shares {
    let share = |name| shares.iter().find(|(other, _)| *other == name).map_or(0.0, |(_, share)| *share);
    Shares { spatial: share(SPATIAL), abstracted: share(ABSTRACT), style: share(STYLE) }
}

fn named(classes: &[(usize, f32)], names: &Names) -> Vec<(String, f32)> {
    classes.iter().map(|(index, probability)| (names.name(*index), *probability)).collect()
}
