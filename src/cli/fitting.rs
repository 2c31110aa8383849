//! `--size auto` and `--tile auto`: the numbers with which a run keeps within the memory that it may take.

use super::args::RenderArgs;
use super::forecast::{Budgets, FIRST_SIZES, largest_fitting};
use super::format::bytes;
use super::plan::Plan;
use super::values::{SizeArg, TileArg};
use crate::error::{Error, Result};
use crate::mirage::{MemoryPlan, Request, Tiling};
use std::borrow::Cow;
use std::sync::Arc;

/// The arguments with their size, and with the side of their tiles if the whole picture takes too much memory, as they
/// are recorded: a run that is resumed computes the same, whatever memory is free then. With a note on the tiles.
///
/// # Errors
/// [`Error::Usage`] if no size fits or the system does not report what is free; else as for a run.
pub(super) fn fitted(args: &RenderArgs) -> Result<(Cow<'_, RenderArgs>, Option<String>)> {
    let args = sized(args)?;
    if args.device.tile.0 != Tiling::Auto {
        return Ok((args, None));
    }
    let open = || args.network.open().map(|network| (Arc::new(network), false));
    let plan = Plan::with(&args, None, None, open)?;
    let (engine, _) = args.device.open()?;
    let budgets = Budgets::of(&engine, args.files.memory.map(|memory| memory.0));
    let needed = |tiling: Tiling| {
        let request = Request { tiling, ..plan.request.clone() };
        match MemoryPlan::new(&engine, &plan.network, &request) {
            Ok(memory) => Ok(Some(memory)),
            // A tensor is larger than the device takes at once.
            Err(Error::OutOfMemory { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let Some(whole) = needed(Tiling::Auto)? else { return Ok((args, None)) };
    let Some((most, budget)) = budgets.exceeded(&whole) else { return Ok((args, None)) };
    let [height, width] = plan.request.size();
    for side in Tiling::SIDES.into_iter().filter(|side| *side < height.max(width)) {
        let tiling = Tiling::Side(side as u32);
        if needed(tiling)?.is_some_and(|memory| budgets.exceeded(&memory).is_none()) {
            let note = format!(
                "the feature maps of the whole picture need {}, and {budget}: they are computed in tiles of {side} pixels a side, \
                 which takes longer",
                bytes(most)
            );
            let mut args = args.into_owned();
            args.device.tile = TileArg(tiling);
            return Ok((Cow::Owned(args), Some(note)));
        }
    }
    // The run is refused, with the sizes.
    Ok((args, None))
}

/// The arguments with their size: with `--size auto` the largest that fits.
///
/// # Errors
/// [`Error::Usage`] if none fits or the system does not report what is free; else as for a run.
fn sized(args: &RenderArgs) -> Result<Cow<'_, RenderArgs>> {
    let with = |size: u32| {
        let mut args = args.clone();
        args.files.size = SizeArg::Pixels(size);
        args
    };
    if args.files.size != SizeArg::Auto {
        return Ok(Cow::Borrowed(args));
    }
    let open = || args.network.open().map(|network| (Arc::new(network), false));
    let plan_at = |size: u32| Plan::with(&with(size), None, None, open);
    let mut plan = plan_at(FIRST_SIZES[0]);
    for size in &FIRST_SIZES[1..] {
        // A panorama may be too low.
        if matches!(plan, Err(Error::Usage(_))) {
            plan = plan_at(*size);
        }
    }
    let plan = plan?;
    let (engine, _) = args.device.open()?;
    let budgets = Budgets::of(&engine, args.files.memory.map(|memory| memory.0));
    if budgets == (Budgets { device: None, host: None }) {
        return Err(Error::usage(
            "--size auto: this system doesn't say how much memory is free. State with --memory how much the run may take",
        ));
    }
    let (width, height) = plan.photo_stored;
    let most = width.max(height) as u32;
    let [planned_height, planned_width] = plan.request.size();
    let first = planned_width.max(planned_height) as u32;
    match largest_fitting(&engine, &plan.network, &plan.request, &budgets, [first, most])? {
        Some(size) => Ok(Cow::Owned(with(size))),
        None => Err(Error::usage("--size auto: no size fits into the memory that the run may take")),
    }
}
