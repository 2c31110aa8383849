#!/usr/bin/env python3
"""Writes the PyTorch goldens of L-BFGS and of moments between scales: tests/golden/optimizers.safetensors.

Usage and conventions: see tools/goldens.py. Run tools/make_objective_goldens.py first: network, pictures and requests
are from its files.

Metadata "cases": JSON object with
    "trajectories": [{"name", "request", "start", "history", "lr", "totals" [steps+1], "pairs", "final_image" (key),
                      "f32_noise": {"totals", "relative_l2"}}]
        a request of objective.safetensors, optimised from a picture of that file, without clamping. "torch_*" use
        torch.optim.LBFGS, one evaluation per step; "neural_style_*" use L-BFGS as defined by Torch's optim.lbfgs and
        used by neural-style: no line search, first step min(1, 1/|g|_1), pairs kept if y.s > 1e-10, initial scale
        y.s/y.y. Entry i of the totals is the value after i steps. The noise is the distance of PyTorch in f32 from f64.
    "moments": [{"name", "size" [height, width], "first", "second", "carried_first", "carried_second" (keys)}]
        Adam's moments (maps of three channels), resized with torch.nn.functional.interpolate without aligned corners:
        the first bicubic, the second bilinear and clamped at 0.
"""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, safe_open

from goldens import GOLDEN, as_f32, normal, output_path, save_cases
from make_objective_goldens import losses_of, targets_of

STEPS = 10


def total(request, targets, weights, x):
    losses, smoothness = losses_of(request, targets, weights, x)
    return sum(losses) + smoothness


def torch_steps(function, start, history, lr):
    x = start.clone().requires_grad_(True)
    # max_iter 1 makes one evaluation per step; the state is kept between steps.
    lbfgs = torch.optim.LBFGS([x], lr=lr, max_iter=1, history_size=history, tolerance_grad=0, tolerance_change=0)
    totals = []

    def closure():
        lbfgs.zero_grad()
        loss = function(x)
        loss.backward()
        totals.append(loss.item())
        return loss

    for _ in range(STEPS):
        lbfgs.step(closure)
    totals.append(function(x).item())
    return totals, x.detach(), len(lbfgs.state[x]["old_dirs"])


def neural_style_steps(function, start, history, lr):
    x, pairs, gamma, last = start.clone(), [], 1.0, None
    totals = []
    for step in range(STEPS + 1):
        leaf = x.clone().requires_grad_(True)
        loss = function(leaf)
        totals.append(loss.item())
        if step == STEPS:
            break
        g = torch.autograd.grad(loss, leaf)[0].reshape(-1)
        if last is not None:
            moved, before = last
            y = g - before
            curvature = y @ moved
            if curvature > 1e-10:
                pairs = (pairs + [(moved, y)])[-history:]
                gamma = curvature / (y @ y)
        q, alphas = -g, []
        for s, y in reversed(pairs):
            alphas.append((s @ q) / (y @ s))
            q = q - alphas[-1] * y
        d = q * gamma
        for (s, y), alpha in zip(pairs, reversed(alphas)):
            d = d + (alpha - (y @ d) / (y @ s)) * s
        t = lr * (min(1.0, 1.0 / g.abs().sum().item()) if last is None else 1.0)
        last = (t * d, g)
        x = x + (t * d).reshape(x.shape)
    return totals, x, len(pairs)


def trajectories(weights, objective, described, tensors):
    cases = []
    for name, steps, request_name, history, lr in [
        ("torch_all", torch_steps, "all", 100, 1.0),
        ("torch_short_history", torch_steps, "average_pooling", 3, 1.0),
        ("torch_half_steps", torch_steps, "all", 5, 0.5),
        ("neural_style_all", neural_style_steps, "all", 100, 1.0),
        ("neural_style_short_history", neural_style_steps, "average_pooling", 2, 1.0),
    ]:
        request = next(r for r in described["requests"] if r["name"] == request_name)

        def run(dtype):
            cast = lambda values: {key: value.to(dtype) for key, value in values.items()}
            images, network = cast({key: objective[key] for key in described["images"]}), cast(weights)
            targets = targets_of(request, images, network)
            return steps(lambda x: total(request, targets, network, x), images["start_calm"], history, lr)

        totals, final, pairs = run(torch.float64)
        totals32, final32, _ = run(torch.float32)
        noise = max(abs(a - b) / b for a, b in zip(totals32, totals))
        distance = float((final32 - final).norm() / final.norm())
        print(f"{name}: {totals[0]:.5f} -> {totals[-1]:.5f}, {pairs} pairs, f32 noise {noise:.1e}, {distance:.1e}")
        key = f"trajectory/{name}/final_image"
        tensors[key] = final.numpy()
        cases.append({
            "name": name, "request": request_name, "start": "start_calm", "history": history, "lr": lr,
            "totals": totals, "pairs": pairs, "final_image": key,
            "f32_noise": {"totals": float(f"{noise:.2e}"), "relative_l2": float(f"{distance:.2e}")},
        })
    return cases


def moments(tensors):
    cases = []
    for (h, w), (to_h, to_w) in [
        ((7, 11), (13, 17)), ((13, 17), (7, 11)), ((31, 23), (44, 33)), ((44, 33), (31, 23)), ((1, 5), (3, 2)),
        ((97, 61), (137, 86)), ((2, 3), (29, 37)),
    ]:
        name = f"{h}x{w}_to_{to_h}x{to_w}"
        first = normal(f"moments/{name}/first", 3, h, w, scale=0.01)
        second = normal(f"moments/{name}/second", 3, h, w, scale=0.01).square()
        second = as_f32(second.numpy())
        second[:, ::2, ::3] = 0.0
        resize = lambda x, mode: F.interpolate(x[None], size=(to_h, to_w), mode=mode, align_corners=False)[0]
        case = {"name": name, "size": [to_h, to_w]}
        for key, value in [
            ("first", first), ("second", second), ("carried_first", resize(first, "bicubic")),
            ("carried_second", resize(second, "bilinear").clamp(min=0)),
        ]:
            case[key] = f"moments/{name}/{key}"
            tensors[case[key]] = value.numpy()
        cases.append(case)
    return cases


def main():
    out = output_path(__doc__)
    weights = {key: value.double() for key, value in load_file(GOLDEN / "tiny_vgg.safetensors").items()}
    objective = {key: value.double() for key, value in load_file(GOLDEN / "objective.safetensors").items()}
    with safe_open(GOLDEN / "objective.safetensors", "pt") as file:
        described = json.loads(file.metadata()["cases"])
    tensors = {}
    cases = {"trajectories": trajectories(weights, objective, described, tensors), "moments": moments(tensors)}
    save_cases(out / "optimizers.safetensors", tensors, cases)


if __name__ == "__main__":
    main()
