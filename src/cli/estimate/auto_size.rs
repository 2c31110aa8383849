//! `--size auto` and `--tile auto`: chooses the values that keep a run within its memory limit.

use super::forecast::{Budgets, FIRST_SIZES, Tiles, largest_fitting, plan_with, tiles};
use crate::cli::args::RenderArgs;
use crate::cli::checked_run::CheckedRun;
use crate::cli::output::format::bytes;
use crate::cli::values::{SizeArg, TileArg};
use crate::error::{Error, Result};
use crate::graph::Engine;
use crate::mirage::{MemoryPlan, Request, Tiling};
use crate::vgg::Network;
use std::borrow::Cow;
use std::sync::Arc;

/// Returns the arguments with the chosen size, and the chosen tiles if the whole picture takes too much memory. They
/// are recorded, so a resumed run computes the same, whatever memory is free then. Also returns a note on the tiles.
///
/// # Errors
/// [`Error::Usage`] if no size fits or the system does not report its free memory; otherwise as for a run.
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
    CheckedRun::with(args, None, || args.network.open().map(|network| (Arc::new(network), false)))
}

/// Checks the run at the first of a few sizes that the network's layers accept: a panorama may be too low at the
/// others.
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

/// Returns the largest size that fits.
fn size(engine: &Engine, checked: &CheckedRun, budgets: &Budgets) -> Result<u32> {
    if *budgets == (Budgets { device: None, host: None }) {
        return Err(Error::usage(
            "--size auto: this system does not report its free memory. Set a limit with --memory",
        ));
    }
    let (width, height) = checked.photo_stored;
    let most = width.max(height) as u32;
    let [planned_height, planned_width] = checked.request.size();
    let first = planned_width.max(planned_height) as u32;
    let largest = largest_fitting(engine, &checked.network, &checked.request, budgets, [first, most])?;
    if let Some(size) = largest {
        return Ok(size);
    }
    // Reported for the size at which the run was checked.
    let memory = MemoryPlan::new(engine, &checked.network, &checked.request)?;
    let why = match budgets.exceeded(&memory) {
        Some((needed, budget)) => {
            format!(
                ": at {planned_width}x{planned_height} pixels this run needs {}, and {budget}",
                bytes(needed)
            )
        }
        None => String::new(),
    };
    Err(Error::usage(format!(
        "--size auto: no size fits{why}. Raise --memory or close other programs; --tile auto needs less"
    )))
}

/// Returns no tiling if the whole picture fits, else the largest tiles that fit, with the reason. If none fit, returns
/// those that need the least memory: the run is then refused, with the sizes.
fn tiling(
    engine: &Engine,
    network: &Arc<Network>,
    request: &Request,
    budgets: &Budgets,
) -> Result<(Tiling, Option<String>)> {
    let needed = |tiling: Tiling| plan_with(engine, network, request, tiling);
    if needed(Tiling::Whole)?.is_some_and(|memory| budgets.exceeded(&memory).is_none()) {
        return Ok((Tiling::Whole, None));
    }
    // Tiles that the device itself needs are chosen when the run is prepared.
    let Some(whole) = needed(Tiling::Auto)? else { return Ok((Tiling::Auto, None)) };
    let Some((most, budget)) = budgets.exceeded(&whole) else { return Ok((Tiling::Auto, None)) };
    Ok(match tiles(engine, network, request, budgets)? {
        Tiles::Fit(side) => {
            let reason = format!(
                "the feature maps of the whole picture need {}, and {budget}: the picture is cut into tiles of {side} pixels a side, \
                 which is slower",
                bytes(most)
            );
            (Tiling::Side(side), Some(reason))
        }
        Tiles::Exceed(side) => (Tiling::Side(side), None),
    })
}
