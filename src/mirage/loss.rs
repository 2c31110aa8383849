//! The objective as data: groups of losses that share a weight.

use super::statistic::Statistic;
use crate::error::{Error, Result};
use crate::image_io::Picture;
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Input of a loss.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// Activation of the layer of this name.
    Layer(String),
    /// The picture itself: red, green and blue in [0, 1].
    Picture,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(name) => f.pad(name),
            Self::Picture => f.pad("picture"),
        }
    }
}

/// Reference that a loss compares the picture with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Target {
    /// The photo.
    Photo,
    /// Other images with their blend weights, which are normalised to sum 1.
    Images(Arc<[(Picture, f32)]>),
    /// Class indices and their probabilities, normalised to sum 1. Only for a layer of class scores.
    Classes(Vec<(usize, f32)>),
}

/// One loss: `weight * distance(statistic(source), statistic(target))`.
#[derive(Debug, Clone)]
pub struct Loss {
    /// Input of the statistic.
    pub source: Source,
    /// Statistic that is compared.
    pub statistic: Arc<dyn Statistic>,
    /// Reference; unused by a statistic without a target.
    pub target: Target,
    /// Weight within the group; multiplies the group's weight.
    pub weight: f32,
}

impl PartialEq for Loss {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
            && self.statistic.key() == other.statistic.key()
            && self.target == other.target
            && self.weight == other.weight
    }
}

/// Strength of a group in the objective.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Strength {
    /// Share of the gradient. The group's weight is measured so that the gradient norms of all groups with shares are
    /// in proportion to their shares. Only the ratios of shares matter.
    Share(f32),
    /// Fixed weight.
    Weight(f32),
}

impl Strength {
    /// Returns the share or the weight.
    pub fn value(self) -> f32 {
        match self {
            Self::Share(value) | Self::Weight(value) => value,
        }
    }
}

/// Losses that share one weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Name in options, logs and checkpoints.
    pub name: String,
    /// Losses of the group; those of weight 0 are ignored.
    pub losses: Vec<Loss>,
    /// Share or weight of the group.
    pub strength: Strength,
}

impl Group {
    /// Returns the losses with a weight above 0.
    pub fn counting(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().filter(|loss| loss.weight > 0.0)
    }

    /// True if the group has losses with a weight above 0, and a share or weight above 0.
    pub fn is_active(&self) -> bool {
        self.strength.value() > 0.0 && self.counting().next().is_some()
    }
}

/// Returns each group's share as a fraction of the sum of shares, in order. Groups with a fixed weight are left out.
pub fn effective_shares(groups: &[Group]) -> Vec<(&str, f32)> {
    let shares: Vec<(&str, f32)> = groups
        .iter()
        .filter_map(|group| match group.strength {
            Strength::Share(share) => Some((group.name.as_str(), share)),
            Strength::Weight(_) => None,
        })
        .collect();
    let sum: f32 = shares.iter().map(|(_, share)| share).sum();
    let part = |share: f32| if sum > 0.0 { share / sum } else { 0.0 };
    shares.into_iter().map(|(name, share)| (name, part(share))).collect()
}

/// Checks the names and numbers of groups.
///
/// # Errors
/// [`Error::Usage`] naming the group.
pub fn check_groups(groups: &[Group]) -> Result<()> {
    let mut names = HashSet::new();
    for group in groups {
        let name = &group.name;
        if !names.insert(name) {
            return Err(Error::usage(format!("two groups of losses are called `{name}`")));
        }
        // Shares and checkpoints store group names as a comma-separated list.
        if name.is_empty() || name.contains(',') {
            return Err(Error::usage(format!(
                "a group of losses is called `{name}`: give it a name, without a comma"
            )));
        }
        let kind = match group.strength {
            Strength::Share(_) => "share",
            Strength::Weight(_) => "weight",
        };
        not_negative(&format!("the {kind} of {name}"), group.strength.value())?;
        for loss in &group.losses {
            not_negative(&format!("the weight of {} in {name}", loss.source), loss.weight)?;
            check_target(name, &loss.target)?;
        }
    }
    let shares = groups.iter().filter_map(|group| match group.strength {
        Strength::Share(share) => Some(share),
        Strength::Weight(_) => None,
    });
    check_sum("all shares", &shares.collect::<Vec<f32>>())
}

/// Checks that the sum of numbers that will be normalised is finite.
fn check_sum(name: &str, numbers: &[f32]) -> Result<()> {
    if numbers.iter().sum::<f32>().is_finite() {
        return Ok(());
    }
    Err(Error::usage(format!("{name}: the sum exceeds the range of f32; only the ratios matter")))
}

fn check_target(group: &str, target: &Target) -> Result<()> {
    let (kind, weights): (_, Vec<f32>) = match target {
        Target::Photo => return Ok(()),
        Target::Images(images) => ("blend weight", images.iter().map(|(_, weight)| *weight).collect()),
        Target::Classes(classes) => {
            ("class probability", classes.iter().map(|(_, weight)| *weight).collect())
        }
    };
    for weight in &weights {
        not_negative(&format!("a {kind} of {group}"), *weight)?;
    }
    check_sum(&format!("each {kind} of {group}"), &weights)?;
    if weights.iter().any(|weight| *weight > 0.0) {
        return Ok(());
    }
    Err(Error::usage(format!("every {kind} of {group} is zero: set at least one above 0")))
}

/// Checks that a number is finite and at least 0.
///
/// # Errors
/// [`Error::Usage`] naming it.
pub fn not_negative(name: &str, value: f32) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::usage(format!("{name} is {value}: it must be a number >= 0")))
}

/// Shares of groups by name, written `spatial=20,style=50`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shares(pub Vec<(String, f32)>);

impl Shares {
    /// Returns the shares of the groups that have one.
    pub fn of(groups: &[Group]) -> Self {
        let share = |group: &Group| match group.strength {
            Strength::Share(share) => Some((group.name.clone(), share)),
            Strength::Weight(_) => None,
        };
        Self(groups.iter().filter_map(share).collect())
    }

    /// Returns the share of a group, if it is listed.
    pub fn get(&self, name: &str) -> Option<f32> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, share)| *share)
    }

    /// True if each group has the same share in both; a missing share counts as 0.
    pub fn agree(&self, other: &Self) -> bool {
        let mut names = self.0.iter().chain(&other.0).map(|(name, _)| name);
        names.all(|name| self.get(name).unwrap_or(0.0) == other.get(name).unwrap_or(0.0))
    }

    /// Sets the shares of the listed groups; other groups keep theirs.
    ///
    /// # Errors
    /// [`Error::Usage`] if a group does not exist, or if no share is above 0 afterwards.
    pub fn apply(&self, groups: &mut [Group]) -> Result<()> {
        for (name, share) in &self.0 {
            let Some(at) = groups.iter().position(|group| group.name == *name) else {
                return Err(unknown(name, groups));
            };
            groups[at].strength = Strength::Share(*share);
        }
        let any = |group: &Group| matches!(group.strength, Strength::Share(share) if share > 0.0);
        if self.0.is_empty() || groups.iter().any(any) {
            return Ok(());
        }
        Err(Error::usage("all shares are zero: set at least one share above 0"))
    }
}

fn unknown(name: &str, groups: &[Group]) -> Error {
    let names: Vec<&str> = groups
        .iter()
        .filter(|group| matches!(group.strength, Strength::Share(_)))
        .map(|group| group.name.as_str())
        .collect();
    Error::usage(format!("unknown factor `{name}`: choose from {}", names.join(", ")))
}

impl FromStr for Shares {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut shares = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let parsed = item
                .split_once('=')
                .and_then(|(name, number)| Some((name.trim(), number.trim().parse::<f32>().ok()?)))
                .filter(|(_, share)| share.is_finite() && *share >= 0.0);
            let Some((name, share)) = parsed else {
                return Err(Error::usage(format!(
                    "`{item}` is not a share: write GROUP=NUMBER,..., with numbers >= 0"
                )));
            };
            if shares.get(name).is_some() {
                return Err(Error::usage(format!("`{name}` has two shares in `{text}`: write it once")));
            }
            shares.0.push((name.to_owned(), share));
        }
        if shares.0.is_empty() {
            return Err(Error::usage("no share is given: write GROUP=NUMBER,..., with numbers >= 0"));
        }
        Ok(shares)
    }
}

impl fmt::Display for Shares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items: Vec<String> = self.0.iter().map(|(name, share)| format!("{name}={share}")).collect();
        f.write_str(&items.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirage::statistic::Feature;

    #[test]
    fn numbers_whose_sum_overflows_are_refused() {
        let share = |share| group("style", Strength::Share(share));
        let other = Group { name: "abstract".into(), ..share(3e38) };
        assert!(check_groups(&[share(3e38)]).is_ok());
        assert!(check_groups(&[share(3e38), other]).is_err());
        let image = Picture { width: 1, height: 1, rgb: vec![0.0; 3] };
        let blend = |weight: f32| {
            check_target("style", &Target::Images([(image.clone(), weight), (image.clone(), 3e38)].into()))
        };
        assert!(blend(1.0).is_ok() && blend(3e38).is_err() && blend(0.0).is_ok());
        assert!(check_target("style", &Target::Classes(vec![(1, 0.0)])).is_err());
    }

    fn group(name: &str, strength: Strength) -> Group {
        let loss = Loss {
            source: Source::Layer("relu1_1".into()),
            statistic: Arc::new(Feature),
            target: Target::Photo,
            weight: 1.0,
        };
        Group { name: name.into(), losses: vec![loss], strength }
    }

    #[test]
    fn unnamed_groups_keep_their_shares() {
        let mut groups = [
            group("a", Strength::Share(20.0)),
            group("b", Strength::Share(40.0)),
            group("c", Strength::Share(40.0)),
            group("d", Strength::Weight(0.1)),
        ];
        "a=80".parse::<Shares>().unwrap().apply(&mut groups).unwrap();
        assert_eq!(effective_shares(&groups), [("a", 0.5), ("b", 0.25), ("c", 0.25)]);
        assert_eq!(Shares::of(&groups).to_string(), "a=80,b=40,c=40");
        assert!("d=1".parse::<Shares>().unwrap().apply(&mut groups).is_ok());
        let error = "e=1".parse::<Shares>().unwrap().apply(&mut groups).unwrap_err().to_string();
        assert!(error.contains("`e`") && error.contains("a, b, c"), "{error}");
        assert!("a=0,b=0,c=0,d=0".parse::<Shares>().unwrap().apply(&mut groups).is_err());
    }

    #[test]
    fn zero_share_equals_missing_share() {
        let shares = |text: &str| text.parse::<Shares>().unwrap();
        assert!(shares("a=1,b=0").agree(&shares("c=0,a=1")));
        for other in ["a=2", "a=1,b=1", "b=1,a=0"] {
            assert!(
                !shares("a=1,b=0").agree(&shares(other)) && !shares(other).agree(&shares("a=1")),
                "{other}"
            );
        }
    }

    #[test]
    fn invalid_shares_are_refused_by_name() {
        for text in ["", "a", "a=", "a=x", "a=-1", "a=nan", "a=1,a=2", "a=inf"] {
            assert!(text.parse::<Shares>().is_err(), "{text}");
        }
        assert_eq!(" a = 1 , b=2 ".parse::<Shares>().unwrap().to_string(), "a=1,b=2");
    }

    #[test]
    fn group_names_with_commas_are_refused() {
        check_groups(&[group("a b", Strength::Share(1.0))]).unwrap();
        for name in ["a,b", ",", ""] {
            let error = check_groups(&[group(name, Strength::Share(1.0))]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")) && error.contains("comma"), "{error}");
        }
    }

    #[test]
    fn invalid_numbers_are_refused() {
        assert!(
            check_groups(&[group("a", Strength::Share(1.0)), group("a", Strength::Weight(1.0))]).is_err()
        );
        for value in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(check_groups(&[group("a", Strength::Weight(value))]).is_err());
            let mut one = group("a", Strength::Share(1.0));
            one.losses[0].weight = value;
            assert!(check_groups(&[one]).is_err());
        }
        for classes in [vec![], vec![(1, 0.0)], vec![(1, -1.0), (2, 2.0)]] {
            let mut one = group("a", Strength::Share(1.0));
            one.losses[0].target = Target::Classes(classes);
            assert!(check_groups(&[one]).is_err());
        }
    }
}
