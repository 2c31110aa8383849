#!/usr/bin/env python3
"""Writes the PyTorch goldens that the Rust tests read: tests/golden/{ops,tiny_vgg,objective}.safetensors.

How to run it (it installs nothing itself):

    python3 -m venv tools/.venv
    tools/.venv/bin/pip install torch numpy safetensors      # any CPU build of torch will do
    tools/.venv/bin/python tools/make_goldens.py             # a minute or two

All random numbers come from numpy generators seeded by the case's name, every input is rounded to f32 first,
everything is then computed in f64 and stored as F32. Losses and totals stand as f64 numbers in the JSON. The same
torch version gives the same bytes (this file writes safetensors itself, as the official writer orders metadata at
random).

Conventions: no batch dimension: maps are (C,H,W), vectors (N,), matrices (R,C), conv weights OIHW, linear weights
(out,in); scalars are vectors of length 1. "upstream" is dLoss/dOutput, random, and "gradients" holds dLoss/dInput
for each input, or null.

ops.safetensors, metadata "cases": JSON list of
    {"name", "op", "attrs", "inputs": [key], "output": key, "upstream": key|null, "gradients": [key|null]}
  Several cases may share input keys (OP/data_...). What is not evident from the attribute names:
    conv             cross-correlation as in PyTorch; pad_mode "zeros" or "replicate"
    pool             ceil is PyTorch's ceil_mode; avg counts the padding (count_include_pad true); max sends its
                     gradient to the first maximum in row-major order; tied inputs are there to see that
    adaptive_pool    window i is floor(i*n/size) .. ceil((i+1)*n/size); max as above
    gram             G = F F^T / (C*N), N = H*W; upstream is not symmetric
    mse              weight * mean((F-T)^2)
    gram_mse         weight * mean over C^2 of (G-A)^2; A is another map's Gram matrix, in cases *_asymmetric not
    total_variation  0.5 * weight * sum over the (H-1)x(W-1) region of (dx^2+dy^2)
    preprocess       net[k] = rgb[order[k]] * scale[k] + bias[k]
    resize           torch.nn.functional.interpolate; bicubic has A = -0.75; area is adaptive average pooling; no
                     gradients
    reduce           one number; nonfinite counts NaN and infinities; no gradients
    adam             inputs x0, g_1 .. g_steps; output is (steps, N), row k being x after step k+1; clamp is null
                     or [lo, hi], applied after each step, moments untouched

tiny_vgg.safetensors: a VGG-16 with 6, 8, 10, 12, 12 channels and a 20-18-11 head, Caffe key names, metadata like
  weights/vgg16-narrow.safetensors.

objective.safetensors (on tiny_vgg), metadata "cases": JSON object with
    "images":      keys of the pictures, RGB in [0,1], (3,H,W)
    "activations": [{"image", "pooling", "layer", "key"}]: conv1_1 (before ReLU), relu1_1, ..., pool1, ..., pool5,
                   pool5_7x7 (adaptive max pooling, (12,7,7)), fc6, relu6, fc7, relu7, fc8, prob
    "requests":    [{"name", "photo", "start", "pooling", "terms", "tv_weight", "style_images", "expected"}]
                   terms: {"factor": "spatial"|"abstract"|"style", "layer", "weight", "layer_factor"}
                   style_images: [{"image", "blend"}], A = sum of blend_i * G_i (the blends sum to 1)
                   expected: {"losses" (one per term, weighted), "tv_loss", "total", "gradient" (key; with respect
                   to the RGB picture), "term_gradient_norms" (L2, to find a culprit), "tv_gradient_norm",
                   "f32_noise" (relative L2 between PyTorch's own f32 gradient and this one)}
    "trajectories": [{"name", "request", "start", "lr", "beta1", "beta2", "eps", "steps", "clamp",
                   "losses" [steps+1][terms], "tv_losses", "totals", "final_image" (key),
                   "f32_noise": {"max_abs", "relative_l2"}}]
                   the request with another start picture; entry i of the losses is taken after i steps
  spatial and abstract: weight*layer_factor*mean((F-T)^2), T from the photo. style: weight*layer_factor*mean((G-A)^2).
  TV as above, on the RGB picture in [0,1] (so tv_weight = 255^2 times a weight meant for 0..255). Dropout is the
  identity. Adaptive pooling before fc6 is always max, also where "pooling" is "avg".
  One flipped ReLU or max pool changes a gradient by far more than rounding does. So the start pictures are picked
  from many seeds: "start" and "start_large" for the widest margin of every switch ("switch_margin", relative to the
  layer's root mean square), "start_calm" for ten-step trajectories that slightly wrong weights hardly disturb.
"""

import argparse
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)

F64 = torch.float64


# --- files and random numbers ---------------------------------------------------------------------------------------


def save(path, tensors, metadata):
    """Writes a safetensors file of F32 tensors whose bytes depend on the content alone."""
    header, blobs, offset = {"__metadata__": metadata}, [], 0
    for key in sorted(tensors):
        blob = np.ascontiguousarray(tensors[key], dtype="<f4").tobytes()
        span = [offset, offset + len(blob)]
        header[key] = {"dtype": "F32", "shape": list(tensors[key].shape), "data_offsets": span}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size / 1024:.0f} KiB")


def rng(name):
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def as_f32(array):
    """An f64 tensor whose values are exact in f32: what the Rust side reads is what is computed with here."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.asarray(array, dtype=np.float32).astype(np.float64))


# --- single operations ----------------------------------------------------------------------------------------------


class Ops:
    def __init__(self):
        self.tensors, self.cases, self.names = {}, [], set()

    def add(self, op, name, attrs, inputs, compute, wrt=(0,), differentiable=True):
        """Adds a case. `inputs` is a list of (label, tensor) or of (shared key, tensor) with a "/" in the key."""
        name = f"{op}/{name}"
        assert name not in self.names, name
        self.names.add(name)
        keys, leaves = [], []
        for index, (label, value) in enumerate(inputs):
            key = label if "/" in label else f"{name}/{label}"
            if key in self.tensors:
                assert np.array_equal(self.tensors[key], value.numpy(), equal_nan=True), key
            self.tensors[key] = value.numpy()
            keys.append(key)
            leaves.append(value.clone().requires_grad_(differentiable and index in wrt))
        result = compute(*leaves)
        if result.dim() == 0:
            result = result.reshape(1)
        assert result.dtype == F64 and result.numel() > 0, name
        self.tensors[f"{name}/output"] = result.detach().numpy()
        case = {"name": name, "op": op, "attrs": attrs, "inputs": keys, "output": f"{name}/output"}
        case["upstream"], case["gradients"] = None, [None] * len(keys)
        if differentiable:
            upstream = as_f32(rng(name + "/upstream").standard_normal(tuple(result.shape)))
            result.backward(upstream)
            case["upstream"] = f"{name}/upstream"
            self.tensors[case["upstream"]] = upstream.numpy()
            for index in wrt:
                case["gradients"][index] = f"{name}/grad_{index}"
                self.tensors[f"{name}/grad_{index}"] = leaves[index].grad.numpy()
        self.cases.append(case)
        return case


def normal(name, *shape, scale=1.0, shift=0.0):
    return as_f32(rng(name).standard_normal(shape) * scale + shift)


def with_ties(name, *shape):
    """As after a ReLU: about half exact zeros, and positive values in steps of a quarter, so that maxima tie too."""
    return as_f32(np.maximum(np.round(rng(name).standard_normal(shape) * 4) / 4, 0))


def conv(x, weight, bias, stride, padding, pad_mode):
    x = x[None]
    if pad_mode == "replicate":
        x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]), mode="replicate")
        padding = (0, 0)
    return F.conv2d(x, weight, bias, stride=tuple(stride), padding=tuple(padding))[0]


def gram(f):
    flat = f.reshape(f.shape[0], -1)
    return flat @ flat.T / flat.numel()


def total_variation(x, weight):
    corner = x[:, :-1, :-1]
    dx, dy = x[:, :-1, 1:] - corner, x[:, 1:, :-1] - corner
    return 0.5 * weight * ((dx**2).sum() + (dy**2).sum())


def preprocess(rgb, order, scale, bias):
    column = lambda v: torch.tensor(v, dtype=rgb.dtype).reshape(3, 1, 1)
    return rgb[list(order)] * column(scale) + column(bias)


CAFFE = {"order": [2, 1, 0], "scale": [255.0] * 3, "bias": [-103.939, -116.779, -123.68]}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION = {
    "order": [0, 1, 2],
    "scale": [1 / s for s in STD],
    "bias": [-m / s for m, s in zip(MEAN, STD)],
}


def add_convs(ops):
    def case(label, c_in, c_out, h, w, kernel, stride=(1, 1), padding=(0, 0), mode="zeros"):
        name = f"{label}_{c_in}to{c_out}_{h}x{w}"
        fan_in = c_in * kernel[0] * kernel[1]
        attrs = {"kernel": list(kernel), "stride": list(stride), "padding": list(padding), "pad_mode": mode}
        data = f"conv/data_{name.replace('_zero', '').replace('_replicate', '')}"  # both paddings share it
        inputs = [
            (f"{data}/x", normal(f"{data}/x", c_in, h, w)),
            (f"{data}/weight", normal(f"{data}/weight", c_out, c_in, *kernel, scale=(2 / fan_in) ** 0.5)),
            (f"{data}/bias", normal(f"{data}/bias", c_out, scale=0.5)),
        ]
        ops.add("conv", name, attrs, inputs, lambda x, w, b: conv(x, w, b, stride, padding, mode))

    for mode in ("zeros", "replicate"):
        tag = "zero" if mode == "zeros" else "replicate"
        for c_in, c_out, h, w in [(3, 5, 5, 7), (5, 3, 1, 1), (8, 4, 2, 13), (4, 4, 17, 3), (9, 7, 11, 6)]:
            case(f"3x3_{tag}", c_in, c_out, h, w, (3, 3), padding=(1, 1), mode=mode)
        case(f"5x5_{tag}", 3, 6, 8, 9, (5, 5), padding=(2, 2), mode=mode)
        case(f"7x3_{tag}", 4, 5, 9, 6, (7, 3), padding=(3, 1), mode=mode)
        case(f"11x11_stride4_{tag}", 3, 4, 35, 29, (11, 11), stride=(4, 4), padding=(2, 2), mode=mode)
        case(f"3x3_stride2_{tag}", 4, 6, 9, 13, (3, 3), stride=(2, 2), padding=(1, 1), mode=mode)
    case("3x3_zero", 16, 20, 6, 5, (3, 3), padding=(1, 1))
    case("3x3_stride2_even", 3, 5, 8, 6, (3, 3), stride=(2, 2), padding=(1, 1))
    case("3x3_stride2x1", 3, 4, 7, 7, (3, 3), stride=(2, 1), padding=(1, 0))
    case("1x1", 5, 7, 4, 9, (1, 1))
    case("1x1", 13, 2, 1, 3, (1, 1))
    case("2x2_nopad", 3, 4, 5, 8, (2, 2))
    case("3x3_nopad", 4, 6, 7, 5, (3, 3))
    case("3x3_nopad", 2, 3, 3, 3, (3, 3))


def add_activations_and_losses(ops):
    for shape in [(5, 7, 3), (1,), (263,)]:
        name = "x".join(map(str, shape))
        x = normal(f"relu/{name}", *shape)
        x.reshape(-1)[::5] = 0.0  # the gradient at exactly zero is zero
        ops.add("relu", name, {}, [("x", x)], F.relu)

    for n, scale in [(1000, 1), (7, 1), (1, 1), (509, 80), (7, 80), (257, 5)]:
        name = f"{n}_pm{scale}"
        values = rng(f"softmax/{name}").uniform(-scale, scale, n) if scale == 80 else normal(
            f"softmax/{name}", n, scale=scale)
        ops.add("softmax", name, {}, [("x", as_f32(values))], lambda x: F.softmax(x, dim=0))

    for n_in, n_out in [(7, 5), (1, 1), (37, 1), (1, 13), (53, 37), (149, 11), (64, 32)]:
        name = f"{n_in}to{n_out}"
        inputs = [
            ("x", normal(f"linear/{name}/x", n_in)),
            ("weight", normal(f"linear/{name}/weight", n_out, n_in, scale=n_in**-0.5)),
            ("bias", normal(f"linear/{name}/bias", n_out, scale=0.5)),
        ]
        ops.add("linear", name, {}, inputs, lambda x, w, b: F.linear(x, w, b))

    for shape in [(3, 5, 7), (5, 4, 9), (16, 6, 11), (5, 1, 1), (18, 17, 3)]:
        name = "x".join(map(str, shape))
        # A mean other than zero, as after a ReLU, gives off-diagonal entries that matter.
        f = normal(f"gram/{name}", *shape, shift=0.5)
        ops.add("gram", name, {}, [("f", f)], gram)

    for shape, weight in [((3, 5, 7), 1.0), ((5, 4, 9), 12.5), ((1,), 3.0), ((1000,), 0.25), ((11,), 1000.0)]:
        name = "x".join(map(str, shape))
        inputs = [("f", normal(f"mse/{name}/f", *shape)), ("target", normal(f"mse/{name}/t", *shape))]
        ops.add("mse", name, {"weight": weight}, inputs, lambda f, t, w=weight: w * ((f - t) ** 2).mean())

    for shape, weight, symmetric in [
        ((3, 5, 7), 1.0, True),
        ((5, 4, 9), 20.0, True),
        ((16, 6, 11), 1000.0, True),
        ((5, 1, 1), 2.0, True),
        ((5, 3, 6), 7.0, False),
    ]:
        name = "x".join(map(str, shape)) + ("" if symmetric else "_asymmetric")
        f = normal(f"gram_mse/{name}/f", *shape, shift=0.5)
        a = normal(f"gram_mse/{name}/a", shape[0], shape[0])
        if symmetric:
            a = as_f32(gram(normal(f"gram_mse/{name}/style", shape[0], 6, 5, shift=-0.3)).numpy())
        compute = lambda f, a, w=weight: w * ((gram(f) - a) ** 2).mean()
        ops.add("gram_mse", name, {"weight": weight}, [("f", f), ("target", a)], compute)

    for h, w, weight in [(5, 7, 1.0), (2, 2, 3.5), (8, 8, 0.01), (17, 3, 10.0), (1, 7, 2.0), (19, 11, 0.5)]:
        name = f"{h}x{w}"
        x = as_f32(rng(f"total_variation/{name}").uniform(0, 1, (3, h, w)))
        ops.add("total_variation", name, {"weight": weight}, [("x", x)],
                lambda x, k=weight: total_variation(x, k))

    for label, attrs in [("caffe", CAFFE), ("torchvision", TORCHVISION)]:
        for h, w in [(5, 7), (1, 1), (13, 4)]:
            name = f"{label}_{h}x{w}"
            x = as_f32(rng(f"preprocess/{name}").uniform(0, 1, (3, h, w)))
            ops.add("preprocess", name, attrs, [("x", x)], lambda x, a=attrs: preprocess(x, **a))


def first_maximum_gradient(x, upstream, windows):
    """The gradient of max pooling, window by window: what "the first maximum" means, without PyTorch."""
    grad = np.zeros_like(x)
    for (c, i, j), g in np.ndenumerate(upstream):
        y0, y1, x0, x1 = windows(i, j)
        at = np.unravel_index(np.argmax(x[c, y0:y1, x0:x1]), (y1 - y0, x1 - x0))
        grad[c, y0 + at[0], x0 + at[1]] += g
    return grad


def add_pools(ops):
    def check_max(case, windows):
        x, upstream = ops.tensors[case["inputs"][0]], ops.tensors[case["upstream"]]
        expected = first_maximum_gradient(x, upstream, windows)
        assert np.allclose(ops.tensors[case["gradients"][0]], expected, atol=1e-12), case["name"]

    def pool(kind, label, c, h, w, kernel, stride, padding=(0, 0), ceil=False, ties=False):
        name = f"{kind}_{label}_{c}x{h}x{w}" + ("_ties" if ties else "")
        attrs = {"kind": kind, "kernel": list(kernel), "stride": list(stride), "padding": list(padding),
                 "ceil": ceil}
        data = f"pool/data_{label}_{c}x{h}x{w}" + ("_ties" if ties else "")
        x = (with_ties if ties else normal)(data, c, h, w)
        function = F.max_pool2d if kind == "max" else F.avg_pool2d
        case = ops.add("pool", name, attrs, [(data, x)],
                       lambda x: function(x[None], kernel, stride, padding, ceil_mode=ceil)[0])
        if kind == "max":
            def windows(i, j):
                y, x = i * stride[0] - padding[0], j * stride[1] - padding[1]
                return max(y, 0), min(y + kernel[0], h), max(x, 0), min(x + kernel[1], w)
            check_max(case, windows)

    for kind in ("max", "avg"):
        for ties in (False, True) if kind == "max" else (False,):
            for h, w in [(5, 7), (8, 8), (3, 2), (2, 13)]:
                pool(kind, "2x2", 5, h, w, (2, 2), (2, 2), ties=ties)
            pool(kind, "3x3_stride2", 4, 13, 9, (3, 3), (2, 2), ties=ties)
            pool(kind, "3x3_stride2", 3, 8, 6, (3, 3), (2, 2), ties=ties)
            pool(kind, "3x3_stride2_pad1", 4, 9, 6, (3, 3), (2, 2), padding=(1, 1), ties=ties)
            pool(kind, "3x3_stride2_ceil", 3, 8, 6, (3, 3), (2, 2), ceil=True, ties=ties)
        pool(kind, "1x2", 3, 1, 7, (1, 2), (1, 2))
        pool(kind, "2x2_ceil", 3, 1, 5, (2, 2), (2, 2), ceil=True)
        pool(kind, "2x2_ceil", 5, 5, 7, (2, 2), (2, 2), ceil=True)
        pool(kind, "3x3_stride2_pad1_ceil", 3, 8, 6, (3, 3), (2, 2), padding=(1, 1), ceil=True)
        pool(kind, "3x2_stride1", 3, 6, 5, (3, 2), (1, 1))

    def adaptive(kind, c, h, w, size, ties=False):
        name = f"{kind}_{c}x{h}x{w}_to_{size[0]}x{size[1]}" + ("_ties" if ties else "")
        data = f"adaptive_pool/data_{c}x{h}x{w}" + ("_ties" if ties else "")
        x = (with_ties if ties else normal)(data, c, h, w)
        function = F.adaptive_max_pool2d if kind == "max" else F.adaptive_avg_pool2d
        case = ops.add("adaptive_pool", name, {"kind": kind, "size": list(size)}, [(data, x)],
                       lambda x: function(x[None], tuple(size))[0])
        if kind == "max":
            def span(i, n, out):
                return i * n // out, -(-(i + 1) * n // out)
            check_max(case, lambda i, j: span(i, h, size[0]) + span(j, w, size[1]))

    for h, w in [(3, 5), (7, 7), (8, 8), (16, 11), (33, 20), (1, 1)]:
        for kind in ("max", "avg"):
            adaptive(kind, 5, h, w, (7, 7))
    for kind in ("max", "avg"):
        adaptive(kind, 5, 10, 9, (3, 4))
        adaptive(kind, 5, 10, 9, (1, 1))
    for h, w in [(3, 5), (8, 8), (16, 11)]:
        adaptive("max", 5, h, w, (7, 7), ties=True)
    adaptive("max", 5, 10, 9, (3, 4), ties=True)
    adaptive("max", 5, 10, 9, (1, 1), ties=True)


def add_resizes(ops):
    def case(mode, c, h, w, size):
        name = f"{mode}_{c}x{h}x{w}_to_{size[0]}x{size[1]}"
        attrs = {"mode": mode, "size": list(size), "antialias": False, "align_corners": False}
        extra = {} if mode == "area" else {"align_corners": False, "antialias": False}
        data = f"resize/data_{c}x{h}x{w}"
        x = normal(data, c, h, w)
        ops.add("resize", name, attrs, [(data, x)],
                lambda x: F.interpolate(x[None], size=tuple(size), mode=mode, **extra)[0],
                differentiable=False)

    for mode in ("bilinear", "bicubic", "area"):
        case(mode, 3, 5, 7, (11, 13))  # up
        case(mode, 3, 13, 17, (7, 5))  # down
        case(mode, 3, 9, 8, (18, 16))  # up by exactly 2
        case(mode, 3, 8, 12, (4, 6))  # down by exactly 2
        case(mode, 2, 12, 5, (7, 9))  # down one way, up the other
        case(mode, 3, 1, 1, (3, 5))
        case(mode, 3, 1, 6, (4, 6))
        case(mode, 3, 6, 5, (1, 1))
        case(mode, 3, 6, 1, (1, 4))
        case(mode, 3, 4, 5, (4, 5))  # the same size


def add_reductions(ops):
    functions = {
        "sum": torch.sum,
        "l1": lambda x: x.abs().sum(),
        "dot": torch.dot,
    }
    for n in (1, 7, 64, 65, 257, 1000, 4999):
        x = (f"reduce/data_{n}/a", normal(f"reduce/{n}/a", n, shift=0.2))
        y = (f"reduce/data_{n}/b", normal(f"reduce/{n}/b", n, shift=-0.3))
        for kind, function in functions.items():
            inputs = [x, y] if kind == "dot" else [x]
            ops.add("reduce", f"{kind}_{n}", {"kind": kind}, inputs, function, differentiable=False)

    def nonfinite(x):
        return (~torch.isfinite(x)).to(F64).sum()

    for n, bad in [(1, 0), (1, 1), (7, 3), (1000, 0), (1000, 37), (4099, 4), (300, 300)]:
        label = f"nonfinite_{n}_{bad}bad"
        random = rng(f"reduce/{label}")
        x = random.standard_normal(n)
        x[:: 3] *= 1e38  # huge, tiny and zero values are finite
        x[1::7] *= 1e-42
        x[2::11] = 0.0
        x = np.clip(x, -3.4e38, 3.4e38)
        at = random.permutation(n)[:bad]
        x[at] = np.resize([np.nan, np.inf, -np.inf], bad)
        x = as_f32(x)
        assert nonfinite(x).item() == bad
        ops.add("reduce", label, {"kind": "nonfinite"}, [("x", x)], nonfinite, differentiable=False)


def add_adams(ops):
    def case(name, n, lr, beta1, beta2, eps, steps, clamp=None, grad_scale=1.0):
        def run(x0, *gradients):
            x = x0.clone().requires_grad_(True)
            adam = torch.optim.Adam([x], lr=lr, betas=(beta1, beta2), eps=eps, foreach=False)
            rows = []
            for g in gradients:
                x.grad = g.clone()
                adam.step()
                if clamp:
                    with torch.no_grad():
                        x.clamp_(*clamp)
                rows.append(x.detach().clone())
            return torch.stack(rows)

        scales = np.exp(rng(f"adam/{name}/scales").uniform(-4, 2, n)) * grad_scale  # each pixel its own magnitude
        inputs = [("x0", as_f32(rng(f"adam/{name}/x0").uniform(0, 1, n)))]
        for k in range(steps):
            g = rng(f"adam/{name}/g_{k + 1}").standard_normal(n) * scales
            g[::13] = 0.0  # a gradient that is always zero moves nothing
            inputs.append((f"g_{k + 1}", as_f32(g)))
        attrs = {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps, "steps": steps, "clamp": clamp}
        ops.add("adam", name, attrs, inputs, run, differentiable=False)

    case("default_53", 53, 0.02, 0.9, 0.999, 1e-8, 10)
    case("default_1", 1, 10.0, 0.9, 0.999, 1e-8, 5)
    case("beta99_37", 37, 0.02, 0.9, 0.99, 1e-8, 10)
    case("big_eps_37", 37, 1.0, 0.9, 0.999, 0.1, 6)  # where eps is added shows
    case("tiny_gradients_37", 37, 0.02, 0.9, 0.999, 1e-8, 6, grad_scale=1e-8)
    case("clamp_53", 53, 0.1, 0.9, 0.999, 1e-8, 10, clamp=[0.0, 1.0])
    case("clamp_beta99_37", 37, 0.3, 0.9, 0.99, 1e-8, 8, clamp=[0.0, 1.0])


# --- the tiny network -----------------------------------------------------------------------------------------------

BLOCKS = [(2, 6), (2, 8), (3, 10), (3, 12), (3, 12)]
HEAD = [("fc6", 20), ("fc7", 18), ("fc8", 11)]
CONVS = [f"conv{b}_{i}" for b, (count, _) in enumerate(BLOCKS, 1) for i in range(1, count + 1)]


def activations(weights, rgb, pooling, needed=None, before=None):
    """Every named layer, or only the trunk up to the last of the `needed` ones: a small style image may have nothing
    left to pool. `before(layer, input)` may change `weights` just before a layer is computed."""
    out, before = {}, before or (lambda layer, x: None)
    x = preprocess(rgb, **CAFFE)
    for b, (count, _) in enumerate(BLOCKS, 1):
        for i in range(1, count + 1):
            layer = f"conv{b}_{i}"
            before(layer, x)
            x = out[layer] = conv(x, weights[layer + ".weight"], weights[layer + ".bias"], (1, 1), (1, 1), "zeros")
            x = out[f"relu{b}_{i}"] = F.relu(x)
            if needed is not None and needed <= out.keys():
                return out
        x = out[f"pool{b}"] = (F.max_pool2d if pooling == "max" else F.avg_pool2d)(x[None], 2)[0]
    x = out["pool5_7x7"] = F.adaptive_max_pool2d(x[None], 7)[0]
    x = x.reshape(-1)
    for layer, _ in HEAD:
        before(layer, x)
        x = out[layer] = F.linear(x, weights[layer + ".weight"], weights[layer + ".bias"])
        if layer != "fc8":
            x = out["relu" + layer[2:]] = F.relu(x)
    out["prob"] = F.softmax(x, dim=0)
    return out


def picture(name, h, w, detail, contrast=1.0):
    """A random picture in [0,1]: smooth noise at several sizes; `detail` is the share of independent pixels;
    a contrast above 1 saturates some of them."""
    random, total = rng(name), np.zeros((3, h, w))
    for cells, amount in [(3, 1.0), (6, 0.5), (12, 0.3)]:
        grid = torch.from_numpy(random.standard_normal((1, 3, cells, cells + 1)))
        total += amount * F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False)[0].numpy()
    total = (total - total.min()) / (total.max() - total.min())
    mixed = (1 - detail) * total + detail * random.uniform(0, 1, (3, h, w))
    return as_f32(np.clip(0.5 + contrast * (mixed - 0.5), 0, 1))


def make_tiny_vgg(calibration):
    """He initialisation, each layer then scaled to a root mean square of 1 (fc8: 2) before ReLU on `calibration`."""
    weights, c_in = {}, 3
    for b, (count, c_out) in enumerate(BLOCKS, 1):
        for i in range(1, count + 1):
            layer = f"conv{b}_{i}"
            weights[layer + ".weight"] = normal(layer, c_out, c_in, 3, 3, scale=(2 / (9 * c_in)) ** 0.5)
            weights[layer + ".bias"] = normal(layer + ".bias", c_out, scale=0.2)
            c_in = c_out
    n_in = c_in * 49
    for layer, n_out in HEAD:
        weights[layer + ".weight"] = normal(layer, n_out, n_in, scale=(2 / n_in) ** 0.5)
        weights[layer + ".bias"] = normal(layer + ".bias", n_out, scale=0.2)
        n_in = n_out

    def scale(layer, x):
        key = layer + ".weight"
        if layer.startswith("conv"):
            raw = conv(x, weights[key], torch.zeros(len(weights[key]), dtype=F64), (1, 1), (1, 1), "zeros")
        else:
            raw = F.linear(x, weights[key])
        target = 2.0 if layer == "fc8" else 1.0
        weights[key] = as_f32((weights[key] * (target / raw.square().mean().sqrt())).numpy())

    activations(weights, calibration, "max", before=scale)
    return weights


# --- the objective --------------------------------------------------------------------------------------------------


def targets_of(request, images, weights):
    """One target per term: features of the photo, or the blended Gram matrix of the style images."""
    with torch.no_grad():
        photo = activations(weights, images[request["photo"]], request["pooling"])
        needed = {t["layer"] for t in request["terms"] if t["factor"] == "style"}
        styles = [(s["blend"], activations(weights, images[s["image"]], request["pooling"], needed))
                  for s in request["style_images"]]
        return [sum(blend * gram(act[t["layer"]]) for blend, act in styles) if t["factor"] == "style"
                else photo[t["layer"]] for t in request["terms"]]


def losses_of(request, targets, weights, x):
    act, losses = activations(weights, x, request["pooling"]), []
    for term, target in zip(request["terms"], targets):
        value = act[term["layer"]]
        if term["factor"] == "style":
            value = gram(value)
        losses.append(term["weight"] * term["layer_factor"] * ((value - target) ** 2).mean())
    return losses, total_variation(x, request["tv_weight"])


def gradient_of(loss, x):
    return torch.autograd.grad(loss, x, retain_graph=True)[0]


def relative_l2(a, b):
    return ((a.to(F64) - b.to(F64)).norm() / b.to(F64).norm()).item()


def two_digits(value):
    return float(f"{value:.1e}")


def request_of(name, terms, images, weights, photo="photo", start="start", pooling="max", tv=0.0, styles=None):
    """`terms` are (factor, layer, share, layer_factor): the weight is chosen so that the term's own gradient has an
    L2 norm of about share * layer_factor; `tv` is such a share too."""
    styles = styles or [(photo, 1.0)]
    request = {
        "name": name, "photo": photo, "start": start, "pooling": pooling,
        "terms": [{"factor": f, "layer": l, "weight": 1.0, "layer_factor": k} for f, l, _, k in terms],
        "tv_weight": 1.0, "style_images": [{"image": i, "blend": b} for i, b in styles],
    }
    x = images[start].clone().requires_grad_(True)
    targets = targets_of(request, images, weights)
    losses, tv_loss = losses_of(request, targets, weights, x)
    for term, loss, (_, _, share, factor) in zip(request["terms"], losses, terms):
        term["weight"] = two_digits(share * factor / gradient_of(loss, x).norm().item())
    request["tv_weight"] = two_digits(tv / gradient_of(tv_loss, x).norm().item())
    return request


def evaluate(request, images, weights, tensors):
    x = images[request["start"]].clone().requires_grad_(True)
    losses, tv_loss = losses_of(request, targets_of(request, images, weights), weights, x)
    total = sum(losses) + tv_loss
    gradient = gradient_of(total, x)
    key = f"request/{request['name']}/gradient"
    tensors[key] = gradient.numpy()

    images32 = {k: v.float() for k, v in images.items()}
    weights32 = {k: v.float() for k, v in weights.items()}
    x32 = images32[request["start"]].clone().requires_grad_(True)
    losses32, tv32 = losses_of(request, targets_of(request, images32, weights32), weights32, x32)
    request["expected"] = {
        "losses": [v.item() for v in losses],
        "tv_loss": tv_loss.item(),
        "total": total.item(),
        "gradient": key,
        "term_gradient_norms": [gradient_of(v, x).norm().item() for v in losses],
        "tv_gradient_norm": gradient_of(tv_loss, x).norm().item(),
        "f32_noise": float(f"{relative_l2(gradient_of(sum(losses32) + tv32, x32), gradient):.2e}"),
    }


ADAM = {"lr": 0.02, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "steps": 10, "clamp": [0.0, 1.0]}


def trajectory(request, targets, start, weights):
    x = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([x], lr=ADAM["lr"], betas=(ADAM["beta1"], ADAM["beta2"]), eps=ADAM["eps"], foreach=False)
    rows, tvs = [], []
    for step in range(ADAM["steps"] + 1):
        losses, tv_loss = losses_of(request, targets, weights, x)
        rows.append([v.item() for v in losses])
        tvs.append(tv_loss.item())
        if step < ADAM["steps"]:
            adam.zero_grad()
            (sum(losses) + tv_loss).backward()
            adam.step()
            with torch.no_grad():
                x.clamp_(*ADAM["clamp"])
    return rows, tvs, x.detach()


def switch_margin(weights, rgb, pooling):
    """How far the nearest ReLU is from switching and the nearest max pool from choosing another element, relative to
    the layer's root mean square."""
    act, nearest = activations(weights, rgb, pooling), np.inf
    for layer, value in act.items():
        rms = value.square().mean().sqrt().item()
        if layer.startswith("conv") or layer in ("fc6", "fc7"):
            nearest = min(nearest, value.abs().min().item() / rms)
        if pooling == "max" and layer.startswith("pool") and layer != "pool5_7x7":
            before = act[f"relu{layer[4:]}_{BLOCKS[int(layer[4:]) - 1][0]}"]
            top = F.unfold(before[:, None], 2, stride=2).topk(2, dim=1).values
            gap = (top[:, 0] - top[:, 1])[top[:, 0] > 0]  # where all are zero the ReLU stops the gradient anyway
            nearest = min(nearest, gap.min().item() / rms if gap.numel() else np.inf)
    return nearest


def start_candidates(name, h, w, seeds):
    return [picture(f"{name}/{seed}", h, w, 0.5, contrast=1.3) for seed in range(seeds)]


def widest_margin(candidates, weights, poolings):
    """The picture whose nearest switch is farthest, and how far that is."""
    margins = [min(switch_margin(weights, rgb, p) for p in poolings) for rgb in candidates]
    best = int(np.argmax(margins))
    return candidates[best], float(f"{margins[best]:.2e}")


def mixed_terms():
    """All three factors, for request_of."""
    style = [("style", f"relu{b}_1", 0.4, 1.0) for b in range(1, 6)]
    return [("spatial", "relu4_2", 1.0, 1.0), ("abstract", "fc8", 1.0, 1.0)] + style


def trajectory_wobble(requests, start, images, weights, limit, level=1e-5, runs=5):
    """How far the final pictures move (relative L2) if every weight is off by about `level`, as another way of
    rounding would have it: the worst of some runs; stops early once above `limit`."""
    worst = 0.0
    prepared = [(r, targets_of(r, images, weights)) for r in requests]
    finals = [trajectory(r, targets, images[start], weights)[2] for r, targets in prepared]
    for run in range(runs):
        random = rng(f"wobble/{run}")
        wobbly = {k: v * (1 + level * torch.from_numpy(random.standard_normal(v.shape)))
                  for k, v in weights.items()}
        for (request, targets), final in zip(prepared, finals):
            worst = max(worst, relative_l2(trajectory(request, targets, images[start], wobbly)[2], final))
            if worst > limit:
                return worst
    return worst


def calmest_start(candidates, requests, images, weights):
    """The picture whose trajectories rounding disturbs least: no switch that matters is near, all ten steps long."""
    best, wobble = None, np.inf
    for rgb in candidates:
        value = trajectory_wobble(requests, "candidate", images | {"candidate": rgb}, weights, wobble)
        if value < wobble:
            best, wobble = rgb, value
    return best, float(f"{wobble:.2e}")


def make_objective(weights, photo):
    images = {
        "photo": photo,
        "style_a": picture("style_a", 29, 50, 0.1),
        "style_b": picture("style_b", 41, 31, 0.3),
        "photo_large": picture("photo_large", 64, 96, 0.05),
    }
    small = start_candidates("start", 37, 45, 300)
    images["start"], margin = widest_margin(small, weights, ("max", "avg"))
    large = start_candidates("start_large", 64, 96, 600)
    images["start_large"], margin_large = widest_margin(large, weights, ("max",))
    print(f"switch margins: start {margin}, start_large {margin_large}")
    tensors = {}

    listed = []
    with torch.no_grad():
        for image, pooling, layers in [
            ("start", "max", None),
            ("start", "avg", ["pool1", "pool2", "pool3", "pool4", "pool5", "fc6", "fc8", "prob"]),
            ("start_large", "max", ["pool5", "pool5_7x7", "fc6", "relu6", "fc7", "relu7", "fc8", "prob"]),
        ]:
            act = activations(weights, images[image], pooling)
            for layer in layers or act:
                key = f"activation/{image}/{pooling}/{layer}"
                tensors[key] = act[layer].numpy()
                listed.append({"image": image, "pooling": pooling, "layer": layer, "key": key})

    style = lambda share: [("style", f"relu{b}_1", share, 1.0) for b in range(1, 6)]
    build = lambda name, terms, **more: request_of(name, terms, images, weights, **more)
    mixed = mixed_terms()
    requests = [
        build("spatial", [("spatial", "conv3_2", 1.0, 1.0)]),
        build("abstract", [("abstract", l, 1.0, 1.0) for l in ("fc6", "relu7", "fc8")]),
        build("style", style(1.0)),
        build("all", mixed, tv=0.3),
        build("blended_styles", [("spatial", "relu4_2", 0.5, 1.0)] + style(1.0),
              styles=[("style_a", 0.3), ("style_b", 0.7)]),
        build("average_pooling", mixed, pooling="avg", tv=0.3),
        # relu3_1 carries two losses, and the factors differ from layer to layer
        build("layer_factors", [("spatial", "relu3_1", 1.0, 0.5), ("spatial", "conv4_2", 1.0, 2.0),
              ("abstract", "fc6", 1.0, 0.25), ("abstract", "fc8", 1.0, 1.5), ("style", "relu1_2", 1.0, 0.75),
              ("style", "relu3_1", 1.0, 3.0), ("style", "relu4_1", 1.0, 0.2)], tv=0.2),
        build("pools_and_edges", [("spatial", l, 1.0, 1.0) for l in ("conv1_1", "pool2", "relu5_3", "pool5")]
              + [("style", "conv2_1", 1.0, 1.0), ("style", "pool3", 1.0, 1.0)]),
        # pool5 is 1x1 in the small picture; here it is 2x3, so that fc6's order of rows and columns shows
        build("large", mixed[:1] + [("abstract", "fc6", 1.0, 1.0)] + mixed[1:], photo="photo_large",
              start="start_large", tv=0.3),
    ]
    for request in requests:
        evaluate(request, images, weights, tensors)
        expected = request["expected"]
        norms = [*expected["term_gradient_norms"], expected["tv_gradient_norm"]]
        print(f"{request['name']:>16}: total {expected['total']:.5f}, f32 noise {expected['f32_noise']:.1e}, "
              f"gradient norms {', '.join(f'{n:.2f}' for n in norms)}")

    followed = [r for r in requests if r["name"] in ("all", "average_pooling")]
    images["start_calm"], wobble = calmest_start(small, followed, images, weights)
    start, trajectories = images["start_calm"], []
    images32 = {k: v.float() for k, v in images.items()}
    weights32 = {k: v.float() for k, v in weights.items()}
    for request in followed:
        losses, tvs, final = trajectory(request, targets_of(request, images, weights), start, weights)
        final32 = trajectory(request, targets_of(request, images32, weights32), start.float(), weights32)[2]
        key = f"trajectory/{request['name']}/final_image"
        tensors[key] = final.numpy()
        noise = {"max_abs": float(f"{(final32 - final).abs().max().item():.2e}"),
                 "relative_l2": float(f"{relative_l2(final32, final):.2e}")}
        totals = [sum(row) + tv for row, tv in zip(losses, tvs)]
        trajectories.append({
            "name": request["name"], "request": request["name"], "start": "start_calm", **ADAM, "losses": losses,
            "tv_losses": tvs, "totals": totals, "final_image": key, "f32_noise": noise,
        })
        clamped = ((final == 0) | (final == 1)).sum().item()
        print(f"trajectory {request['name']}: {totals[0]:.5f} -> {totals[-1]:.5f}, {clamped} values clamped, "
              f"f32 noise {noise}")
    print(f"trajectories move by at most {wobble} if weights are off by 1e-5")
    tensors |= {name: value.numpy() for name, value in images.items()}
    cases = {"images": sorted(images), "activations": listed, "requests": requests, "trajectories": trajectories,
             "switch_margin": {"start": margin, "start_large": margin_large}}
    return tensors, cases


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    origin = {"format": "pt", "generator": "tools/make_goldens.py", "torch": torch.__version__.split("+")[0]}

    ops = Ops()
    for add in (add_convs, add_activations_and_losses, add_pools, add_resizes, add_reductions, add_adams):
        add(ops)
    save(out / "ops.safetensors", ops.tensors, origin | {"cases": json.dumps(ops.cases, separators=(",", ":"))})
    print(f"{len(ops.cases)} cases")

    photo = picture("photo", 37, 45, 0.05)
    weights = make_tiny_vgg(photo)
    save(out / "tiny_vgg.safetensors", {k: v.numpy() for k, v in weights.items()}, {
        "architecture": "vgg16", "description": "A random VGG-16 with very few channels, for tests", "format": "pt",
        "layout": "caffe-names", "license": "CC0-1.0 (random numbers)", "preprocessing": "caffe"})

    tensors, cases = make_objective(weights, photo)
    save(out / "objective.safetensors", tensors, origin | {"cases": json.dumps(cases, separators=(",", ":"))})


if __name__ == "__main__":
    main()
