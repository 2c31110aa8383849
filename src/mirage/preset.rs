//! neural-mirage's own objective: the spatial, abstract and style factors, and smoothness. Only this file and `cli` use
//! their names.

use super::loss::{Group, Loss, Source, Strength, Target};
use super::statistic::{Classes, Feature, Statistic, Variation, Wasserstein};
use crate::error::{Error, Result};
use crate::escape::shown;
use crate::ops::VariationKind;
use crate::vgg::{LayerKind, Network};
use std::str::FromStr;
use std::sync::Arc;

/// The photo's layout: activations of conv layers.
pub const SPATIAL: &str = "spatial";
/// What the network recognises: activations of fully connected layers.
pub const ABSTRACT: &str = "abstract";
/// Textures and colours: a statistic of conv layers.
pub const STYLE: &str = "style";
/// Smoothness of the picture itself.
pub const SMOOTH: &str = "smooth";
/// The three factors, in the order in which they are listed.
pub const FACTORS: [&str; 3] = [SPATIAL, ABSTRACT, STYLE];

/// A layer with its weight, written `relu1_1` or `relu1_1:0.5`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeight {
    /// Name of the layer.
    pub layer: String,
    /// Multiplies the weight of the layer's group.
    pub weight: f32,
}

impl FromStr for LayerWeight {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (layer, weight) = match text.split_once(':') {
            None => (text, 1.0),
            Some((layer, number)) => {
                let weight =
                    number.trim().parse().ok().filter(|weight: &f32| weight.is_finite() && *weight >= 0.0);
                let weight = weight.ok_or_else(|| {
                    Error::usage(format!(
                        "`{number}` in `{text}` is not a weight: write LAYER:NUMBER with a number >= 0"
                    ))
                })?;
                (layer, weight)
            }
        };
        if layer.trim().is_empty() {
            return Err(Error::usage(format!("`{text}` names no layer: write LAYER or LAYER:NUMBER")));
        }
        Ok(Self { layer: layer.trim().to_owned(), weight })
    }
}

/// Parses a comma-separated list of layers, e.g. `relu1_1:0.5,relu4_1`; `none` or an empty text is an empty list.
///
/// # Errors
/// [`Error::Usage`] naming the invalid item.
pub fn layers(list: &str) -> Result<Vec<LayerWeight>> {
    let list = if list.trim() == "none" { "" } else { list };
    list.split(',').filter(|item| !item.trim().is_empty()).map(str::parse).collect()
}

/// Formats layers in the syntax that [`layers`] parses.
pub fn layers_text(layers: &[LayerWeight]) -> String {
    let text = |layer: &LayerWeight| match layer.weight {
        1.0 => layer.layer.clone(),
        weight => format!("{}:{weight}", layer.layer),
    };
    let text = layers.iter().map(text).collect::<Vec<_>>().join(",");
    if text.is_empty() { "none".to_owned() } else { text }
}

/// One factor.
#[derive(Debug, Clone)]
pub struct Factor {
    /// Layers and their weights. The weights are not normalised over the layers.
    pub layers: Vec<LayerWeight>,
    /// Statistic of the activations that is compared.
    pub statistic: Arc<dyn Statistic>,
    /// Reference that the statistic is compared with.
    pub target: Target,
    /// Share or weight of the factor.
    pub strength: Strength,
}

/// The three factors and the smoothness.
#[derive(Debug, Clone)]
pub struct Preset {
    /// Layout of the photo.
    pub spatial: Factor,
    /// Content of the fully connected layers.
    pub abstracted: Factor,
    /// Textures and colours.
    pub style: Factor,
    /// Kind of smoothness.
    pub smooth: Arc<dyn Statistic>,
    /// Weight of the smoothness. The shares together give a gradient of about 1 per colour value, so 0.1 is weak.
    pub smooth_weight: f32,
}

impl Default for Preset {
    /// Uses all three factors, with the photo as the only target.
    fn default() -> Self {
        let factor = |layers: &[(&str, f32)], statistic: Arc<dyn Statistic>, share: f32| Factor {
            layers: layers
                .iter()
                .map(|(layer, weight)| LayerWeight { layer: (*layer).to_owned(), weight: *weight })
                .collect(),
            statistic,
            target: Target::Photo,
            strength: Strength::Share(share),
        };
        // Deep layers get less weight: on their own they paint a lattice.
        let style = [("relu1_1", 1.0), ("relu2_1", 0.5), ("relu3_1", 0.25), ("relu4_1", 0.125)];
        Self {
            spatial: factor(&[("relu4_2", 1.0)], Arc::new(Feature), 15.0),
            abstracted: factor(&[("fc8", 1.0)], Arc::new(Feature), 15.0),
            style: factor(&style, Arc::new(Wasserstein), 70.0),
            smooth: Arc::new(Variation::summed(VariationKind::Diagonal)),
            smooth_weight: 2.0,
        }
    }
}

impl Preset {
    /// Returns the default for a style taken from other images: the photo provides only the layout.
    pub fn of_style_images() -> Self {
        let mut preset = Self::default();
        preset.spatial.strength = Strength::Share(25.0);
        preset.abstracted.strength = Strength::Share(0.0);
        preset.style.strength = Strength::Share(75.0);
        preset
    }

    /// Returns a factor by name.
    pub fn factor(&self, name: &str) -> Option<&Factor> {
        match name {
            SPATIAL => Some(&self.spatial),
            ABSTRACT => Some(&self.abstracted),
            STYLE => Some(&self.style),
            _ => None,
        }
    }

    /// Returns a factor by name, for changes.
    pub fn factor_mut(&mut self, name: &str) -> Option<&mut Factor> {
        match name {
            SPATIAL => Some(&mut self.spatial),
            ABSTRACT => Some(&mut self.abstracted),
            STYLE => Some(&mut self.style),
            _ => None,
        }
    }

    /// Sets class probabilities, given by class index, as the target of the abstract factor instead of an image's
    /// content.
    ///
    /// # Errors
    /// [`Error::Usage`] if the network has no classifier.
    pub fn show_classes(&mut self, network: &Network, classes: Vec<(usize, f32)>) -> Result<()> {
        let logits = network.layers.iter().rev().find(|layer| matches!(layer.kind, LayerKind::Linear(_)));
        let logits = logits.ok_or_else(|| {
            Error::usage(format!(
                "{} has no fully connected layers, so it has no classifier: use a weights file that has them",
                shown(&network.path)
            ))
        })?;
        self.abstracted.layers = vec![LayerWeight { layer: logits.name.clone(), weight: 1.0 }];
        self.abstracted.statistic = Arc::new(Classes);
        self.abstracted.target = Target::Classes(classes);
        Ok(())
    }

    /// Returns the groups of the objective.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups = Vec::new();
        for name in FACTORS {
            let Some(factor) = self.factor(name) else { continue };
            let loss = |layer: &LayerWeight| Loss {
                source: Source::Layer(layer.layer.clone()),
                statistic: factor.statistic.clone(),
                target: factor.target.clone(),
                weight: layer.weight,
            };
            let losses = factor.layers.iter().map(loss).collect();
            groups.push(Group { name: name.to_owned(), losses, strength: factor.strength });
        }
        let smooth = Loss {
            source: Source::Picture,
            statistic: self.smooth.clone(),
            target: Target::Photo,
            weight: 1.0,
        };
        let strength = Strength::Weight(self.smooth_weight);
        groups.push(Group { name: SMOOTH.to_owned(), losses: vec![smooth], strength });
        groups
    }

    /// Checks that the layers of each factor exist in this network and are of the factor's kind.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown layer, an abstract layer before the fully connected part, or a spatial or style
    /// layer in it.
    pub fn check(&self, network: &Network) -> Result<()> {
        for name in FACTORS {
            let Some(factor) = self.factor(name) else { continue };
            for item in &factor.layers {
                // A layer with no effect may be of any kind, but must exist.
                if item.weight == 0.0 || factor.strength.value() == 0.0 {
                    network.index_of(&item.layer)?;
                    continue;
                }
                if name == ABSTRACT && !network.has_head() {
                    return Err(Error::usage(format!(
                        "the abstract factor needs fully connected layers, and {} has none: use --abstract none, or a weights file with fc layers",
                        shown(&network.path)
                    )));
                }
                let layer = network.index_of(&item.layer)?;
                let connected =
                    network.layers[..=layer].iter().any(|layer| matches!(layer.kind, LayerKind::Linear(_)));
                if connected != (name == ABSTRACT) {
                    let wanted = if name == ABSTRACT {
                        "fully connected layers, such as fc8"
                    } else {
                        "layers of the conv part, such as relu4_2"
                    };
                    return Err(Error::usage(format!(
                        "the {name} factor needs {wanted}; `{}` is not one of them",
                        item.layer
                    )));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_lists_round_trip() {
        for text in ["relu1_1", "relu1_1:0.5,relu4_1", "none"] {
            assert_eq!(layers_text(&layers(text).unwrap()), text);
        }
        assert!(layers("").unwrap().is_empty());
        for text in [":1", "a:x", "a:-1", "a:nan"] {
            assert!(layers(text).is_err(), "{text}");
        }
    }

    #[test]
    fn preset_has_four_groups() {
        let groups = Preset::default().groups();
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, [SPATIAL, ABSTRACT, STYLE, SMOOTH]);
        assert_eq!(groups[2].losses.len(), 4);
        assert_eq!(groups[3].strength, Strength::Weight(2.0));
    }
}
