#!/usr/bin/env python3
"""Writes the PyTorch goldens of single operations and their gradients: tests/golden/ops.safetensors.

Usage and conventions: see tools/goldens.py.

Metadata "cases": JSON list of
    {"name", "op", "attrs", "inputs": [key], "output": key, "upstream": key|null, "gradients": [key|null]}
  "upstream" is a random upstream gradient dLoss/dOutput; "gradients" holds dLoss/dInput for each input, or null. Cases
  may share input keys (OP/data_...). Definitions that the attribute names don't show:
    conv             cross-correlation as in PyTorch; pad_mode "zeros" or "replicate"
    pool             ceil is PyTorch's ceil_mode; avg counts the padding (count_include_pad true); max passes its
                     gradient to the first maximum in row-major order, which the tied inputs test
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
"""

import numpy as np
import torch
import torch.nn.functional as F

from goldens import (CAFFE, F64, as_f32, conv, gram, normal, output_path, preprocess, rng,
                     save_cases, total_variation)


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


def with_ties(name, *shape):
    """Returns values like those after a ReLU: about half exact zeros, and multiples of a quarter, so maxima tie too."""
    return as_f32(np.maximum(np.round(rng(name).standard_normal(shape) * 4) / 4, 0))


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
        data = f"conv/data_{name.replace('_zero', '').replace('_replicate', '')}"  # shared by both paddings
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
        # A nonzero mean, as after a ReLU, gives significant off-diagonal entries.
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
    """Computes the gradient of max pooling window by window, without PyTorch, as the definition of "first maximum"."""
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

        scales = np.exp(rng(f"adam/{name}/scales").uniform(-4, 2, n)) * grad_scale  # different magnitudes
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


def main():
    out, ops = output_path(__doc__), Ops()
    for add in (add_convs, add_activations_and_losses, add_pools, add_resizes, add_reductions, add_adams):
        add(ops)
    save_cases(out / "ops.safetensors", ops.tensors, ops.cases)
    print(f"{len(ops.cases)} cases")


if __name__ == "__main__":
    main()
