//! Appends the gradients of an objective: in one pass over the whole picture, or in passes over its tiles.

use super::build::{Build, GroupSum, TensorGradients};
use super::sections::{GRADIENT, GROUPS};
use super::sources::Sources;
use super::tiling::graph::TileGradients;
use crate::error::Result;
use crate::graph::{Memory, TensorId};
use crate::mirage::loss::Group;
use crate::mirage::request::Request;
use crate::ops::{Reduce, ReduceKind};

/// Gradients in the graph of an objective.
pub(in crate::mirage) struct GradientGoals {
    /// Sections that compute gradients and norms.
    pub sections: Vec<(String, Vec<TensorId>)>,
    /// Norm of each measured group's gradient, with its name.
    pub norms: Vec<(String, TensorId)>,
    /// Path from the losses to the picture.
    pub path: GradientPath,
}

/// Path by which gradients reach the picture.
pub(in crate::mirage) enum GradientPath {
    /// Within the graph.
    Whole {
        /// Memory of the gradient of the whole objective.
        gradient: Memory,
        /// Sum of the groups' gradients, if any weights are measured.
        sum: Option<GroupSum>,
    },
    /// Through the tiles' backward pass.
    Tiles {
        /// Input of the backward pass over the tiles.
        gradients: TileGradients,
        /// For each measured group, the section that computes its gradient with respect to the sums over tiles, and its
        /// name.
        groups: Vec<[String; 2]>,
    },
}

impl GradientGoals {
    /// Appends the gradients of the losses in `build`. `group_of` is the index of each loss's measured group, if any.
    ///
    /// # Errors
    /// If the device fails or has too little memory, or if no loss depends on the picture.
    pub fn append(
        build: &mut Build<'_>,
        sources: &Sources<'_>,
        (groups, group_of): (&[Group], &[Option<usize>]),
        picture: TensorId,
        request: &Request,
    ) -> Result<Self> {
        let Some(assembly) = &sources.assembly else {
            let gradients = build.gradients(groups, group_of, picture, request.activations.recompute)?;
            let gradient = build.keep(gradients.all)?;
            let mut norms = Vec::new();
            for (group, gradient) in &gradients.groups {
                let label = norm_name(group);
                let norm = build.graph.apply(Reduce { kind: ReduceKind::L1 }, &[*gradient], label.clone())?;
                norms.push((label, norm));
            }
            let of_groups: Vec<TensorId> = norms.iter().map(|(_, norm)| *norm).collect();
            // Only runs with shares measure the groups directly before a step.
            let sum = if request.has_shares() || request.adjustable {
                let sum = build.sum_of_groups(&gradients)?;
                build.bind(sum.tensor, &gradient);
                Some(sum)
            } else {
                None
            };
            let sections = vec![(GRADIENT.to_owned(), vec![gradients.all]), (GROUPS.to_owned(), of_groups)];
            return Ok(Self { sections, norms, path: GradientPath::Whole { gradient, sum } });
        };
        let gradients = assembly.gradients(build, request.activations)?;
        let by: Vec<(TensorId, Memory)> =
            assembly.sums().map(|sum| sum.tensor).zip(gradients.sums.iter().cloned()).collect();
        let TensorGradients { all, groups: of_groups } = build.gradients_wrt(groups, group_of, &by)?;
        let mut sections = vec![(GRADIENT.to_owned(), all)];
        let mut names = Vec::new();
        for (group, by_sums) in of_groups {
            let section = format!("{GROUPS} {group}");
            sections.push((section.clone(), by_sums));
            names.push([section, group]);
        }
        Ok(Self { sections, norms: Vec::new(), path: GradientPath::Tiles { gradients, groups: names } })
    }
}

/// Returns the name of a group's norm.
pub(in crate::mirage) fn norm_name(group: &str) -> String {
    format!("{group} gradient norm")
}
