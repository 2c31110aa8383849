//! `--size auto` and `--tile auto`: the numbers with which a run keeps within the memory that it may take.

use super::forecast::{Budgets, FIRST_SIZES, largest_fitting};
use crate::cli::args::RenderArgs;
use crate::cli::checked_run::CheckedRun;
use crate::cli::output::format::bytes;
use crate::cli::values::{SizeArg, TileArg};
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::mirage::MemoryPlan;
use crate::mirage::Request;
use crate::mirage::Tiling;
use crate::vgg::Network;
use std::borrow::Cow;
use std::sync::Arc;

/// The arguments with their size, and with the side of their tiles if the whole picture takes too much memory, as they
/// are recorded: a run that is resumed computes the same, whatever memory is free then. With a note on the tiles.
///
/// # Errors
/// [`Error::Usage`] if no size fits or the system does not report what is free; else as for a run.
pub(in crate::cli) fn fitted(args: &RenderArgs) -> Result<(Cow<'_, RenderArgs>, Option<String>)> {
    let is_sized = args.files.size == SizeArg::Auto;
    let is_tiled = args.computing.tile.0 == Tiling::Auto;
    if !is_sized && !is_tiled {
        return Ok((Cow::Borrowed(args), None));
    }
    let checked = if is_sized { check_at_any_size(args) } else { check(args) }?;
    let (engine, _) = args.device.open()?;
    let budgets = Budgets::of(&engine, args.files.memory.map(|memory| memory.0));
    let (mut args, mut request, mut note) = (args.clone(), Cow::Borrowed(&checked.request), None);
    if is_sized {
        let size = size(&engine, &checked, &budgets)?;
        args.files.size = SizeArg::Pixels(size);
        request = Cow::Owned(request.at_size(size as usize));
    }
    if is_tiled {
        let (tiling, reason) = tiling(&engine, &checked.network, &request, &budgets)?;
        args.computing.tile = TileArg(tiling);
        note = reason;
    }
    Ok((Cow::Owned(args), note))
}

fn check(args: &RenderArgs) -> Result<CheckedRun> {
    CheckedRun::with(args, None, None, || args.network.open().map(|network| (Arc::new(network), false)))
}

/// At the first of a few sizes that the network's layers take: a panorama may be too low.
fn check_at_any_size(args: &RenderArgs) -> Result<CheckedRun> {
    let mut args = args.clone();
    let mut check_at = |size: u32| {
        args.files.size = SizeArg::Pixels(size);
        check(&args)
    };
    let mut found = check_at(FIRST_SIZES[0]);
    for size in &FIRST_SIZES[1..] {
        if matches!(found, Err(Error::Usage(_))) {
            found = check_at(*size);
        }
    }
    found
}

/// The largest size that fits.
fn size(engine: &Engine, checked: &CheckedRun, budgets: &Budgets) -> Result<u32> {
    if *budgets == (Budgets { device: None, host: None }) {
        return Err(Error::usage(
            "--size auto: this system doesn't say how much memory is free. State with --memory how much the run may take",
        ));
    }
    let (width, height) = checked.photo_stored;
    let most = width.max(height) as u32;
    let [planned_height, planned_width] = checked.request.size();
    let first = planned_width.max(planned_height) as u32;
    let largest = largest_fitting(engine, &checked.network, &checked.request, budgets, [first, most])?;
    largest.ok_or_else(|| Error::usage("--size auto: no size fits into the memory that the run may take"))
}

/// The whole picture if it fits, else the largest tiles that do, with the reason. If no tiles fit, nothing is chosen: the run
/// is then refused, with the sizes.
fn tiling(
    engine: &Engine,
    network: &Arc<Network>,
    request: &Request,
    budgets: &Budgets,
) -> Result<(Tiling, Option<String>)> {
    let needed = |tiling: Tiling| {
        match MemoryPlan::new(engine, network, &Request { tiling, ..request.clone() }) {
            Ok(memory) => Ok(Some(memory)),
            // A tensor is larger than the device takes at once.
            Err(Error::OutOfMemory { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    if needed(Tiling::Whole)?.is_some_and(|memory| budgets.exceeded(&memory).is_none()) {
        return Ok((Tiling::Whole, None));
    }
    // Tiles that the device itself needs are chosen when the run is prepared.
    let Some(whole) = needed(Tiling::Auto)? else { return Ok((Tiling::Auto, None)) };
    let Some((most, budget)) = budgets.exceeded(&whole) else { return Ok((Tiling::Auto, None)) };
    for side in Tiling::Auto.sides(request.size()).into_iter().flatten() {
        let side = side as u32;
        if needed(Tiling::Side(side))?.is_some_and(|memory| budgets.exceeded(&memory).is_none()) {
            let reason = format!(
                "the feature maps of the whole picture need {}, and {budget}: the picture is cut into tiles of {side} pixels a side, \
                 which takes longer",
                bytes(most)
            );
            return Ok((Tiling::Side(side), Some(reason)));
        }
    }
    Ok((Tiling::Auto, None))
}
