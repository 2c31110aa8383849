//! Warnings about the balance: a factor that hardly counts, or one beside which no other does.

use super::names::percent;
use crate::mirage::Report;
use std::collections::HashSet;

/// A factor with a smaller share of the gradient hardly counts.
const LEAST: f32 = 0.01;
/// Beside a factor with a larger share the others hardly count.
const MOST: f32 = 0.98;

/// Watches the shares of a run; tells each thing once.
#[derive(Debug, Default)]
pub(super) struct Shares {
    told: HashSet<(String, bool)>,
}

impl Shares {
    /// What a report gives reason to tell. `balanced` says whether shares or raw weights are set.
    pub(super) fn warnings(&mut self, report: &Report, balanced: bool) -> Vec<String> {
        let shares = &report.gradient_shares;
        // A factor alone always has all of it, and where nothing pulls there are no shares.
        if shares.len() < 2 || !shares.iter().any(|(_, share)| *share > 0.0) {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for (kind, share) in shares {
            let large = *share > MOST;
            if (!large && *share >= LEAST) || !self.told.insert((kind.clone(), large)) {
                continue;
            }
            let option = if balanced {
                format!("its share in --balance ({kind}=...)")
            } else {
                format!("--{kind}-weight")
            };
            let percent = percent(*share);
            warnings.push(if large {
                format!(
                    "the {kind} factor makes {percent}% of the gradient, so the others hardly count: lower {option}"
                )
            } else {
                format!("the {kind} factor makes {percent}% of the gradient and hardly counts: raise {option}")
            });
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn each_extreme_is_told_once_with_its_option() {
        let mut shares = Shares::default();
        let even = report(&[("spatial", 0.01), ("abstract", 0.01), ("style", 0.98)]);
        assert!(shares.warnings(&even, false).is_empty());
        let lopsided = report(&[("spatial", 0.985), ("abstract", 0.009), ("style", 0.006)]);
        let told = shares.warnings(&lopsided, false);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("98%") || told[0].contains("99%"), "{told:?}");
        assert!(told[0].contains("--spatial-weight") && told[1].contains("--abstract-weight"), "{told:?}");
        assert!(shares.warnings(&lopsided, false).is_empty(), "once");
        let told = Shares::default().warnings(&lopsided, true);
        assert!(told.len() == 3 && told[2].contains("--balance"), "{told:?}");
    }

    #[test]
    fn one_factor_alone_or_none_is_no_reason() {
        let mut shares = Shares::default();
        assert!(shares.warnings(&report(&[("style", 1.0)]), false).is_empty());
        let still = report(&[("style", 0.0), ("spatial", 0.0)]);
        assert!(shares.warnings(&still, false).is_empty());
    }
}
