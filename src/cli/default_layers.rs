//! Default layers for networks other than the usual VGGs.

use crate::mirage::preset::{ABSTRACT, LayerWeight, Preset, SPATIAL, STYLE};
use crate::vgg::{LayerKind, Network};

/// Replaces default layers that the network lacks by similar ones, and returns notes about the changes.
pub(super) fn adapt(
    preset: &mut Preset,
    network: &Network,
    is_default: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut notes = Vec::new();
    let exists = |layer: &LayerWeight| network.layers.iter().any(|l| l.name == layer.layer);
    let relus = relus(network);
    let mut fit = |name: &str, layers: &mut Vec<LayerWeight>, better: Vec<String>| {
        if !is_default(name) || layers.iter().all(exists) {
            return;
        }
        let chosen = if better.is_empty() { "none".to_owned() } else { better.join(",") };
        notes.push(format!("the network lacks a default layer: using --{name} {chosen}"));
        *layers = better.into_iter().map(|layer| LayerWeight { layer, weight: 1.0 }).collect();
    };

    // Layout: the last ReLU of the block before the last, as relu4_2 is near the end of the fourth block of five.
    let spatial = relus.iter().rev().nth(1).or(relus.last()).and_then(|block| block.last());
    fit(SPATIAL, &mut preset.spatial.layers, spatial.into_iter().cloned().collect());
    // Style: the first ReLU of each block.
    let style = relus.iter().filter_map(|block| block.first()).cloned().collect();
    fit(STYLE, &mut preset.style.layers, style);
    if network.has_head() {
        let last = network.layers.iter().rev().find(|layer| matches!(layer.kind, LayerKind::Linear(_)));
        let last = last.map(|layer| layer.name.clone()).into_iter().collect();
        fit(ABSTRACT, &mut preset.abstracted.layers, last);
    } else if is_default(ABSTRACT) && !preset.abstracted.layers.is_empty() {
        preset.abstracted.layers.clear();
        notes
            .push("the network has no fully connected layers, so the abstract factor is left out".to_owned());
    }
    notes
}

/// Returns the names of the ReLUs, block by block, without empty blocks.
fn relus(network: &Network) -> Vec<Vec<String>> {
    let mut blocks = vec![Vec::new()];
    for layer in &network.layers {
        match (&layer.kind, blocks.last_mut()) {
            (LayerKind::Relu, Some(block)) => block.push(layer.name.clone()),
            (LayerKind::Pool { .. }, _) => blocks.push(Vec::new()),
            // Later layers belong to the head.
            (LayerKind::AdaptivePool { .. } | LayerKind::Linear(_), _) => break,
            _ => {}
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}
