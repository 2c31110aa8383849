//! From arguments to a run that can start: every check that needs no device, the cheap ones first.

use super::args::{FactorArgs, RenderArgs, WatchingArgs};
use super::files::{Files, load, load_start};
use super::log::Log;
use super::names::Names;
use super::own::Own;
use super::record::Options;
use super::values::Start;
use super::{film, layers};
use crate::error::{Error, Result};
use crate::image_io::{self, Picture};
use crate::mirage::optimizer::{self, Settings};
use crate::mirage::preset::{self, FACTORS, Preset};
use crate::mirage::statistic;
use crate::mirage::{self, Init, Request, Schedule, Strength, Target, not_negative};
use crate::vgg::Network;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A checked run.
#[derive(Debug)]
pub(super) struct Plan {
    pub request: Request,
    /// Iterations of the whole run.
    pub iterations: u32,
    pub network: Arc<Network>,
    pub names: Names,
    pub files: Files,
    pub options: Options,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl Plan {
    /// Checks arguments, then pictures, then places to write, then the network. `own` is the run that goes on, if one
    /// does.
    ///
    /// # Errors
    /// The first thing that is wrong, in words that name the remedy.
    pub(super) fn new(args: &RenderArgs, own: Option<Own>) -> Result<Self> {
        let open = || args.network.open().map(|network| (Arc::new(network), true));
        Self::with(args, true, own, open)
    }

    /// The same with a network that somebody opens, who says whether its values are still to be checked; and with the
    /// places to write at unchecked, if they are somebody else's care.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(super) fn with(
        args: &RenderArgs,
        checks_places: bool,
        own: Option<Own>,
        open: impl FnOnce() -> Result<(Arc<Network>, bool)>,
    ) -> Result<Self> {
        let (mut request, mut preset) = request(args)?;
        let mut notes = Vec::new();
        pictures(args, &mut request, &mut preset, &mut notes)?;
        // The network may leave out the smallest scales, so these are the most iterations that there can be.
        let most = request.scales.plan(request.size(), 1)?.last().map_or(0, |scale| scale.end);
        let files = Files::new(&args.files, &args.photo, most, own);
        if checks_places {
            places(args, &schedule(&args.watching, most), most, &files)?;
        }
        let (network, fresh) = open()?;
        let names = Names::of(&network, args.network.labels.as_deref())?;
        if let Some(list) = &args.factors.classes {
            preset.show_classes(&network, names.parse_classes(list)?)?;
        }
        notes.extend(layers::adapt(&mut preset, &network, |name| match name {
            preset::SPATIAL => args.factors.spatial.is_none(),
            preset::ABSTRACT => args.factors.r#abstract.is_none() && args.factors.classes.is_none(),
            preset::STYLE => args.factors.style.is_none(),
            _ => false,
        }));
        request.groups = preset.groups();
        preset.check(&network)?;
        mirage::check_request(&network, &request)?;
        let last = request.plan(&network)?.last().map_or(0, |scale| scale.end);
        request.schedule = schedule(&args.watching, last);
        let late: Vec<String> =
            request.schedule.snapshot_at.iter().filter(|at| **at > last).map(u32::to_string).collect();
        if !late.is_empty() {
            notes.push(format!(
                "no snapshot after iteration {}: the run ends after {last}, see --iterations",
                late.join(", ")
            ));
        }
        if fresh {
            network.check_finite()?;
        }

        let options = Options::new(args, &request, &preset, &network, &files.output)?;
        Ok(Self { request, iterations: last, network, names, files, options, notes })
    }
}

impl Plan {
    /// A picture of one of the run's scales at the size of the last, as all that is written has it.
    ///
    /// # Errors
    /// If it can't be resized.
    pub(super) fn at_full_size<'a>(&self, picture: &'a Picture) -> Result<Cow<'a, Picture>> {
        let Picture { width, height, .. } = self.request.photo;
        if (picture.width, picture.height) == (width, height) {
            return Ok(Cow::Borrowed(picture));
        }
        image_io::resize(picture, width, height).map(Cow::Owned)
    }
}

/// The request but for its pictures, and the preset that its objective is made by, with all numbers checked.
fn request(args: &RenderArgs) -> Result<(Request, Preset)> {
    let blank = Picture { width: 1, height: 1, rgb: vec![0.5; 3] };
    let mut request = Request::new(blank.clone());
    let preset = preset(args, &blank)?;
    request.groups = preset.groups();
    request.rebalance_every = args.balance.rebalance_every;

    let optimisation = &args.optimisation;
    request.pooling = args.optimisation.pooling.pooling();
    request.seed = optimisation.seed;
    request.scales = optimisation.scales();
    request.average_decay = optimisation.average_decay;
    request.border = args.optimisation.border.kind();
    let settings = Settings {
        learning_rate: optimisation.learning_rate,
        decay: Some(optimisation.learning_rate_decay),
        beta1: Some(optimisation.beta1),
        beta2: Some(optimisation.beta2),
        epsilon: Some(optimisation.epsilon),
        history: Some(optimisation.history as usize),
        clamp: optimisation.clamps(),
    };
    request.optimizer = optimizer::by_name(&optimisation.optimizer, &settings)?;
    request.stop_when_change_below = optimisation.stop_when_change_below;
    request.adjustable = args.watching.web.is_some();
    request.top_classes = args.watching.top;
    request.check()?;
    Ok((request, preset))
}

/// The factors as the options state them; style images are `blank` for now.
fn preset(args: &RenderArgs, blank: &Picture) -> Result<Preset> {
    let styled = !args.factors.style_image.is_empty();
    let mut preset = if styled { Preset::of_style_images() } else { Preset::default() };
    let (factors, balance) = (&args.factors, &args.balance);
    let layers = [&factors.spatial, &factors.r#abstract, &factors.style];
    let weights = [balance.spatial_weight, balance.abstract_weight, balance.style_weight];
    let raw = weights.iter().any(Option::is_some);
    for ((name, layers), weight) in FACTORS.into_iter().zip(layers).zip(weights) {
        let Some(factor) = preset.factor_mut(name) else { continue };
        if let Some(layers) = layers {
            factor.layers = preset::layers(layers)?;
        }
        if raw {
            let weight = weight.unwrap_or(1.0);
            not_negative(&format!("--{name}-weight"), weight)?;
            factor.strength = Strength::Weight(weight);
        }
    }
    if let Some(shares) = &balance.balance {
        let mut groups = preset.groups();
        shares.apply(&mut groups)?;
        for group in groups {
            if let Some(factor) = preset.factor_mut(&group.name) {
                factor.strength = group.strength;
            } else if let Strength::Share(_) = group.strength {
                return Err(Error::usage(format!("{} has no share: give --tv-weight", group.name)));
            }
        }
    }
    not_negative("--tv-weight", balance.tv_weight)?;
    preset.smooth_weight = balance.tv_weight;
    preset.smooth = balance.tv_kind.statistic();
    preset.style.statistic = statistic::by_name(&factors.style_statistic)?;

    let (images, blends) = (&factors.style_image, &factors.style_blend);
    if !blends.is_empty() && blends.len() != images.len() {
        return Err(Error::usage(format!(
            "--style-blend has {} numbers for {} style images: give one for each",
            blends.len(),
            images.len()
        )));
    }
    for (name, images) in images_of(args) {
        let Some(factor) = preset.factor_mut(name).filter(|_| !images.is_empty()) else { continue };
        let blend = |index: usize| if name == preset::STYLE { blends.get(index).copied() } else { None };
        let images = (0..images.len()).map(|at| (blank.clone(), blend(at).unwrap_or(1.0)));
        factor.target = Target::Images(images.collect());
    }
    Ok(preset)
}

/// When what is due.
fn schedule(args: &WatchingArgs, iterations: u32) -> Schedule {
    let mut snapshot_at = args.save_at.clone();
    if args.save_early {
        snapshot_at.extend(early().take_while(|at| *at < iterations));
    }
    Schedule {
        report_every: args.print_every,
        snapshot_every: args.save_every,
        snapshot_at,
        picture_every: u32::from(args.web.is_some()),
        picture_at: args.film.as_ref().map(|_| film::frames(iterations)).unwrap_or_default(),
        state_every: args.checkpoint_every,
        state_when_stopped: true,
    }
}

/// The iterations of `--save-early`: each a sum of the two before, as the picture changes ever more slowly.
fn early() -> impl Iterator<Item = u32> {
    std::iter::successors(Some((1, 2)), |(one, two): &(u32, u32)| Some((*two, one.checked_add(*two)?)))
        .map(|(one, _)| one)
}

/// The images that each factor follows in place of the photo.
fn images_of(args: &RenderArgs) -> [(&'static str, &[PathBuf]); 3] {
    let FactorArgs { spatial_image, abstract_image, style_image, .. } = &args.factors;
    [(preset::SPATIAL, spatial_image), (preset::ABSTRACT, abstract_image), (preset::STYLE, style_image)]
}

/// Reads the pictures that the request lacks.
fn pictures(
    args: &RenderArgs,
    request: &mut Request,
    preset: &mut Preset,
    notes: &mut Vec<String>,
) -> Result<()> {
    let longest = args.files.size as usize;
    request.photo = load(&args.photo, longest, notes)?;
    for (name, paths) in images_of(args) {
        let Some(factor) = preset.factor_mut(name) else { continue };
        if let Target::Images(images) = &factor.target {
            let load =
                |(path, (_, blend)): (&PathBuf, &(Picture, f32))| Ok((load(path, longest, notes)?, *blend));
            let images = paths.iter().zip(images.as_ref()).map(load).collect::<Result<Vec<_>>>()?;
            factor.target = Target::Images(images.into());
        }
    }
    request.init = match &args.optimisation.init {
        Start::Noise => Init::Noise,
        Start::Blur => Init::Blur,
        Start::Photo => Init::Photo,
        Start::Gray => Init::Gray,
        Start::File(path) => {
            let (width, height) = (request.photo.width, request.photo.height);
            Init::Picture(load_start(path, width, height, notes)?)
        }
    };
    Ok(())
}

/// The files that a run reads, but for the network.
pub(super) fn inputs(args: &RenderArgs) -> Vec<PathBuf> {
    let mut inputs = vec![args.photo.clone()];
    inputs.extend(images_of(args).into_iter().flat_map(|(_, images)| images.iter().cloned()));
    if let Start::File(path) = &args.optimisation.init {
        inputs.push(path.clone());
    }
    inputs.extend(args.network.labels.clone());
    inputs
}

/// Makes sure that everything can be written, and that nothing is lost by it.
fn places(args: &RenderArgs, schedule: &Schedule, last: u32, files: &Files) -> Result<()> {
    let pictures = inputs(args);
    let mut inputs: Vec<&Path> = pictures.iter().map(AsRef::as_ref).collect();
    inputs.extend(args.network.weights.as_deref());
    files.check(|iteration| iteration <= last && schedule.snapshots(iteration), &inputs)?;
    inputs.push(&files.output);
    Log::check(args.watching.log.as_deref(), args.files.overwrite, &inputs)?;
    if let Some(film) = &args.watching.film {
        inputs.extend(args.watching.log.as_deref());
        Log::check_place(film, "the film", "--film", args.files.overwrite, &inputs)?;
        image_io::check_film(film, args.files.overwrite)?;
        inputs.push(film);
    }
    if let Some(trace) = &args.watching.trace {
        inputs.extend(args.watching.log.as_deref());
        Log::check_place(trace, "the trace", "--trace", args.files.overwrite, &inputs)?;
    }
    Ok(())
}
