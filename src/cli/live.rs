//! `--web`: the live page of a run. It shows the run's events and sends commands back.

use super::args::WatchingArgs;
use super::names::Names;
use super::plan::Plan;
use crate::error::Result;
use crate::image_io::Picture;
use crate::mirage::preset::{ABSTRACT, SMOOTH, SPATIAL, STYLE};
use crate::mirage::{self, Controls, Readout, Report, ScaleStarted, Started, Weights, effective_shares};
use crate::web::{Command, Group, GroupReport, LivePage, Options, Scale, Start};
use std::path::Path;

/// The page of a run; without `--web` there is none, and all of this does nothing.
#[derive(Debug)]
pub(super) struct Live {
    page: Option<LivePage>,
    /// True while the run is paused.
    paused: bool,
}

impl Live {
    /// Opens the page if it is wanted. Its viewers' commands go to the controls.
    ///
    /// # Errors
    /// If the port can't be listened on.
    pub(super) fn open(args: &WatchingArgs, controls: &Controls) -> Result<Self> {
        let open = |port| {
            let controls = controls.clone();
            LivePage::open(&Options { host: args.web_host, port }, move |command| match command {
                Command::Pause => controls.pause(),
                Command::Resume => controls.resume(),
                Command::Save => controls.save(),
                Command::Stop => controls.stop(),
                Command::Shares(shares) => controls.set_shares(mirage::Shares(shares)),
            })
        };
        Ok(Self { page: args.web.map(open).transpose()?, paused: false })
    }

    /// Address of the page, with the token.
    pub(super) fn url(&self) -> Option<&str> {
        self.page.as_ref().map(LivePage::url)
    }

    /// The run starts.
    pub(super) fn begin(&self, plan: &Plan, photo: &Path, started: &Started) {
        let Some(page) = &self.page else { return };
        let present = plan.request.present();
        let title = photo.file_name().unwrap_or_default().to_string_lossy();
        page.begin(&Start {
            title: &title,
            device: &started.device,
            photo: &plan.request.photo,
            scales: started.scales.iter().map(scale).collect(),
            groups: &groups(&present),
            photo_classes: &named(&started.photo_classes, &plan.names),
        });
        for note in plan.notes.iter().chain(&started.notes) {
            page.note(note);
        }
    }

    /// A scale begins.
    pub(super) fn scale(&self, started: &ScaleStarted) {
        if let Some(page) = &self.page {
            page.scale(started.index);
        }
    }

    pub(super) fn report(&self, report: &Report, names: &Names) {
        let Some(page) = &self.page else { return };
        let groups = report.groups().into_iter().map(|group| GroupReport {
            name: group.to_owned(),
            loss: report.group_loss(group),
            loss_share: Some(report.loss_share(group) as f32),
            gradient_share: report.gradient_share(group),
        });
        page.report(&crate::web::Report {
            iteration: report.iteration,
            seconds: report.seconds,
            total: report.total,
            groups: groups.collect(),
            classes: named(&report.readout.classes, names),
            class_distance: report.readout.distance,
            change: report.change,
        });
    }

    pub(super) fn weighted(&self, iteration: u32, shares: &mirage::Shares, weights: &Weights) {
        let Some(page) = &self.page else { return };
        let measured = weights.0.iter().filter(|weight| weight.norm.is_some());
        let weights: Vec<_> = measured.map(|weight| (weight.group.as_str(), weight.weight)).collect();
        page.weights(iteration, &fractions(shares, &weights), &weights);
    }

    pub(super) fn progress(&self, iteration: u32, seconds: f64) {
        if let Some(page) = &self.page {
            page.progress(iteration, seconds);
        }
    }

    /// Shows a picture if a viewer is ready for it. The last one, and that of a paused run, are shown in any case, also
    /// to viewers who connect later.
    pub(super) fn picture(&self, iteration: u32, picture: &Picture, last: bool) {
        if let Some(page) = &self.page
            && (last || self.paused || page.wants_pictures())
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
        self.paused = paused;
        if let Some(page) = &self.page {
            page.paused(paused);
        }
    }

    pub(super) fn warn(&self, text: &str) {
        if let Some(page) = &self.page {
            page.note(text);
        }
    }

    /// The run is over.
    pub(super) fn end(&mut self, ending: &str, output: &str) {
        if let Some(page) = self.page.take() {
            page.end(ending, output);
        }
    }
}

/// The groups of an objective for the page. Shares can be set for those that have one; in a run with given weights only,
/// for those that compare with a target.
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

/// What a group of the preset is about.
fn about(group: &str) -> &'static str {
    match group {
        SPATIAL => "the photo’s layout",
        ABSTRACT => "what the network sees",
        STYLE => "textures and colours",
        SMOOTH => "smoothness of the picture",
        _ => "",
    }
}

/// The shares of the groups that were measured, as fractions of 1. A group without losses may have a share too, which
/// counts for nothing.
fn fractions<'a>(shares: &mirage::Shares, measured: &[(&'a str, f32)]) -> Vec<(&'a str, f32)> {
    let share = |name: &str| shares.get(name).unwrap_or(0.0);
    let sum: f32 = measured.iter().map(|(name, _)| share(name)).sum();
    let fraction = |name| if sum > 0.0 { share(name) / sum } else { 0.0 };
    measured.iter().map(|(name, _)| (*name, fraction(name))).collect()
}

fn scale(scale: &mirage::Scale) -> Scale {
    let [height, width] = scale.size;
    Scale { width, height, first: scale.first, end: scale.end }
}

fn named(classes: &[(usize, f32)], names: &Names) -> Vec<(String, f32)> {
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
    fn the_page_shows_the_effective_shares_of_the_groups_that_take_part() {
        let mut request = request();
        // A group without losses keeps its share, which counts for nothing.
        request.groups[1].losses.clear();
        request.groups[0].strength = Strength::Share(10.0);
        request.groups[2].strength = Strength::Share(40.0);
        let present = request.present();
        let shown = groups(&present);
        assert_eq!(adjustable(&shown), [SPATIAL, STYLE]);
        let shares: Vec<_> = shown.iter().map(|group| (group.name, group.share)).collect();
        assert_eq!(shares, [(SPATIAL, Some(0.2)), (STYLE, Some(0.8)), (SMOOTH, None)]);
        let measured = [(SPATIAL, 3.0), (STYLE, 7.0)];
        assert_eq!(fractions(&Shares::of(&request.groups), &measured), effective_shares(&present));
    }

    #[test]
    fn given_weights_can_be_replaced_by_shares_where_there_is_a_target() {
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
    fn groups_of_any_name_are_shown() {
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
