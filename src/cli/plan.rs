//! From arguments to a run that can start: every check that needs no device, the cheap ones first.

use super::args::{RenderArgs, Start, WatchingArgs};
use super::files::{Files, load, load_start};
use super::log::Log;
use super::names::Names;
use super::own::Own;
use super::record::Options;
use super::{film, layers};
use crate::error::{Error, Result};
use crate::image_io::{self, Picture};
use crate::mirage::{self, AdamOptions, Factor, FactorKind, Init, Request, Schedule};
use crate::vgg::Network;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A checked run.
#[derive(Debug)]
pub(super) struct Plan {
    pub request: Request,
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
        let mut request = request(args)?;
        let mut notes = Vec::new();
        let late: Vec<String> = request
            .schedule
            .snapshot_at
            .iter()
            .filter(|at| **at > request.iterations)
            .map(u32::to_string)
            .collect();
        if !late.is_empty() {
            notes.push(format!(
                "no snapshot after iteration {}: the run ends after {}, see --iterations",
                late.join(", "),
                request.iterations
            ));
        }

        pictures(args, &mut request, &mut notes)?;
        let files = Files::new(&args.files, &args.photo, request.iterations, own);
        if checks_places {
            places(args, &request.schedule, &files)?;
        }

        let (network, fresh) = open()?;
        let names = Names::of(&network, args.network.labels.as_deref())?;
        notes.extend(layers::adapt(&mut request, &network, |kind| match kind {
            FactorKind::Spatial => args.factors.spatial.is_none(),
            FactorKind::Abstract => args.factors.r#abstract.is_none(),
            FactorKind::Style => args.factors.style.is_none(),
            FactorKind::Smooth => false,
        }));
        mirage::check_request(&network, &request)?;
        // A factor that pulls with weight 0 counts for nothing, but a misspelt layer is told all the same.
        let factors = FactorKind::THREE.iter().filter_map(|kind| request.factor(*kind));
        for layer in factors.flat_map(|factor| &factor.layers) {
            network.index_of(&layer.layer)?;
        }
        if fresh {
            network.check_finite()?;
        }

        let options = Options::new(args, &request, &network, &files.output);
        Ok(Self { request, network, names, files, options, notes })
    }
}

/// The request but for its pictures, with all numbers checked.
fn request(args: &RenderArgs) -> Result<Request> {
    let blank = Picture { width: 1, height: 1, rgb: vec![0.5; 3] };
    let mut request = Request::new(blank.clone());

    let factors = &args.factors;
    let weights = &args.balance;
    let parts = [
        (&mut request.spatial, &factors.spatial, weights.spatial_weight),
        (&mut request.abstracted, &factors.r#abstract, weights.abstract_weight),
        (&mut request.style, &factors.style, weights.style_weight),
    ];
    let mut raw = false;
    for (factor, layers, weight) in parts {
        raw |= weight.is_some();
        factor.weight = weight.unwrap_or(factor.weight);
        if let Some(layers) = layers {
            *factor = Factor::new(layers, factor.weight)?;
        }
    }
    request.balance = if raw { None } else { weights.balance.or(request.balance) };
    request.tv_weight = weights.tv_weight;
    request.rebalance_every = weights.rebalance_every;

    let (images, blends) = (&factors.style_image, &factors.style_blend);
    if !blends.is_empty() && blends.len() != images.len() {
        return Err(Error::usage(format!(
            "--style-blend has {} numbers for {} style images: give one for each",
            blends.len(),
            images.len()
        )));
    }
    let blend = |index: usize| blends.get(index).copied().unwrap_or(1.0);
    request.style_images = (0..images.len()).map(|index| (blank.clone(), blend(index))).collect();

    let optimisation = &args.optimisation;
    request.pooling = args.network.pooling.kind();
    request.seed = optimisation.seed;
    request.iterations = optimisation.iterations;
    request.adam = AdamOptions {
        learning_rate: optimisation.learning_rate,
        beta1: optimisation.beta1,
        beta2: optimisation.beta2,
        epsilon: optimisation.epsilon,
    };
    request.clamp = optimisation.clamps();
    request.stop_when_change_below = optimisation.stop_when_change_below;
    request.schedule = schedule(&args.watching, request.iterations);
    request.adjustable = args.watching.web.is_some();
    request.top_classes = args.watching.top;
    request.check()?;
    Ok(request)
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

/// Reads the pictures that the request lacks.
fn pictures(args: &RenderArgs, request: &mut Request, notes: &mut Vec<String>) -> Result<()> {
    let longest = args.files.size as usize;
    request.photo = load(&args.photo, longest, notes)?;
    for (path, (picture, _)) in args.factors.style_image.iter().zip(&mut request.style_images) {
        *picture = load(path, longest, notes)?;
    }
    request.init = match &args.optimisation.init {
        Start::Noise => Init::Noise,
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
    inputs.extend(args.factors.style_image.iter().cloned());
    if let Start::File(path) = &args.optimisation.init {
        inputs.push(path.clone());
    }
    inputs.extend(args.network.labels.clone());
    inputs
}

/// Makes sure that everything can be written, and that nothing is lost by it.
fn places(args: &RenderArgs, schedule: &Schedule, files: &Files) -> Result<()> {
    let pictures = inputs(args);
    let mut inputs: Vec<&Path> = pictures.iter().map(AsRef::as_ref).collect();
    inputs.extend(args.network.weights.as_deref());
    let last = args.optimisation.iterations;
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
