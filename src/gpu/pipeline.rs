//! Compute pipelines, created once each and in parallel.

use super::Context;
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Everything that defines a pipeline.
#[derive(Debug, Clone)]
pub struct PipelineKey {
    /// Name for labels and messages, e.g. `conv_tiles/forward 8x16`.
    pub label: String,
    /// Final WGSL.
    pub source: Arc<str>,
    /// True if the source is built in, not a user's.
    pub built_in: bool,
    /// Name of the entry point.
    pub entry: &'static str,
    /// Layout of the bindings, reflected from the source.
    pub layout: Vec<wgpu::BindGroupLayoutEntry>,
}

impl PipelineKey {
    /// Hash of everything that determines the machine code.
    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.source, self.built_in, self.entry).hash(&mut hasher);
        hasher.finish()
    }
}

/// A compiled pipeline and the layout of its only bind group.
#[derive(Debug)]
pub struct Pipeline {
    /// wgpu's pipeline.
    pub compute: wgpu::ComputePipeline,
    /// Layout of bind group 0.
    pub layout: wgpu::BindGroupLayout,
}

/// Pipelines by content, so rebuilt graphs (another size, another scale) can reuse them.
#[derive(Debug, Default)]
pub struct PipelineCache {
    compiled: Mutex<HashMap<u64, Arc<Pipeline>>>,
}

impl PipelineCache {
    /// Returns the pipelines of these keys, in order. Missing ones are compiled on all cores.
    ///
    /// # Errors
    /// [`Error::Gpu`] if the API rejects a shader or a pipeline.
    pub fn get(&self, context: &Context, keys: &[PipelineKey]) -> Result<Vec<Arc<Pipeline>>> {
        // Sources are long and a plan has hundreds of dispatches, so each key is hashed only once.
        let hashes: Vec<u64> = keys.iter().map(PipelineKey::hash).collect();
        let mut missing: Vec<(u64, &PipelineKey)> = Vec::new();
        {
            let compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
            for (hash, key) in hashes.iter().zip(keys) {
                if !compiled.contains_key(hash) && !missing.iter().any(|(other, _)| other == hash) {
                    missing.push((*hash, key));
                }
            }
        }
        // Longest first, so no thread is left with the longest one at the end.
        missing.sort_by_key(|(_, key)| std::cmp::Reverse(key.source.len()));
        let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let fresh = Mutex::new(Vec::with_capacity(missing.len()));
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads.min(missing.len()) {
                scope.spawn(|| {
                    while let Some((hash, key)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let _span = context.trace().map(|trace| trace.host("compiling", &key.label));
                        let pipeline = Arc::new(create(context, key));
                        fresh.lock().unwrap_or_else(PoisonError::into_inner).push((*hash, pipeline));
                    }
                });
            }
        });
        // wgpu returns a pipeline even if it reports an error, so nothing is kept in that case.
        context.check("compiling the kernels")?;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.extend(fresh.into_inner().unwrap_or_else(PoisonError::into_inner));
        hashes
            .iter()
            .zip(keys)
            .map(|(hash, key)| {
                compiled
                    .get(hash)
                    .cloned()
                    .ok_or_else(|| Error::gpu(key.label.clone(), "the pipeline was not created"))
            })
            .collect()
    }

    /// Returns the hashes of all pipelines.
    pub fn hashes(&self) -> HashSet<u64> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Releases all pipelines except those with these hashes.
    pub fn keep(&self, hashes: &HashSet<u64>) {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).retain(|hash, _| hashes.contains(hash));
    }

    /// Number of compiled pipelines.
    pub fn len(&self) -> usize {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// True if no pipeline has been compiled.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn create(context: &Context, key: &PipelineKey) -> Pipeline {
    let device = context.device();
    let label = Some(key.label.as_str());
    let descriptor =
        wgpu::ShaderModuleDescriptor { label, source: wgpu::ShaderSource::Wgsl(key.source.as_ref().into()) };
    let module = if key.built_in {
        without_loop_counters(device, descriptor)
    } else {
        device.create_shader_module(descriptor)
    };
    let layout =
        device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &key.layout });
    let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label,
        bind_group_layouts: &[Some(&layout)],
        immediate_size: 0,
    });
    let compute = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label,
        layout: Some(&pipeline_layout),
        module: &module,
        entry_point: Some(key.entry),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Kernels write workgroup memory before they read it; tests poison it.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    Pipeline { compute, layout }
}

/// Creates a module without the loop counters that end infinite loops. On an NVIDIA H200 the counters took a fifth of
/// the time of Winograd's products. All other checks stay.
#[allow(unsafe_code, reason = "wgpu can't know that the loops end")]
fn without_loop_counters(
    device: &wgpu::Device,
    descriptor: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    let mut checks = wgpu::ShaderRuntimeChecks::checked();
    checks.force_loop_bounding = false;
    // SAFETY: only used for built-in shaders. Each of their loops counts up or down to a limit that does not
    // change (`tests/kernels/variants.rs` checks the form), in steps that are constants or sizes of at least 1.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}
