//! Converts shares to weights, by arithmetic on gradient norms only.
//!
//! The gradient norm of a group is the mean absolute value of its gradient with respect to the picture, at weight 1. A
//! group's weight is its share divided by that norm, so the groups' gradients are in proportion to their shares (as in
//! crowsonkb/style_transfer, which scales each gradient to mean 1).

use super::loss::{Group, Strength, effective_shares};

/// Limit on a measured weight, as a multiple of the one first measured at the same scale. Without it, the weight of a
/// loss near its minimum grows until its noise dominates the picture.
pub const GROWTH: f32 = 4.0;

/// The weight of one group.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupWeight {
    /// Name of the group.
    pub group: String,
    /// Current weight.
    pub weight: f32,
    /// Mean absolute gradient at weight 1; `None` if the weight was not measured.
    pub norm: Option<f32>,
    /// Weight that later ones may exceed by at most a factor of [`GROWTH`].
    pub reference: Option<f32>,
}

/// Weights of all groups of an objective.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weights(pub Vec<GroupWeight>);

impl Weights {
    /// Returns the fixed weights, and 1 for weights that are yet to be measured.
    pub fn given(groups: &[Group]) -> Self {
        let weight = |group: &Group| GroupWeight {
            group: group.name.clone(),
            weight: match group.strength {
                Strength::Weight(weight) => weight,
                Strength::Share(_) => 1.0,
            },
            norm: None,
            reference: None,
        };
        Self(groups.iter().map(weight).collect())
    }

    /// Returns these weights for the groups of a resumed run. Fixed weights are taken from `groups`, and a group with
    /// share 0 gets weight 0. `None` if a group with a share is missing from these weights.
    pub fn kept(&self, groups: &[Group]) -> Option<Self> {
        let weight = |(group, given): (&Group, GroupWeight)| match group.strength {
            Strength::Weight(_) => Some(given),
            Strength::Share(share) => {
                let kept = self.0.iter().find(|weight| weight.group == group.name).cloned();
                kept.or_else(|| (share == 0.0).then_some(GroupWeight { weight: 0.0, ..given }))
            }
        };
        groups.iter().zip(Self::given(groups).0).map(weight).collect::<Option<_>>().map(Self)
    }

    /// Returns the weights that give the groups their shares of the gradient, from each group's norm at weight 1. A
    /// group without a gradient (a loss at its minimum) keeps its earlier weight. With `limit`, a weight may grow to at
    /// most [`GROWTH`] times the one measured without it.
    pub fn measured(groups: &[Group], norms: &[f32], earlier: &Self, limit: bool) -> Self {
        let shares = effective_shares(groups);
        let weights = groups.iter().zip(norms).map(|(group, norm)| {
            let before = earlier.0.iter().find(|weight| weight.group == group.name);
            let share = shares.iter().find(|(name, _)| *name == group.name).map(|(_, share)| *share);
            let reference = before.and_then(|before| before.reference).filter(|_| limit);
            let weight = match (group.strength, share) {
                (Strength::Weight(weight), _) => weight,
                (Strength::Share(_), None | Some(0.0)) => 0.0,
                (Strength::Share(_), Some(share)) if is_gradient(*norm) => share / norm,
                _ => before.map_or(1.0, |before| before.weight),
            };
            let weight = reference.map_or(weight, |reference| weight.min(GROWTH * reference));
            let measured = is_gradient(*norm) && share.is_some_and(|share| share > 0.0);
            GroupWeight {
                group: group.name.clone(),
                weight,
                norm: share.map(|_| *norm),
                reference: reference.or(measured.then_some(weight)),
            }
        });
        Self(weights.collect())
    }

    /// Returns the weight of a group, or 0 if it does not exist.
    pub fn of(&self, group: &str) -> f32 {
        self.0.iter().find(|weight| weight.group == group).map_or(0.0, |weight| weight.weight)
    }

    /// True if any weight was measured.
    pub fn is_measured(&self) -> bool {
        self.0.iter().any(|weight| weight.norm.is_some())
    }

    /// True if any group had no gradient when its weight was measured.
    pub fn is_incomplete(&self) -> bool {
        self.0.iter().any(|weight| weight.norm.is_some_and(|norm| !is_gradient(norm)))
    }

    /// Returns each group's share of the sum of weighted gradient norms, given the norms at weight 1 in the order of
    /// the weights. Only groups for which `counts` is true are included.
    pub fn shares(&self, norms: &[f32], counts: impl Fn(&str) -> bool) -> Vec<(String, f32)> {
        let weighted: Vec<(&str, f32)> = self
            .0
            .iter()
            .zip(norms)
            .filter(|(weight, _)| counts(&weight.group))
            .map(|(weight, norm)| (weight.group.as_str(), weight.weight * norm))
            .collect();
        let sum: f32 = weighted.iter().map(|(_, norm)| norm).sum();
        let share = |norm: f32| if sum > 0.0 { norm / sum } else { 0.0 };
        weighted.into_iter().map(|(group, norm)| (group.to_owned(), share(norm))).collect()
    }
}

/// True if a weight can be computed from this norm.
fn is_gradient(norm: f32) -> bool {
    norm.is_finite() && norm > 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(strengths: &[Strength]) -> Vec<Group> {
        let name = |at: usize| ["a", "b", "c", "d"][at].to_owned();
        let group = |(at, strength): (usize, &Strength)| Group {
            name: name(at),
            losses: vec![],
            strength: *strength,
        };
        strengths.iter().enumerate().map(group).collect()
    }

    #[test]
    fn weighted_gradients_are_proportional_to_shares() {
        use Strength::{Share, Weight};
        let groups = groups(&[Share(1.0), Share(3.0), Weight(0.5), Share(0.0)]);
        let given = Weights::given(&groups);
        assert!(!given.is_measured());
        let weights = Weights::measured(&groups, &[2.0, 0.25, 9.0, 7.0], &given, false);
        let raw: Vec<f32> = weights.0.iter().map(|weight| weight.weight).collect();
        assert_eq!(raw, [0.125, 3.0, 0.5, 0.0]);
        assert!(weights.is_measured() && !weights.is_incomplete());
        let shares = weights.shares(&[2.0, 0.25, 9.0, 7.0], |name| name != "c");
        assert_eq!(shares, [("a".to_owned(), 0.25), ("b".to_owned(), 0.75), ("d".to_owned(), 0.0)]);
    }

    #[test]
    fn resumed_run_keeps_measured_weights() {
        use Strength::{Share, Weight};
        let before = groups(&[Share(1.0), Share(3.0), Weight(0.5), Share(0.0)]);
        let weights = Weights::measured(&before, &[2.0, 0.25, 9.0, 7.0], &Weights::given(&before), false);
        assert_eq!(weights.kept(&before).as_ref(), Some(&weights));
        // A changed fixed weight applies at once.
        let given = groups(&[Share(1.0), Share(3.0), Weight(8.0), Share(0.0)]);
        let kept = weights.kept(&given).unwrap();
        assert_eq!([kept.of("a"), kept.of("b"), kept.of("c"), kept.of("d")], [0.125, 3.0, 8.0, 0.0]);
        assert!(kept.0[0].reference.is_some() && kept.0[0].norm == Some(2.0));
        // A group with share 0 may be missing.
        let fewer = groups(&[Share(1.0), Share(3.0), Weight(0.5)]);
        let kept = weights.kept(&fewer).unwrap();
        assert_eq!(kept.0, weights.0[..3]);
        assert_eq!(kept.kept(&before).unwrap().of("d"), 0.0);
        // A group with a share but no weight needs a measurement.
        let more = groups(&[Share(1.0), Share(3.0), Weight(0.5), Share(2.0)]);
        assert_eq!(kept.kept(&more), None);
    }

    #[test]
    fn fully_met_loss_keeps_its_weight() {
        let groups = groups(&[Strength::Share(1.0), Strength::Share(1.0)]);
        let first = Weights::measured(&groups, &[0.5, 0.5], &Weights::given(&groups), false);
        for met in [0.0, f32::NAN, f32::INFINITY] {
            let next = Weights::measured(&groups, &[met, 0.25], &first, false);
            assert_eq!([next.of("a"), next.of("b")], [1.0, 2.0]);
            assert!(next.is_incomplete());
        }
    }

    #[test]
    fn weight_growth_is_limited() {
        let groups = groups(&[Strength::Share(1.0), Strength::Share(1.0)]);
        let mut weights = Weights::measured(&groups, &[0.5, 0.5], &Weights::given(&groups), false);
        for norm in [0.1, 0.01, 1e-6] {
            weights = Weights::measured(&groups, &[norm, 0.5], &weights, true);
            assert_eq!([weights.of("a"), weights.of("b")], [GROWTH, 1.0]);
        }
        weights = Weights::measured(&groups, &[1.0, 0.5], &weights, true);
        assert_eq!(weights.of("a"), 0.5);
        weights = Weights::measured(&groups, &[0.0009765625, 0.5], &weights, false);
        assert_eq!(weights.of("a"), 512.0);
    }
}
