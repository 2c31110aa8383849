//! When reports, snapshots, frames and checkpoints of a run are due.

use super::args::WatchingArgs;
use crate::mirage::Schedule;

/// Divisor of the iterations done so far that gives the distance between frames of a film.
const FRAME_STEP: u32 = 20;

/// Iterations between the checkpoints that `--retry` needs.
const RETRY_STATES: u32 = 25;

/// Memory of a film in bytes per pixel: the previous frame, the current one, and the encoder's output.
const FILM: u64 = 12;

/// Memory of the live page in bytes per pixel: 8-bit pictures that wait to be encoded.
const PAGE: u64 = 9;

/// Builds the schedule of a run with this many iterations.
pub(super) fn schedule(args: &WatchingArgs, iterations: u32) -> Schedule {
    let mut snapshot_at = args.save_at.clone();
    if args.save_early {
        snapshot_at.extend(early().take_while(|at| *at < iterations));
    }
    Schedule {
        report_every: args.print_every,
        snapshot_every: args.save_every,
        snapshot_at,
        picture_every: u32::from(args.web.is_some()),
        picture_at: args.film.as_ref().map(|_| frames(iterations)).unwrap_or_default(),
        state_every: match args.checkpoint_every {
            0 if args.retry > 0 => RETRY_STATES,
            every => every,
        },
        state_when_stopped: true,
        held_per_pixel: args.film.as_ref().map_or(0, |_| FILM) + args.web.map_or(0, |_| PAGE),
    }
}

/// Iterations of `--save-early`: each is the sum of the two before, because the picture changes more and more slowly.
fn early() -> impl Iterator<Item = u32> {
    std::iter::successors(Some((1, 2)), |(one, two): &(u32, u32)| Some((*two, one.checked_add(*two)?)))
        .map(|(one, _)| one)
}

/// Iterations that a film shows: at first every one, later at distances of a twentieth of those done so far, because
/// the picture changes more and more slowly.
fn frames(iterations: u32) -> Vec<u32> {
    let mut frames: Vec<u32> =
        std::iter::successors(Some(0_u32), |at| at.checked_add((at / FRAME_STEP).max(1)))
            .take_while(|at| *at < iterations)
            .collect();
    frames.push(iterations);
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_spread_over_the_run() {
        assert_eq!(frames(3), [0, 1, 2, 3]);
        let long = frames(150);
        assert_eq!((long.len(), long[40], long[41], *long.last().unwrap()), (72, 40, 42, 150));
        assert!(frames(1_000_000).len() < 300);
        assert!(long.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn early_pictures_are_a_fibonacci_sequence() {
        assert_eq!(early().take(7).collect::<Vec<_>>(), [1, 2, 3, 5, 8, 13, 21]);
    }
}
