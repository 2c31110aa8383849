#!/usr/bin/env python3
"""Writes a tiny network and PyTorch goldens of the objective on it: tests/golden/{tiny_vgg,objective}.safetensors.

Usage and conventions: see tools/goldens.py.

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
                   to the RGB picture), "term_gradient_norms" (L2, for debugging), "tv_gradient_norm",
                   "f32_noise" (relative L2 between PyTorch's own f32 gradient and this one)}
    "trajectories": [{"name", "request", "start", "lr", "beta1", "beta2", "eps", "steps", "clamp",
                   "losses" [steps+1][terms], "tv_losses", "totals", "final_image" (key),
                   "f32_noise": {"max_abs", "relative_l2"}}]
                   the request with another start picture; entry i of the losses is the value after i steps
  TV: 0.5 * tv_weight * sum over the (H-1)x(W-1) region of (dx^2+dy^2), on the RGB picture in [0,1] (so tv_weight =
  255^2 times a weight meant for 0..255). Dropout is the identity. Adaptive pooling before fc6 is always max, even if
  "pooling" is "avg".
  A single flipped ReLU or max pool changes a gradient far more than rounding does. Therefore the start pictures are
  selected from many seeds: "start" and "start_large" for the largest distance of all decisions from flipping
  ("switch_margin", relative to the layer's root mean square), "start_calm" for ten-step trajectories that are least
  sensitive to small errors of the weights.
"""

import numpy as np
import torch
import torch.nn.functional as F

from goldens import (CAFFE, F64, as_f32, conv, gram, normal, output_path, preprocess, rng,
                     save, save_cases, total_variation)


# --- the tiny network -----------------------------------------------------------------------------------------------

BLOCKS = [(2, 6), (2, 8), (3, 10), (3, 12), (3, 12)]
HEAD = [("fc6", 20), ("fc7", 18), ("fc8", 11)]


def activations(weights, rgb, pooling, needed=None, before=None):
    """Returns all activations, or only the trunk up to the last of the `needed` layers, because a small style image may
    be too small to pool further. `before(layer, input)` may change `weights` just before a layer is computed."""
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
    """Creates a random picture in [0,1]: smooth noise at several scales. `detail` is the amplitude of per-pixel noise;
    a contrast above 1 saturates some pixels."""
    random, total = rng(name), np.zeros((3, h, w))
    for cells, amount in [(3, 1.0), (6, 0.5), (12, 0.3)]:
        grid = torch.from_numpy(random.standard_normal((1, 3, cells, cells + 1)))
        total += amount * F.interpolate(grid, size=(h, w), mode="bicubic", align_corners=False)[0].numpy()
    total = (total - total.min()) / (total.max() - total.min())
    mixed = (1 - detail) * total + detail * random.uniform(0, 1, (3, h, w))
    return as_f32(np.clip(0.5 + contrast * (mixed - 0.5), 0, 1))


def make_tiny_vgg(calibration):
    """Creates weights by He initialisation, each layer scaled to an RMS of 1 (fc8: 2) before ReLU on `calibration`."""
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
    """Returns one target per term: features of the photo, or the blended Gram matrix of the style images."""
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
    """Creates a request. `terms` are (factor, layer, share, layer_factor): the weight is chosen so that the term's
    gradient has an L2 norm of about share * layer_factor; `tv` is also a share."""
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
    """Returns the smallest distance of a ReLU from switching, or of a max pool from choosing another element, relative
    to the layer's root mean square."""
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
    """Returns the picture with the largest switch margin, and the margin."""
    margins = [min(switch_margin(weights, rgb, p) for p in poolings) for rgb in candidates]
    best = int(np.argmax(margins))
    return candidates[best], float(f"{margins[best]:.2e}")


def mixed_terms():
    """Returns terms of all three factors, for request_of."""
    style = [("style", f"relu{b}_1", 0.4, 1.0) for b in range(1, 6)]
    return [("spatial", "relu4_2", 1.0, 1.0), ("abstract", "fc8", 1.0, 1.0)] + style


def trajectory_wobble(requests, start, images, weights, limit, level=1e-5, runs=5):
    """Returns how far the final pictures move (relative L2) if every weight has a relative error of about `level`, as
    from rounding: the maximum of several runs; stops early once above `limit`."""
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
    """Returns the picture whose ten-step trajectories are least sensitive to rounding, and their sensitivity."""
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
    print(f"trajectories move by at most {wobble} for relative weight errors of 1e-5")
    tensors |= {name: value.numpy() for name, value in images.items()}
    cases = {"images": sorted(images), "activations": listed, "requests": requests, "trajectories": trajectories,
             "switch_margin": {"start": margin, "start_large": margin_large}}
    return tensors, cases


def main():
    out = output_path(__doc__)
    photo = picture("photo", 37, 45, 0.05)
    weights = make_tiny_vgg(photo)
    save(out / "tiny_vgg.safetensors", {k: v.numpy() for k, v in weights.items()}, {
        "architecture": "vgg16", "description": "A random VGG-16 with very few channels, for tests", "format": "pt",
        "layout": "caffe-names", "license": "CC0-1.0 (random numbers)", "preprocessing": "caffe"})

    tensors, cases = make_objective(weights, photo)
    save_cases(out / "objective.safetensors", tensors, cases)


if __name__ == "__main__":
    main()
