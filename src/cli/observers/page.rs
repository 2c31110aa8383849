//! `--web`: the live page of a run. It shows the run's events and sends commands back.

use super::status::SharedStatus;
use crate::cli::args::WatchingArgs;
use crate::cli::checked_run::CheckedRun;
use crate::cli::class_names::ClassNames;
use crate::cli::output::escape::{path_text, shown};
use crate::error::Result;
use crate::image_io::Picture;
use crate::mirage::preset::{ABSTRACT, SMOOTH, SPATIAL, STYLE};
use crate::mirage::{self, Controls, Event, Observer, Readout, Started, Weights, effective_shares};
use crate::web::{Command, Group, GroupReport, LivePage, Options, Scale, Start};
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::rc::Rc;

/// Shows a run on its live page.
#[derive(Debug)]
pub(in crate::cli) struct Page {
    page: LivePage,
    checked: Rc<CheckedRun>,
    status: SharedStatus,
    /// The page's title.
    title: String,
    /// True while the run is paused.
    paused: bool,
    /// Number of problems shown so far.
    problems_seen: usize,
    /// Notes shown so far: a run whose device is reopened starts with the same ones.
    notes_seen: HashSet<String>,
}

impl Page {
    /// Opens the page on a port. Its viewers' commands are passed to `controls`.
    ///
    /// # Errors
    /// If the port can't be opened.
    pub(in crate::cli) fn open(
        port: u16,
        args: &WatchingArgs,
        title: String,
        controls: &Controls,
        checked: &Rc<CheckedRun>,
        status: &SharedStatus,
    ) -> Result<Self> {
        let controls = controls.clone();
        let page = LivePage::open(&Options { host: args.web_host, port }, move |command| match command {
            Command::Pause => controls.pause(),
            Command::Resume => controls.resume(),
            Command::Save => controls.save(),
            Command::Stop => controls.stop(),
            Command::Shares(shares) => controls.set_shares(mirage::Shares(shares)),
        })?;
        Ok(Self {
            page,
            checked: checked.clone(),
            status: status.clone(),
            title,
            paused: false,
            problems_seen: 0,
            notes_seen: HashSet::new(),
        })
    }

    /// Returns the address of the page, with the token.
    pub(in crate::cli) fn url(&self) -> &str {
        self.page.url()
    }

    /// Shows that the run is over.
    pub(in crate::cli) fn end(mut self, ending: &str, output: &str) {
        self.problems();
        self.page.end(ending, output);
    }

    /// Shows new problems.
    fn problems(&mut self) {
        for problem in self.status.borrow().new_problems(&mut self.problems_seen) {
            self.page.note(&problem);
        }
    }

    fn started(&mut self, started: &Started) {
        let CheckedRun { request, names, .. } = &*self.checked;
        self.page.begin(&Start {
            title: &self.title,
            device: &started.device,
            photo: &request.photo,
            scales: started.scales.iter().map(scale).collect(),
            groups: &groups(&started.groups),
            photo_classes: &named(&started.photo_classes, names),
        });
        self.paused = false;
        for note in self.status.borrow().notes.iter().chain(&started.notes) {
            if self.notes_seen.insert(note.clone()) {
                self.page.note(note);
            }
        }
    }

    fn report(&mut self, report: &mirage::Report) {
        let groups = report.groups().into_iter().map(|group| GroupReport {
            name: group.to_owned(),
            loss: report.group_loss(group),
            loss_share: Some(report.loss_share(group) as f32),
            gradient_share: report.gradient_share(group),
        });
        self.page.report(&crate::web::Report {
            iteration: report.iteration,
            seconds: report.seconds,
            total: report.total,
            groups: groups.collect(),
            classes: named(&report.readout.classes, &self.checked.names),
            class_distance: report.readout.distance,
            change: report.change,
        });
        for warning in &self.status.borrow().warnings {
            self.page.note(warning);
        }
    }

    fn weighted(&self, iteration: u32, shares: &mirage::Shares, weights: &Weights) {
        let measured = weights.0.iter().filter(|weight| weight.norm.is_some());
        let weights: Vec<_> = measured.map(|weight| (weight.group.as_str(), weight.weight)).collect();
        self.page.weights(iteration, &fractions(shares, &weights), &weights);
    }

    fn snapshot(&self, iteration: u32, picture: &Picture, readout: &Readout) {
        let Some(path) = &self.status.borrow().snapshot else { return };
        let classes = named(&readout.classes, &self.checked.names);
        self.page.snapshot(iteration, picture, &path_text(path), &classes);
        self.page.note(&format!("Saved {}", shown(path)));
    }
}

impl Observer for Page {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        self.problems();
        match event {
            Event::Started(started) => self.started(started),
            Event::Scale(started) => self.page.scale(started.index),
            Event::Weighted { iteration, shares, weights } => self.weighted(iteration, shares, weights),
            Event::Progress { iteration, seconds } => self.page.progress(iteration, seconds),
            Event::Report(report) => self.report(report),
            Event::Snapshot { iteration, picture, readout, .. } => self.snapshot(iteration, picture, readout),
            // The last picture, and that of a paused run, are kept for viewers who connect later.
            Event::Picture { iteration, picture, last } => {
                if last || self.paused || self.page.wants_pictures() {
                    self.page.picture(iteration, picture);
                }
            }
            Event::Paused { paused, .. } => {
                self.paused = paused;
                self.page.paused(paused);
            }
            Event::Setback(setback) => self.page.note(&setback.to_string()),
            Event::State(_) => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Returns the groups of an objective for the page. Shares can be set for the groups that have one; in a run with raw
/// weights only, for the groups that compare with a target.
fn groups(present: &[mirage::Group]) -> Vec<Group<'_>> {
    let shares = effective_shares(present);
    let mut listed = Vec::new();
    for group in present {
        let share = shares.iter().find(|(name, _)| *name == group.name).map(|(_, share)| *share);
        let has_target = group.counting().any(|loss| loss.statistic.has_target());
        let adjustable = share.is_some() || (shares.is_empty() && has_target);
        listed.push(Group { name: &group.name, about: about(&group.name), share, adjustable });
    }
    listed
}

/// Describes a group of the preset.
fn about(group: &str) -> &'static str {
    match group {
        SPATIAL => "the photo’s layout",
        ABSTRACT => "what the network sees",
        STYLE => "textures and colours",
        SMOOTH => "smoothness of the picture",
        _ => "",
    }
}

/// Returns the shares of the measured groups as fractions of 1.
fn fractions<'a>(shares: &mirage::Shares, measured: &[(&'a str, f32)]) -> Vec<(&'a str, f32)> {
    let share = |name: &str| shares.get(name).unwrap_or(0.0);
    let sum: f32 = measured.iter().map(|(name, _)| share(name)).sum();
    let fraction = |name| if sum > 0.0 { share(name) / sum } else { 0.0 };
    measured.iter().map(|(name, _)| (*name, fraction(name))).collect()
}

fn scale(scale: &mirage::Scale) -> Scale {
    let mirage::Scale { size: [height, width], first, end, pixels, preparing, .. } = *scale;
    Scale { width, height, first, end, work: pixels, preparing }
}

fn named(classes: &[(usize, f32)], names: &ClassNames) -> Vec<(String, f32)> {
    classes.iter().map(|(index, probability)| (names.name(*index), *probability)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirage::preset::Preset;
    use crate::mirage::{Request, Shares, Strength};

    fn request() -> Request {
        let mut request = Request::new(Picture { width: 1, height: 1, rgb: vec![0.5; 3] });
        request.adjustable = true;
        request
    }

    fn adjustable<'a>(groups: &[Group<'a>]) -> Vec<&'a str> {
        groups.iter().filter(|group| group.adjustable).map(|group| group.name).collect()
    }

    #[test]
    fn page_shows_effective_shares_of_active_groups() {
        let mut request = request();
        // A group without losses takes no part.
        request.groups[1].losses.clear();
        request.groups[0].strength = Strength::Share(10.0);
        request.groups[2].strength = Strength::Share(40.0);
        let present = request.present();
        let shown = groups(&present);
        assert_eq!(adjustable(&shown), [SPATIAL, STYLE]);
        let shares: Vec<_> = shown.iter().map(|group| (group.name, group.share)).collect();
        assert_eq!(shares, [(SPATIAL, Some(0.2)), (STYLE, Some(0.8)), (SMOOTH, None)]);
        let measured = [(SPATIAL, 3.0), (STYLE, 7.0)];
        assert_eq!(fractions(&Shares::of(&present), &measured), effective_shares(&present));
    }

    #[test]
    fn groups_with_given_weights_and_targets_are_adjustable() {
        let mut request = request();
        for group in &mut request.groups {
            group.strength = Strength::Weight(2.0);
        }
        request.groups[2].strength = Strength::Weight(0.0);
        let present = request.present();
        let shown = groups(&present);
        assert_eq!(adjustable(&shown), [SPATIAL, ABSTRACT]);
        assert!(shown.iter().all(|group| group.share.is_none()));
    }

    #[test]
    fn groups_with_any_name_are_shown() {
        let mut request = request();
        let mut more = Preset::default().groups().swap_remove(2);
        more.name = "brush strokes".into();
        more.strength = Strength::Share(100.0);
        request.groups.push(more);
        let present = request.present();
        let shown = groups(&present);
        assert_eq!(adjustable(&shown), [SPATIAL, ABSTRACT, STYLE, "brush strokes"]);
        assert_eq!(shown[4].share, Some(0.5));
    }
}
