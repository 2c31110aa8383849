#!/usr/bin/env python3
"""Compares the program with PyTorch at full size: VGG-19 with all 143,667,240 parameters, a 384x256 photo.

Usage (nothing is installed automatically; needs about 3 GB of memory and 2 GB of disk):

    python3 -m venv tools/.venv
    tools/.venv/bin/pip install torch numpy safetensors pillow
    P=tools/.venv/bin/python; D=/tmp/fullsize
    $P tools/check_fullsize.py weights   --dir $D                  # vgg19.safetensors
    $P tools/check_fullsize.py reference --dir $D                  # photo.png, start.png, reference.safetensors
    cargo run --release --example fullsize -- --weights $D/vgg19.safetensors --photo $D/photo.png \\
        --start $D/start.png --out $D/ours.safetensors --decisions $D/decisions.safetensors
    $P tools/check_fullsize.py compare $D/ours.safetensors --dir $D --decisions $D/decisions.safetensors

The weights are random, initialised as in torchvision (convolutions Kaiming normal over fan-out, linear layers
N(0, 0.01^2), biases 0), with torchvision's state-dict keys. The request is REQUEST below: three factors, targets
and style from the photo, picture values in [0,1] with torchvision's mean and deviation, max pooling, adaptive max
pooling to 7x7 before fc6 (torchvision averages, as does --adaptive avg), no dropout, no total variation.

The reference contains, computed in f64 and stored as F32:
    relu5_1 (C,H,W), fc6, fc8       of the photo
    losses                          of the start picture, weighted, one per entry of REQUEST["terms"]
    gradient (3,H,W)                of their sum with respect to the start picture in [0,1]
    start/relu5_1, start/fc6, start/fc8   of the start picture; compared only if the other file has them
Its metadata "f32_noise" contain the distance of PyTorch's own f32 run from it. For the gradient this is 1.6e-3, which
is not rounding (2e-6 if the f32 run is forced to use the f64 run's decisions): of some 30 million ReLUs and max pools,
six are so close to zero or a tie that they decide differently in f32. This doesn't affect the other tensors.

Therefore `compare --decisions FILE` reads our activations of the start picture (every ReLU layer, and pool5, the input
of the adaptive pool) and fails unless
    each of those layers is within the tolerance of the f64 run's;
    every decision that differs from the f64 run's is a close one: the f64 input of the ReLU, or the difference between
    the pool's maximum and the chosen element, is at most MARGIN of the layer's root mean square;
    the gradient is within the tolerance of an f64 gradient that uses our decisions of ReLUs and max pools.
The error of the plain gradient is then only printed for information.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

torch.use_deterministic_algorithms(True)

WIDTH, HEIGHT = 384, 256
BLOCKS = [(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
REQUIRED = ["relu5_1", "fc6", "fc8", "losses", "gradient"]
MARGIN = 1e-4  # of a layer's root mean square; see --decisions

# spatial and abstract: weight * mean((F-T)^2); style: weight * mean over C^2 of (G-A)^2, G = F F^T / (C*N).
# With these weights each spatial and abstract term has a gradient norm of about 1, each style term one of about 0.4
# (the Gram matrices of a random network are small, hence the large weights).
REQUEST = {
    "pooling": "max",
    "terms": [
        {"factor": "spatial", "layer": "relu4_2", "weight": 2000.0},
        {"factor": "abstract", "layer": "fc8", "weight": 2300.0},
        {"factor": "style", "layer": "relu1_1", "weight": 2.6e7},
        {"factor": "style", "layer": "relu2_1", "weight": 5.8e7},
        {"factor": "style", "layer": "relu3_1", "weight": 2.3e8},
        {"factor": "style", "layer": "relu4_1", "weight": 1.8e9},
        {"factor": "style", "layer": "relu5_1", "weight": 1.5e9},
    ],
}


class VGG19(torch.nn.Module):
    """Replicates torchvision.models.vgg19: the same modules, state-dict keys and shapes."""

    def __init__(self):
        super().__init__()
        layers, self.names, c_in = [], [], 3
        for b, (count, c_out) in enumerate(BLOCKS, 1):
            for i in range(1, count + 1):
                layers += [torch.nn.Conv2d(c_in, c_out, 3, padding=1), torch.nn.ReLU()]
                self.names += [f"conv{b}_{i}", f"relu{b}_{i}"]
                c_in = c_out
            layers.append(torch.nn.MaxPool2d(2, 2))
            self.names.append(f"pool{b}")
        self.features = torch.nn.Sequential(*layers)
        self.classifier = torch.nn.Sequential(
            torch.nn.Linear(512 * 7 * 7, 4096), torch.nn.ReLU(), torch.nn.Dropout(),
            torch.nn.Linear(4096, 4096), torch.nn.ReLU(), torch.nn.Dropout(),
            torch.nn.Linear(4096, 1000),
        )

    def forward(self, rgb, wanted, adaptive, relu=lambda name, x: F.relu(x), pool=lambda source, x, find: find(x)):
        """Returns the `wanted` activations, by name, of one picture (3,H,W) in [0,1].

        `relu` is called with the layer's name and input; `pool` with the name of the pooled layer, its output and the
        max pooling function (which accepts return_indices)."""
        out = {}
        column = lambda v: torch.tensor(v, dtype=rgb.dtype).reshape(1, 3, 1, 1)
        x = (rgb[None] - column(MEAN)) / column(STD)
        source = ""
        for name, layer in zip(self.names, self.features):
            if name.startswith("relu"):
                x = relu(name, x)
            elif name.startswith("pool"):
                x = pool(source, x, functools.partial(F.max_pool2d, kernel_size=2))
            else:
                x = layer(x)
            source = name
            if name in wanted:
                out[name] = x[0]
        if adaptive == "max":
            x = pool(source, x, functools.partial(F.adaptive_max_pool2d, output_size=7)).flatten()
        else:
            x = F.adaptive_avg_pool2d(x, 7).flatten()
        for name, layer in zip(["fc6", "relu6", "", "fc7", "relu7", "", "fc8"], self.classifier):
            x = relu(name, x) if name.startswith("relu") else layer(x)
            if name in wanted:
                out[name] = x
        return out


def make_weights(path, seed):
    with torch.device("meta"):
        model = VGG19()
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith("bias"):
            state[key] = torch.zeros(value.shape)
        else:
            std = 0.01 if key.startswith("classifier") else (2 / (value.shape[0] * 9)) ** 0.5
            state[key] = torch.empty(value.shape).normal_(0, std, generator=generator)
    parameters = sum(v.numel() for v in state.values())
    assert parameters == 143_667_240, parameters
    save_file(state, path, {"format": "pt", "architecture": "vgg19", "preprocessing": "torchvision",
                            "description": f"random weights, seed {seed}"})
    print(f"{path}: {parameters:,} parameters, {path.stat().st_size / 1e6:.0f} MB")


def make_pictures(photo, directory, seed):
    with Image.open(photo) as image:
        resized = image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    resized.save(directory / "photo.png")
    noise = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(noise).save(directory / "start.png")


def read_picture(path, dtype):
    with Image.open(path) as image:
        assert image.size == (WIDTH, HEIGHT) and image.mode == "RGB"
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 255.0).to(dtype)


def gram(f):
    flat = f.flatten(1)
    return flat @ flat.T / flat.numel()


def read_model(directory, dtype):
    with torch.device("meta"):
        model = VGG19()
    model.load_state_dict(load_file(directory / "vgg19.safetensors"), assign=True)
    return model.to(dtype).eval().requires_grad_(False)


def weighted_losses(start, photo):
    losses = []
    for term in REQUEST["terms"]:
        value, target = start[term["layer"]], photo[term["layer"]]
        if term["factor"] == "style":
            value, target = gram(value), gram(target)
        losses.append(term["weight"] * ((value - target) ** 2).mean())
    return losses


def compute(directory, dtype, adaptive):
    """Computes the reference's tensors; prints loss and gradient norm of each term."""
    model = read_model(directory, dtype)
    terms = REQUEST["terms"]
    wanted = {"relu5_1", "fc6", "fc8"} | {t["layer"] for t in terms}

    with torch.no_grad():
        photo = model(read_picture(directory / "photo.png", dtype), wanted, adaptive)
    x = read_picture(directory / "start.png", dtype).requires_grad_(True)
    start = model(x, wanted, adaptive)
    losses = weighted_losses(start, photo)
    tensors = {"losses": torch.stack(losses), "gradient": torch.autograd.grad(sum(losses), x, retain_graph=True)[0]}
    for key in ("relu5_1", "fc6", "fc8"):
        tensors[key], tensors["start/" + key] = photo[key], start[key]
    for term, loss in zip(terms, losses):
        norm = torch.autograd.grad(loss, x, retain_graph=True)[0].norm().item()
        print(f"  {term['factor']:8} {term['layer']:8} loss {loss.item():.6g}, gradient norm {norm:.4g}")
    return {k: v.detach().float().contiguous() for k, v in tensors.items()}


class Decisions:
    """The decisions of our run for the start picture, read from its activations (f32, exact)."""

    def __init__(self, path):
        self.values = load_file(path)
        self.relus = self.pools = 0  # number of decisions compared
        self.flips = []  # (kind, layer, margin) of decisions that differ in the f64 run
        self.errors = {}  # relative L2 of each layer against the f64 run

    def ours(self, name, shape):
        if name not in self.values:
            sys.exit(f"FAIL no {name} among the decisions")
        value = self.values[name]
        if list(value.shape) != list(shape)[-value.dim():] or value.numel() != shape.numel():
            sys.exit(f"FAIL {name}: shape {list(value.shape)}, expected {list(shape)}")
        return value.reshape(shape)

    def record(self, kind, name, own, others, lost, scale):
        """Records differing decisions; `lost` returns the f64 run's distance from our decision, elementwise."""
        margins = (lost()[own != others].abs() / scale).tolist()
        self.flips += [(kind, name, margin) for margin in margins]

    # For VGG19.forward, without gradients: uses its own decisions and records where ours differ.
    def watch_relu(self, name, x):
        ours, out = self.ours(name, x.shape), F.relu(x)
        self.errors[name] = relative_l2(ours, out)
        self.relus += x.numel()
        self.record("ReLU", name, x > 0, ours > 0, lambda: x, x.square().mean().sqrt())
        return out

    def watch_pool(self, source, x, find):
        ours = self.ours(source, x.shape)
        self.errors[source] = relative_l2(ours, x)
        out, own = find(x, return_indices=True)
        others = find(ours, return_indices=True)[1]
        self.pools += own.numel()
        self.record("pool", source, own, others, lambda: out - pick(x, others), x.square().mean().sqrt())
        return out

    # For VGG19.forward: uses its own values and our decisions.
    def take_relu(self, name, x):
        return x * (self.ours(name, x.shape) > 0)

    def take_pool(self, source, x, find):
        return pick(x, find(self.ours(source, x.shape), return_indices=True)[1])


def pick(x, indices):
    """Returns the elements of each plane at max_pool2d's indices."""
    return x.flatten(2).gather(2, indices.flatten(2)).reshape(indices.shape)


def compare_decisions(directory, adaptive, ours, path, tolerance):
    """Compares the gradient with an f64 one that uses our decisions; returns whether it and the decisions pass."""
    model = read_model(directory, torch.float64)
    decisions = Decisions(path)
    wanted = {t["layer"] for t in REQUEST["terms"]}
    x = read_picture(directory / "start.png", torch.float64)
    with torch.no_grad():
        photo = model(read_picture(directory / "photo.png", torch.float64), wanted, adaptive)
        model(x, wanted, adaptive, decisions.watch_relu, decisions.watch_pool)
    x.requires_grad_(True)
    losses = weighted_losses(model(x, wanted, adaptive, decisions.take_relu, decisions.take_pool), photo)
    gradient = torch.autograd.grad(sum(losses), x)[0]

    good = True

    def line(ok, key, verdict):
        nonlocal good
        good &= ok
        print(f"{'ok  ' if ok else 'FAIL'} {key:14} {verdict}")

    layer = max(decisions.errors, key=lambda name: float(np.nan_to_num(decisions.errors[name], nan=np.inf)))
    worst = decisions.errors[layer]
    line(worst <= tolerance, "start picture",
         f"relative L2 at most {worst:.3e}, in {layer}, over {len(decisions.errors)} layers")
    for kind, total in (("ReLU", decisions.relus), ("pool", decisions.pools)):
        flips = [(margin, name) for k, name, margin in decisions.flips if k == kind]
        margin = max(flips)[0] if flips else 0.0
        line(margin <= MARGIN, f"{kind} decisions", f"{len(flips)} of {total:,} differ from the f64 run's"
             f"; largest margin {margin:.1e} of the layer's root mean square")
        for margin, name in sorted(flips, key=lambda flip: flip[1])[:20]:
            print(f"       {name:8} margin {margin:.1e}")
    if "gradient" in ours and ours["gradient"].shape == gradient.shape:
        error = relative_l2(ours["gradient"], gradient)
        line(error <= tolerance, "gradient", f"(our decisions) relative L2 {error:.3e}")
    else:
        line(False, "gradient", "missing or misshapen")
    return good


def relative_l2(ours, reference):
    a, b = ours.double(), reference.double()
    return ((a - b).norm() / b.norm()).item()


def compare(ours, reference, noise, tolerance, gradient_tolerance):
    """Prints one line per tensor; returns whether all pass. Missing, misshapen and NaN tensors fail.
    With an infinite gradient tolerance the gradient is only information."""
    good = True
    for key in REQUIRED + sorted(k for k in reference if k.startswith("start/") and k in ours):
        if key not in ours:
            verdict, ok = "missing", False
        elif ours[key].numel() != reference[key].numel() or (
                ours[key].squeeze().shape != reference[key].squeeze().shape):
            verdict, ok = f"shape {list(ours[key].shape)}, expected {list(reference[key].shape)}", False
        else:
            error = relative_l2(ours[key], reference[key])
            ok = error <= (gradient_tolerance if key == "gradient" else tolerance)  # false for NaN
            verdict = f"relative L2 {error:.3e}" + (f" (PyTorch in f32: {noise[key]:.1e})" if key in noise else "")
        information = ok and key == "gradient" and gradient_tolerance == float("inf")
        print(f"{'info' if information else 'ok  ' if ok else 'FAIL'} {key:14} {verdict}")
        if ok and key == "losses":
            for term, a, b in zip(REQUEST["terms"], ours[key].tolist(), reference[key].tolist()):
                print(f"       {term['factor']:8} {term['layer']:8} ours {a:.7g}, reference {b:.7g}")
        good &= ok
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    root = Path(__file__).resolve().parent.parent
    for name in ("weights", "reference", "compare"):
        command = commands.add_parser(name)
        command.add_argument("--dir", type=Path, default=Path("/tmp/fullsize"))
        if name == "weights":
            command.add_argument("--seed", type=int, default=19)
        if name == "reference":
            command.add_argument("--photo", type=Path, default=root / "docs/photos/summer-palace.jpg")
            command.add_argument("--start-seed", type=int, default=20, help="seed of the start picture's noise")
            command.add_argument("--dtype", choices=["float64", "float32"], default="float64")
            command.add_argument("--adaptive", choices=["max", "avg"], default="max")
            command.add_argument("--out", type=Path, help="default: reference.safetensors in --dir")
        if name == "compare":
            command.add_argument("ours", type=Path)
            command.add_argument("--tolerance", type=float, default=1e-3)
            command.add_argument("--gradient-tolerance", type=float, help="default: the same as --tolerance")
            command.add_argument("--decisions", type=Path, help="our activations of the start picture; see above")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)

    if args.command == "weights":
        make_weights(args.dir / "vgg19.safetensors", args.seed)
    elif args.command == "reference":
        make_pictures(args.photo, args.dir, args.start_seed)
        began = time.monotonic()
        tensors = compute(args.dir, getattr(torch, args.dtype), args.adaptive)
        out = args.out or args.dir / "reference.safetensors"
        metadata = {"request": json.dumps(REQUEST | {"adaptive": args.adaptive})}
        if args.dtype == "float64":
            single = compute(args.dir, torch.float32, args.adaptive)
            noise = {k: float(f"{relative_l2(single[k], v):.2e}") for k, v in tensors.items()}
            metadata["f32_noise"] = json.dumps(noise)
        save_file(tensors, out, metadata)
        print(f"{out}: {time.monotonic() - began:.0f} s in {args.dtype}")
    else:
        path = args.dir / "reference.safetensors"
        with safe_open(path, "pt") as file:
            noise = json.loads(file.metadata().get("f32_noise", "{}"))
            adaptive = json.loads(file.metadata()["request"])["adaptive"]
        gradient_tolerance = args.gradient_tolerance
        if gradient_tolerance is None:
            gradient_tolerance = float("inf") if args.decisions else args.tolerance
        ours = load_file(args.ours)
        good = compare(ours, load_file(path), noise, args.tolerance, gradient_tolerance)
        if args.decisions:
            good &= compare_decisions(args.dir, adaptive, ours, args.decisions, args.tolerance)
        sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
