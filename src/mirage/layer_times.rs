//! Time of each layer in the forward and the backward pass.

use crate::graph::PreparedNode;

/// Time of one layer or loss.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTime {
    /// Name of the layer or loss.
    pub layer: String,
    /// Forward pass; `None` if the gradient does not need it.
    pub forward: Option<PartTime>,
    /// Backward pass; `None` if the layer contributes nothing to the gradient.
    pub backward: Option<PartTime>,
}

/// Time of one direction of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct PartTime {
    /// Kernel variants in use.
    pub variants: Vec<&'static str>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl LayerTime {
    /// Returns the seconds of both directions together.
    pub fn seconds(&self) -> f64 {
        [&self.forward, &self.backward].into_iter().flatten().map(|part| part.seconds).sum()
    }
}

/// Groups the times of nodes by layer, in the order of the forward pass.
pub(super) fn by_layer<'a>(times: impl IntoIterator<Item = (&'a PreparedNode, f64)>) -> Vec<LayerTime> {
    let mut layers: Vec<LayerTime> = Vec::new();
    for (node, seconds) in times {
        let name = node.adjoint_of.as_ref().unwrap_or(&node.label);
        let at = layers.iter().position(|layer| layer.layer == *name).unwrap_or_else(|| {
            layers.push(LayerTime { layer: name.clone(), forward: None, backward: None });
            layers.len() - 1
        });
        let layer = &mut layers[at];
        let part = if node.adjoint_of.is_some() { &mut layer.backward } else { &mut layer.forward };
        let part = part.get_or_insert(PartTime { variants: Vec::new(), seconds: 0.0 });
        part.seconds += seconds;
        if !part.variants.contains(&node.variant) {
            part.variants.push(node.variant);
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Add, Shape, Signature};
    use std::sync::Arc;

    #[test]
    fn forward_and_backward_of_a_layer_are_grouped() {
        let node = |label: &str, adjoint_of: Option<&str>, variant| PreparedNode {
            label: label.to_owned(),
            adjoint_of: adjoint_of.map(str::to_owned),
            op: Arc::new(Add),
            signature: Signature::of(&Add, &[Shape::Vector(1); 2]).unwrap(),
            variant,
        };
        let nodes = [
            node("relu1_1", None, "texture"),
            node("relu1_2", None, "texture"),
            node("d relu1_1 by relu1_2", Some("relu1_2"), "buffer"),
            node("d relu1_1", Some("relu1_2"), "naive"),
            node("d picture by relu1_1", Some("relu1_1"), "texture"),
        ];
        let layers = by_layer(nodes.iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]));
        assert_eq!(layers.len(), 2);
        assert_eq!((layers[0].layer.as_str(), layers[0].seconds()), ("relu1_1", 6.0));
        assert_eq!((layers[1].layer.as_str(), layers[1].seconds()), ("relu1_2", 9.0));
        let backward = layers[1].backward.as_ref().unwrap();
        assert_eq!((backward.variants.as_slice(), backward.seconds), (&["buffer", "naive"][..], 7.0));
    }
}
