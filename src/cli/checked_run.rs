//! Turns arguments into a run that can start: does all checks that need no device, the cheap ones first.

use super::args::RenderArgs;
use super::class_names::ClassNames;
use super::default_layers;
use super::files::disk::Reservation;
use super::files::inputs::{self, Inputs, Unread, images_of};
use super::files::output_checks;
use super::files::run_files::{Files, Loaded, load, load_start, reading};
use super::output::escape::{one_line, shown};
use super::record::resolved_options::RecordedOptions;
use super::schedule::schedule;
use super::values::{AlphaArg, StartPicture};
use crate::error::{Error, Result};
use crate::image_io::{self, Alpha, Picture};
use crate::mirage::optimizer::{self, Settings};
use crate::mirage::preset::{self, FACTORS, Preset};
use crate::mirage::{
    self, Activations, Init, Request, Scale, Strength, Target, not_negative, statistic, work,
};
use crate::shader;
use crate::vgg::Network;
use crate::vgg::locate::{self, Location};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

/// A run that passed all checks and can start.
#[derive(Debug)]
pub(super) struct CheckedRun {
    pub request: Request,
    /// Number of iterations of the whole run.
    pub iterations: u32,
    /// Scales of the run, from the smallest.
    pub scales: Vec<Scale>,
    pub network: Arc<Network>,
    pub names: ClassNames,
    pub files: Files,
    pub options: RecordedOptions,
    /// Files that were read, with their hashes.
    pub inputs: Inputs,
    /// Notes for the user.
    pub notes: Vec<String>,
    /// Width and height in the photo's file.
    pub photo_stored: (usize, usize),
    /// Peak memory of reading the pictures, in bytes.
    pub reading: u64,
    /// Names reserved against other runs until this one ends.
    _reservations: Vec<Reservation>,
}

/// What is known of a run that writes files.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Writes<'a> {
    /// Identifier of the run. Files that carry it may be replaced.
    pub run: &'a str,
    /// Files that the run reads, besides those named by its options.
    pub reads: &'a [PathBuf],
    /// Number of iterations that a resumed run has done.
    pub first: u32,
}

impl CheckedRun {
    /// Checks arguments, then pictures, then output paths, then the network.
    ///
    /// # Errors
    /// The first problem, with its remedy.
    pub(super) fn new(args: &RenderArgs, writes: Writes<'_>) -> Result<Self> {
        let open = || args.network.open().map(|network| (Arc::new(network), true));
        Self::with(args, Some(writes), open)
    }

    /// Like [`CheckedRun::new`], with a network from `open`, which also returns whether the network's values still need
    /// to be checked. Output paths are checked only if the run `writes` files.
    ///
    /// # Errors
    /// See [`CheckedRun::new`].
    pub(super) fn with(
        args: &RenderArgs,
        writes: Option<Writes<'_>>,
        open: impl FnOnce() -> Result<(Arc<Network>, bool)>,
    ) -> Result<Self> {
        let (mut request, mut preset) = request(args)?;
        let unread = Unread::of(args);
        let mut notes = Vec::new();
        let Pictures { alpha, photo_stored, reading } =
            pictures(args, &mut request, &mut preset, &mut notes)?;
        // An upper bound: the network may rule out the smallest scales.
        let most = request.scales.plan(request.size(), 1)?.last().map_or(0, |scale| scale.end);
        let Writes { run, reads, first } = writes.unwrap_or_default();
        let files = Files::new(&args.files, &args.photo, alpha, most, run, all_read(args, reads));
        let mut reservations = Vec::new();
        if writes.is_some() {
            let schedule = schedule(&args.watching, most);
            let places = output_checks::check(args, &request, &schedule, [first, most], &files)?;
            notes.extend(places.notes);
            reservations = places.reservations;
        }
        let (network, fresh) = open()?;
        let names = ClassNames::of(&network, args.class_names.labels.as_deref())?;
        if let Some(list) = &args.factors.classes {
            preset.show_classes(&network, names.parse_classes(list)?)?;
        }
        notes.extend(default_layers::adapt(&mut preset, &network, |name| match name {
            preset::SPATIAL => args.factors.spatial.is_none(),
            preset::ABSTRACT => args.factors.r#abstract.is_none() && args.factors.classes.is_none(),
            preset::STYLE => args.factors.style.is_none(),
            _ => false,
        }));
        request.groups = preset.groups();
        preset.check(&network)?;
        mirage::check_request(&network, &request)?;
        let scales = request.plan(&network)?;
        let last = scales.last().map_or(0, |scale| scale.end);
        mirage::check_done(first, last)?;
        request.schedule = schedule(&args.watching, last);
        let late: Vec<String> =
            request.schedule.snapshot_at.iter().filter(|at| **at > last).map(u32::to_string).collect();
        if !late.is_empty() {
            notes.push(format!(
                "no snapshot after iteration {}: the run ends after {last} (--iterations)",
                late.join(", ")
            ));
        }
        if fresh {
            network.check_finite()?;
        }

        let inputs = unread.read()?;
        let options = RecordedOptions::new(args, &request, &preset, &network, &files.output)?;
        Ok(Self {
            request,
            iterations: last,
            scales,
            network,
            names,
            files,
            options,
            inputs,
            notes,
            photo_stored,
            reading,
            _reservations: reservations,
        })
    }
}

impl CheckedRun {
    /// Returns the work of all iterations; see [`work`].
    pub(super) fn work(&self) -> u64 {
        work(&self.scales, u32::MAX)
    }

    /// Resizes a picture of one of the run's scales to the size of the last scale, which all saved pictures have.
    ///
    /// # Errors
    /// If the picture can't be resized.
    pub(super) fn at_full_size<'a>(&self, picture: &'a Picture) -> Result<Cow<'a, Picture>> {
        let Picture { width, height, .. } = *self.request.photo;
        if (picture.width, picture.height) == (width, height) {
            return Ok(Cow::Borrowed(picture));
        }
        image_io::resize(picture, width, height).map(Cow::Owned)
    }
}

/// Builds the request without its pictures, and the preset of its objective, and checks all numbers.
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
    let styled = !args.factors.style_image.is_empty();
    request.grain = optimisation.grain.unwrap_or(if styled { 0.0 } else { request.grain });
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
    request.activations = Activations {
        recompute: args.computing.checkpoint_activations,
        half: args.computing.half_activations,
    };
    request.tiling = args.computing.tile.0;
    request.check()?;
    Ok((request, preset))
}

/// Returns the preset before any option is applied, with or without style images.
pub(super) fn default_preset(styled: bool) -> Preset {
    if styled { Preset::of_style_images() } else { Preset::default() }
}

/// Builds the preset from the options, with `blank` in place of all images.
fn preset(args: &RenderArgs, blank: &Picture) -> Result<Preset> {
    let mut preset = default_preset(!args.factors.style_image.is_empty());
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
        let refused = |error| Error::usage(format!("--balance {}: {error}", one_line(&shares.to_string())));
        shares.apply(&mut groups).map_err(refused)?;
        for group in groups {
            if let Some(factor) = preset.factor_mut(&group.name) {
                factor.strength = group.strength;
            } else if let Strength::Share(_) = group.strength {
                return Err(Error::usage(format!(
                    "--balance sets no share of {}: use --tv-weight",
                    group.name
                )));
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

/// Properties of the pictures that were read.
struct Pictures {
    /// The photo's alpha.
    alpha: Option<Alpha>,
    /// Width and height in the photo's file.
    photo_stored: (usize, usize),
    /// Peak memory of reading them, in bytes.
    reading: u64,
}

/// Reads the pictures into the request and the preset.
fn pictures(
    args: &RenderArgs,
    request: &mut Request,
    preset: &mut Preset,
    notes: &mut Vec<String>,
) -> Result<Pictures> {
    let kept = args.files.alpha;
    let options = reading(args.files.size.pixels()? as usize, kept);
    let Loaded { picture, alpha, stored: photo_stored, memory: mut most } =
        load(&args.photo, &options, notes)?;
    let mut held = picture.rgb.len() as u64 * 4;
    request.photo = Arc::new(picture);
    if kept == AlphaArg::Keep && alpha.is_none() {
        notes.push(format!("{} is opaque everywhere: there is no transparency to keep", shown(&args.photo)));
    }
    let size = (request.photo.width, request.photo.height);
    for (name, paths) in images_of(args) {
        let Some(factor) = preset.factor_mut(name) else { continue };
        if let Target::Images(images) = &factor.target {
            let load = |(path, (_, blend)): (&PathBuf, &(Picture, f32))| {
                let Loaded { mut picture, memory, .. } = load(path, &options, notes)?;
                // Layouts are compared position by position.
                if name == preset::SPATIAL && (picture.width, picture.height) != size {
                    let shape = format!("{}x{} to {}x{}", picture.width, picture.height, size.0, size.1);
                    notes.push(format!("{}: resized from {shape}, the photo's shape", shown(path)));
                    picture = image_io::resize(&picture, size.0, size.1)?;
                }
                most = most.max(held + memory);
                held += picture.rgb.len() as u64 * 4;
                Ok((picture, *blend))
            };
            let images = paths.iter().zip(images.as_ref()).map(load).collect::<Result<Vec<_>>>()?;
            factor.target = Target::Images(images.into());
        }
    }
    request.init = match &args.optimisation.init {
        StartPicture::Noise => Init::Noise,
        StartPicture::Blur => Init::Blur,
        StartPicture::Photo => Init::Photo,
        StartPicture::Gray => Init::Gray,
        StartPicture::File(path) => Init::Picture(Arc::new(load_start(path, size, kept, notes)?)),
    };
    Ok(Pictures { alpha, photo_stored, reading: most })
}

/// Returns all files that a run reads: those named by its options, the network, the tuning cache and shaders.
fn all_read(args: &RenderArgs, more: &[PathBuf]) -> Vec<PathBuf> {
    let mut read = inputs::files(args);
    read.extend(more.iter().cloned());
    // Problems with the network are reported when it is opened.
    if let Ok(Location::File(path)) = locate::find_weights(args.network.weights.as_deref()) {
        read.push(path);
    }
    read.extend(args.device.tuning.path());
    read.extend(shader::files());
    read
}
