//! How the gradients of an objective are computed: in one pass of the whole picture, or in passes over its tiles.

use super::build::{Build, GradientsBy};
use super::loss::Group;
use super::request::Request;
use super::sources::Sources;
use super::tiles::{Subject, TileGradients, Tiles};
use crate::error::Result;
use crate::graph::{Memory, MemoryUse, Program, TensorId};
use crate::ops::{Reduce, ReduceKind};

/// Section that computes losses and classes.
pub(super) const LOSSES: &str = "losses";
/// Section that computes the gradient.
pub(super) const GRADIENT: &str = "gradient";
/// Section that computes the gradient of each measured group by itself, at weight 1, and its norm.
pub(super) const GROUPS: &str = "groups";

/// The gradients in the graph of an objective.
pub(super) struct Passes {
    /// Memory of the gradient of the whole objective.
    pub gradient: Memory,
    /// Sections that compute gradients and norms.
    pub sections: Vec<(String, Vec<TensorId>)>,
    /// The norm of each measured group's gradient, with its name.
    pub norms: Vec<(String, TensorId)>,
    /// The sum of the groups' gradients, if there is one, the memory of its weights, and the group of each; `None` for the
    /// gradient of all other losses.
    pub sum: Option<(TensorId, Memory, Vec<Option<String>>)>,
    /// What tiles need.
    tiled: Option<(TileGradients, Vec<[String; 2]>)>,
}

impl Passes {
    /// Appends the gradients of the losses that `build` has. `group_of` gives the measured group of each, if it has one.
    ///
    /// # Errors
    /// If the device fails or has too little memory, or no loss depends on the picture.
    pub fn append(
        build: &mut Build<'_>,
        sources: &Sources<'_>,
        (groups, group_of): (&[Group], &[Option<usize>]),
        picture: TensorId,
        request: &Request,
    ) -> Result<Self> {
        let mut norms = Vec::new();
        let mut norm = |build: &mut Build<'_>, group: &str, gradient| -> Result<TensorId> {
            let label = norm_name(group);
            let norm = build.graph.apply(Reduce { kind: ReduceKind::L1 }, &[gradient], label.clone())?;
            norms.push((label, norm));
            Ok(norm)
        };
        let Some(assembly) = &sources.assembly else {
            let gradients = build.gradients(groups, group_of, picture, request.recompute)?;
            let gradient = build.keep(gradients.all)?;
            let mut of_groups = Vec::new();
            for (group, gradient) in &gradients.groups {
                of_groups.push(norm(build, group, *gradient)?);
            }
            // Only runs with shares measure the groups just before a step.
            let sum = if request.has_shares() || request.adjustable {
                let (sum, weights, groups) = build.sum_of_groups(&gradients)?;
                build.bind(sum, &gradient);
                Some((sum, weights, groups))
            } else {
                None
            };
            let sections = vec![(GRADIENT.to_owned(), vec![gradients.all]), (GROUPS.to_owned(), of_groups)];
            return Ok(Self { gradient, sections, norms, sum, tiled: None });
        };
        let shape = build.graph.shape(picture);
        let gradients = assembly.gradients(build, shape, request.recompute)?;
        let gradient = gradients.picture.clone();
        let by = assembly.sums().map(|sum| sum.tensor).zip(gradients.sums.iter().cloned());
        let by: Vec<(TensorId, Memory)> = by.chain([(picture, gradient.clone())]).collect();
        let GradientsBy { all, groups: of_groups } = build.gradients_by(groups, group_of, &by)?;
        let mut sections = vec![(GRADIENT.to_owned(), all)];
        let mut names = Vec::new();
        for (group, by_sums) in of_groups {
            let whole = build.alias(&format!("{group} gradient"), &gradient, shape);
            let name = [format!("{GROUPS} {group}"), norm_name(&group)];
            sections.push((name[0].clone(), by_sums));
            sections.push((name[1].clone(), vec![norm(build, &group, whole)?]));
            names.push(name);
        }
        Ok(Self { gradient, sections, norms, sum: None, tiled: Some((gradients, names)) })
    }

    /// The passes over tiles, prepared, if there are any.
    ///
    /// # Errors
    /// If the device fails or has too little memory.
    pub fn tiled(self, sources: &Sources<'_>, subject: Subject<'_>) -> Result<Option<TiledPasses>> {
        let (Some(assembly), Some((gradients, groups))) = (&sources.assembly, self.tiled) else {
            return Ok(None);
        };
        Ok(Some(TiledPasses { tiles: assembly.prepare(subject, Some(&gradients))?, groups }))
    }
}

/// The passes over the tiles of a picture.
#[derive(Debug)]
pub(super) struct TiledPasses {
    tiles: Tiles,
    /// For each measured group, the section that computes its gradient as far as the tiles, and that of its norm.
    groups: Vec<[String; 2]>,
}

impl TiledPasses {
    /// Submits what these sections need of the tiles, and those of them that compute gradients; returns the others. Waits
    /// for nothing.
    ///
    /// # Errors
    /// If the device fails.
    pub fn submit<'a>(&self, program: &Program, sections: &[&'a str]) -> Result<Vec<&'a str>> {
        let wanted = |section| sections.contains(&section);
        if wanted(LOSSES) || wanted(GRADIENT) || wanted(GROUPS) {
            self.tiles.forward()?;
        }
        // What is left in the gradient's memory at the end is that of the whole objective.
        for [gradient, norm] in self.groups.iter().filter(|_| wanted(GROUPS)) {
            program.submit(&[gradient], &[], "a group's gradient")?;
            self.tiles.backward()?;
            program.submit(&[norm], &[], "a group's norm")?;
        }
        if wanted(GRADIENT) {
            program.submit(&[GRADIENT], &[], "gradient")?;
            self.tiles.backward()?;
        }
        Ok(sections.iter().copied().filter(|section| ![GRADIENT, GROUPS].contains(section)).collect())
    }

    /// Device memory in use besides the objective's program.
    pub fn memory(&self) -> MemoryUse {
        self.tiles.memory()
    }
}

/// Name of a group's norm.
pub(super) fn norm_name(group: &str) -> String {
    format!("{group} gradient norm")
}
