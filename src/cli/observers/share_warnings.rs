//! Warnings about the balance: a group with next to none or next to all of the gradient.

use super::status::SharedStatus;
use crate::cli::output::format::percent;
use crate::error::Result;
use crate::mirage::{Event, Group, Observer, Report, Shares, Strength};
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Groups with a smaller share of the gradient hardly count.
const LEAST: f32 = 0.01;
/// The other groups hardly count if one has a larger share.
const MOST: f32 = 0.98;

/// Checks the shares of a run, and emits each warning once. Writes the status's warnings, so it comes before the
/// observers that show them.
#[derive(Debug)]
pub(in crate::cli) struct ShareWarnings {
    status: SharedStatus,
    /// True if shares are set, false if raw weights are.
    has_shares: bool,
    /// Groups whose share is set to 0.
    without: HashSet<String>,
    /// Warnings so far: the group, and whether its share was too large.
    given: HashSet<(String, bool)>,
}

impl ShareWarnings {
    /// Creates the observer of a run with these groups.
    pub(in crate::cli) fn new(groups: &[Group], status: &SharedStatus) -> Self {
        let has_shares = groups.iter().any(|group| matches!(group.strength, Strength::Share(_)));
        let without = without(&Shares::of(groups));
        Self { status: status.clone(), has_shares, without, given: HashSet::new() }
    }

    /// Returns the new warnings about a report.
    fn warnings(&mut self, report: &Report) -> Vec<String> {
        let shares = &report.gradient_shares;
        // One group alone always has all of the gradient, and where all gradients are zero there are no shares.
        if shares.len() < 2 || !shares.iter().any(|(_, share)| *share > 0.0) {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for (group, share) in shares {
            let large = *share > MOST;
            if (!large && (*share >= LEAST || self.without.contains(group)))
                || !self.given.insert((group.clone(), large))
            {
                continue;
            }
            let option = if self.has_shares {
                format!("its share in --balance ({group}=...)")
            } else {
                format!("--{group}-weight")
            };
            let percent = percent(*share);
            warnings.push(if large {
                format!(
                    "the {group} factor makes {percent}% of the gradient, so the others hardly count: lower {option}"
                )
            } else {
                format!("the {group} factor makes {percent}% of the gradient and hardly counts: raise {option}")
            });
        }
        warnings
    }
}

/// Returns the groups whose share is 0.
fn without(shares: &Shares) -> HashSet<String> {
    shares.0.iter().filter(|(_, share)| *share == 0.0).map(|(name, _)| name.clone()).collect()
}

impl Observer for ShareWarnings {
    fn observe(&mut self, event: Event<'_>) -> Result<ControlFlow<()>> {
        match event {
            // The live page can set shares where raw weights were given.
            Event::Weighted { shares, .. } => {
                self.has_shares = true;
                self.without = without(shares);
            }
            Event::Report(report) => {
                let warnings = self.warnings(report);
                self.status.borrow_mut().warnings = warnings;
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::observers::status::RunStatus;
    use crate::cli::record::metadata::RunMetadata;
    use crate::mirage::Readout;

    fn report(shares: &[(&str, f32)]) -> Report {
        Report {
            iteration: 0,
            seconds: 0.0,
            total: 1.0,
            terms: Vec::new(),
            gradient_shares: shares.iter().map(|(name, share)| ((*name).to_owned(), *share)).collect(),
            readout: Readout::default(),
            change: None,
        }
    }

    fn watch() -> ShareWarnings {
        ShareWarnings::new(&[], &RunStatus::new(RunMetadata::new(None), Vec::new()))
    }

    #[test]
    fn requested_zero_share_gives_no_warning() {
        let mut watch = watch();
        watch.without = without(&"spatial=20,abstract=0,style=80".parse().unwrap());
        assert!(watch.warnings(&report(&[("spatial", 0.2), ("abstract", 0.0), ("style", 0.8)])).is_empty());
        assert_eq!(watch.warnings(&report(&[("spatial", 0.0), ("abstract", 0.0), ("style", 0.9)])).len(), 1);
    }

    #[test]
    fn each_extreme_share_is_warned_about_once() {
        let mut watch = watch();
        let even = report(&[("spatial", 0.01), ("abstract", 0.01), ("style", 0.98)]);
        assert!(watch.warnings(&even).is_empty());
        let lopsided = report(&[("spatial", 0.985), ("abstract", 0.009), ("style", 0.006)]);
        let given = watch.warnings(&lopsided);
        assert_eq!(given.len(), 3, "{given:?}");
        assert!(given[0].contains("98%") || given[0].contains("99%"), "{given:?}");
        assert!(given[0].contains("--spatial-weight") && given[1].contains("--abstract-weight"), "{given:?}");
        assert!(watch.warnings(&lopsided).is_empty(), "once");
    }

    #[test]
    fn share_warnings_name_balance_and_appear_in_report() {
        let mut watch = watch();
        watch.has_shares = true;
        let lopsided = report(&[("spatial", 0.985), ("abstract", 0.009), ("style", 0.006)]);
        assert!(watch.observe(Event::Report(&lopsided)).unwrap().is_continue());
        let given = watch.status.borrow().warnings.clone();
        assert!(given.len() == 3 && given[2].contains("--balance"), "{given:?}");
        assert!(watch.observe(Event::Report(&lopsided)).unwrap().is_continue());
        assert!(watch.status.borrow().warnings.is_empty());
    }

    #[test]
    fn single_group_gives_no_warning() {
        let mut watch = watch();
        assert!(watch.warnings(&report(&[("style", 1.0)])).is_empty());
        assert!(watch.warnings(&report(&[("style", 0.0), ("spatial", 0.0)])).is_empty());
    }
}
