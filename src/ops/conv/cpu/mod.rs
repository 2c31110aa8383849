//! Convolutions on the CPU: Winograd's F(4x4, 3x3), or the direct sum where it is faster or requested. All methods work
//! on blocks of 16 channels, whatever the vector width of the machine.

mod direct;
mod edges;
mod epilogue;
mod filters;
mod layout;
mod naive;
mod pooling;
mod products;
mod transforms;
mod weights;
mod winograd;

use super::convolution::{Conv, GradientEpilogue, Padding};
use super::filter::Filter;
use super::pool_indices::PoolIndices;
use crate::gpu::Profile;
use crate::ops::cpu::Scratch;
use crate::ops::relu::mask_gradient;
use crate::ops::{CpuCall, CpuConstant, CpuKernel, MapLayout};
use epilogue::Epilogue;
use layout::Placement;
use std::borrow::Cow;
use std::sync::Arc;
use weights::Packing;

/// Up to this many input channels the direct sum is faster than the transforms.
const FEW_CHANNELS: usize = 4;

/// Method of a convolution or its adjoint.
enum Method {
    Winograd(winograd::Winograd),
    Direct(direct::Direct),
    Naive,
}

impl Method {
    /// Weights in this method's layout.
    fn weights(&self, filter: &Arc<Filter>, packing: Packing) -> CpuConstant {
        match self {
            Self::Winograd(winograd) => winograd.weights(filter, packing),
            Self::Direct(_) => weights::direct(filter, packing),
            Self::Naive => weights::plain(filter),
        }
    }

    /// Floats of scratch memory.
    fn scratch(&self) -> usize {
        match self {
            Self::Winograd(winograd) => winograd.scratch(),
            Self::Direct(_) | Self::Naive => 0,
        }
    }
}

/// Chooses the method for a convolution, or its adjoint, with this placement.
fn choose(conv: &Conv, place: Placement, adjoint: bool, device: &Profile) -> Method {
    match conv.tuned_taps() {
        Some(9) if !device.exact && place.input.channels > FEW_CHANNELS => {
            Method::Winograd(winograd::Winograd::new(place, adjoint))
        }
        Some(taps) if direct::Direct::takes(place) => Method::Direct(direct::Direct::new(place, taps)),
        _ => Method::Naive,
    }
}

/// CPU kernel of the convolution from `input` to `output` (the map before a pool).
pub(super) fn forward(conv: &Conv, input: MapLayout, output: MapLayout, device: &Profile) -> CpuKernel {
    let repeats = conv.mode == Padding::Replicate && conv.tuned_taps() == Some(9);
    let placement = match (conv.tuned_taps(), repeats) {
        (Some(9), false) => Placement { input, output, origin: -1 },
        (Some(9), true) => Placement { input: edges::padded(input), output, origin: 0 },
        _ => Placement { input, output, origin: 0 },
    };
    let method = choose(conv, placement, false, device);
    let repeats = repeats && !matches!(method, Method::Naive);
    let weights = method.weights(&conv.filter, Packing::Forward);
    // The map with its edges repeated, and the map before the pool.
    let repeated = if repeats { edges::padded(input).texels() * 4 } else { 0 };
    let whole = if conv.pool { output.texels() * 4 } else { 0 };
    let transformed = method.scratch();
    let conv = conv.clone();
    let bias = weights::bias(&conv.filter);
    let run = move |call: CpuCall<'_>| {
        let CpuCall { inputs, output: result, saved, constants, .. } = call;
        let (weights, bias) = (constants[0].f32(), constants[1].f32());
        let epilogue = Epilogue { bias: Some(bias), relu: conv.relu, add: false, mask: None };
        let from: Cow<'_, [f32]> =
            if repeats { edges::repeat(inputs[0], input).into() } else { inputs[0].into() };
        let compute = |result: &mut [f32]| match &method {
            Method::Winograd(winograd) => winograd.run(&from, None, weights, &epilogue, result),
            Method::Direct(direct) => direct.run(&from, weights, &epilogue, result),
            Method::Naive => naive::forward(&conv, [input, output], &from, weights, &epilogue, result),
        };
        if conv.pool {
            let mut whole = Scratch::new(output.texels() * 4);
            compute(&mut whole);
            pooling::pool(PoolIndices::of(output), &whole, result, saved);
        } else {
            compute(result);
        }
    };
    let kernel = CpuKernel::new(run).scratch(transformed).scratch(whole).temporary(repeated);
    kernel.constant(weights).constant(bias)
}

/// CPU kernel of the adjoint: from the gradient of `output` (the map before a pool) to that of `input`, with the
/// epilogue.
pub(super) fn backward(
    conv: &Conv,
    fused: GradientEpilogue,
    [input, output]: [MapLayout; 2],
    device: &Profile,
) -> CpuKernel {
    let repeats = conv.mode == Padding::Replicate && conv.tuned_taps() == Some(9);
    let placement = match (conv.tuned_taps(), repeats) {
        (Some(9), false) => Placement { input: output, output: input, origin: -1 },
        // Computes the gradient of the padded map; its edges are then folded.
        (Some(9), true) => Placement { input: output, output: edges::padded(input), origin: -2 },
        _ => Placement { input: output, output: input, origin: 0 },
    };
    let method = choose(conv, placement, true, device);
    let folds = repeats && !matches!(method, Method::Naive);
    let weights = method.weights(&conv.filter, Packing::Adjoint);
    // Buffers for the gradient before the pool or masked by the ReLU, and for the gradient of the padded map.
    let masks = conv.relu && !matches!(method, Method::Winograd(_));
    let of_output = |needed: bool| if needed { output.texels() * 4 } else { 0 };
    let whole = if folds { edges::padded(input).texels() * 4 } else { 0 };
    let (transformed, routed) = (method.scratch(), of_output(conv.pool));
    let masked = of_output(masks && !conv.pool);
    let conv = conv.clone();
    let run = move |call: CpuCall<'_>| {
        let CpuCall { inputs, output: result, constants, .. } = call;
        let weights = constants[0].f32();
        let mask = fused.mask.then(|| inputs[2 + usize::from(fused.add)]);
        let epilogue = Epilogue { bias: None, relu: false, add: fused.add, mask };
        let activation = (conv.relu && !conv.pool).then_some(inputs[0]);
        let routed = conv.pool.then(|| {
            let mut routed = Scratch::new(output.texels() * 4);
            pooling::route(PoolIndices::of(output), inputs[0], inputs[1], &mut routed);
            routed
        });
        let upstream = routed.as_deref().unwrap_or(inputs[1]);
        // For methods that don't mask the input themselves.
        let masked = || match activation {
            Some(activation) => {
                let mut masked = vec![0.0; upstream.len()];
                mask_gradient(&mut masked, activation, upstream);
                Cow::Owned(masked)
            }
            None => Cow::Borrowed(upstream),
        };
        let compute = |epilogue: &Epilogue<'_>, result: &mut [f32]| match &method {
            Method::Winograd(winograd) => winograd.run(upstream, activation, weights, epilogue, result),
            Method::Direct(direct) => direct.run(&masked(), weights, epilogue, result),
            Method::Naive => naive::backward(&conv, [input, output], &masked(), weights, epilogue, result),
        };
        if folds {
            let mut whole = Scratch::new(edges::padded(input).texels() * 4);
            compute(&Epilogue::default(), &mut whole);
            edges::fold(&whole, input, &epilogue, result);
        } else {
            compute(&epilogue, result);
        }
    };
    let kernel = CpuKernel::new(run).scratch(transformed).scratch(routed).scratch(whole);
    kernel.temporary(masked).constant(weights)
}
