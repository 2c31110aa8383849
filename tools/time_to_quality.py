#!/usr/bin/env python3
"""Loss over time: several configurations of this program, and PyTorch's L-BFGS as used by neural-style-pt.

    python3 tools/time_to_quality.py PROGRAM [PHOTO...] [--size 384] [--runs NAME...] [--out FILE.json]

PROGRAM is a release build of `mirage`. Needs torch, numpy, pillow and safetensors; PyTorch runs on 2 threads.

All minimise the same objective from noise, at the same full size, with the shipped network, max pooling and zero
padding: SPATIAL * mean((F - T)^2) at relu4_2 plus STYLE * the sum over relu1_1 to relu5_1 of mean((G - A)^2),
G = F F^T / (C N). The photo is resized beforehand, so both programs read the same pixels.

    pytorch          torch.optim.LBFGS, lr 1, history 100, no line search, 300 iterations, from 0.001 * noise around the
                     mean colour: the default of neural-style-pt (`-init random -optimizer lbfgs`)
    adam             this program at one scale, 200 iterations of Adam
    coarse-adam      coarse to fine
    lbfgs            this program at one scale, 150 iterations of L-BFGS
    coarse-lbfgs     coarse to fine

Our runs save intermediate pictures; PyTorch's are copied in memory. All are evaluated by the same PyTorch code at full
size, with values rounded to 8 bits; smaller ones are enlarged (bicubic) first.
Times are those of the optimisation, without startup, reports and saving pictures; PyTorch's also without computing
targets. Prints a Markdown table with the final loss of each run, and the seconds until a run reaches PyTorch's final
loss.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
NETWORK = ROOT / "weights" / "vgg16-narrow.safetensors"
PHOTOS = [ROOT / "docs" / "photos" / "summer-palace.jpg", ROOT / "docs" / "photos" / "coffee.png"]
BLOCKS = [2, 2, 3, 3, 3]
STYLE_LAYERS = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
SPATIAL, STYLE = 0.01, 0.01
MEAN = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
ITERATIONS = 300
MARKS = [5, 10, 20, 30, 50, 75, 100, 150, 200, 300]  # seconds

COMMON = [
    "--spatial", "relu4_2", "--abstract", "none", "--style", ",".join(STYLE_LAYERS), "--style-statistic", "gram",
    "--spatial-weight", str(SPATIAL), "--style-weight", str(STYLE), "--tv-weight", "0", "--pooling", "max",
    "--border", "zeros", "--init", "noise", "--grain", "0", "--print-every", "0", "--overwrite",
]
RUNS = {
    "adam": ["--scales", "1", "--iterations", "200", "--learning-rate", "0.03", "--average-decay", "0"],
    "coarse-adam": ["--iterations", "100,60,40,30", "--learning-rate", "0.03", "--average-decay", "0.9"],
    "lbfgs": ["--scales", "1", "--iterations", "150", "--optimizer", "lbfgs"],
    "coarse-lbfgs": ["--iterations", "150,100,60,40", "--optimizer", "lbfgs"],
}


class Objective:
    """The objective at full size."""

    def __init__(self, photo):
        self.weights = {name: value.float() for name, value in load_file(NETWORK).items() if name.startswith("conv")}
        with torch.no_grad():
            found = self.forward(photo)
            self.spatial = found["relu4_2"]
            self.grams = {name: gram(found[name]) for name in STYLE_LAYERS}

    def forward(self, rgb):
        found, x = {}, rgb.flip(1) * 255 - MEAN
        for block, count in enumerate(BLOCKS, 1):
            for i in range(1, count + 1):
                name = f"{block}_{i}"
                filters, bias = self.weights[f"conv{name}.weight"], self.weights[f"conv{name}.bias"]
                x = F.relu(F.conv2d(x, filters, bias, padding=1))
                found[f"relu{name}"] = x
                if name == "5_1":
                    return found
            x = F.max_pool2d(x, 2)

    def __call__(self, rgb):
        found = self.forward(rgb)
        style = sum(((gram(found[name]) - goal) ** 2).mean() for name, goal in self.grams.items())
        return SPATIAL * ((found["relu4_2"] - self.spatial) ** 2).mean() + STYLE * style

    def of_picture(self, rgb, size):
        """Returns the loss of a picture of any size, rounded as in a file."""
        rgb = rgb.clamp(0, 1).mul(255).round().div(255)
        if rgb.shape[2:] != size:
            rgb = F.interpolate(rgb, size=size, mode="bicubic", align_corners=False).clamp(0, 1)
        with torch.no_grad():
            return self(rgb).item()


def gram(features):
    flat = features.flatten(2)[0]
    return flat @ flat.t() / flat.numel()


def read(path):
    with Image.open(path) as image:
        values = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1) / 255)[None].contiguous()


def pytorch(objective, size):
    """Runs neural-style-pt's optimiser on the preprocessed picture; returns seconds and loss of intermediate pictures."""
    torch.manual_seed(0)
    picture = torch.randn(1, 3, *size).mul(0.001)  # BGR, mean subtracted, times 255
    picture.requires_grad_(True)
    to_rgb = lambda x: ((x + MEAN) / 255).flip(1)
    optimizer = torch.optim.LBFGS([picture], lr=1, max_iter=ITERATIONS, history_size=100, tolerance_change=-1, tolerance_grad=-1)
    kept, calls, paused, start = [], 0, 0.0, time.perf_counter()

    def closure():
        nonlocal calls, paused
        if calls % 5 == 0:
            before = time.perf_counter()
            kept.append((before - start - paused, picture.detach().clone()))
            paused += time.perf_counter() - before
        calls += 1
        optimizer.zero_grad()
        loss = objective(to_rgb(picture))
        loss.backward()
        return loss

    optimizer.step(closure)
    kept.append((time.perf_counter() - start - paused, picture.detach()))
    curve = [(seconds, objective.of_picture(to_rgb(x), size)) for seconds, x in kept]
    with torch.no_grad():
        unclamped = objective(to_rgb(kept[-1][1])).item()
    return {"curve": curve, "unclamped": unclamped, "iterations": calls}


def ours(program, photo, name, objective, size, folder):
    output = folder / f"{name}.png"
    for old in folder.glob(f"{name}*"):
        old.unlink()
    options = [*COMMON, *RUNS[name], "--size", str(max(size)), "--save-at", ",".join(map(str, range(5, 1000, 5)))]
    command = [program, "render", photo, "-o", output, "--weights", NETWORK, "-q", *options]
    subprocess.run([str(part) for part in command], check=True)
    curve = []
    for path in sorted(folder.glob(f"{name}*.png")):
        shown = subprocess.run([str(program), "show", str(path), "--json"], check=True, stdout=subprocess.PIPE)
        record = json.loads(shown.stdout)
        curve.append((record["seconds"], objective.of_picture(read(path), size)))
    return {"curve": sorted(curve), "iterations": record["iterations"]}


def until(curve, loss):
    """Returns the seconds until a run's loss is at most `loss`, or None."""
    return next((seconds for seconds, value in curve if value <= loss), None)


def after(curve, seconds):
    """Formats the loss of the last picture before `seconds`; empty before the first, or long after the end."""
    passed = [loss for at, loss in curve if at <= seconds]
    return f"{passed[-1]:.3g}" if passed and seconds <= 2 * curve[-1][0] else ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda name: Path(name).resolve())
    parser.add_argument("photos", type=Path, nargs="*", default=PHOTOS)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--runs", nargs="+", choices=["pytorch", *RUNS], default=["pytorch", *RUNS])
    parser.add_argument("--out", type=Path, help="write all curves to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    results = {}
    print("| photo | run | iterations | seconds | final loss | seconds to PyTorch's final loss | of PyTorch's time |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for photo in arguments.photos:
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            small = folder / "photo.png"
            with Image.open(photo) as image:
                image = image.convert("RGB")
                image.thumbnail((arguments.size, arguments.size), Image.Resampling.LANCZOS)
                image.save(small)
            pixels = read(small)
            size = pixels.shape[2:]
            objective = Objective(pixels)
            goal = None
            for name in arguments.runs:
                if name == "pytorch":
                    result = pytorch(objective, size)
                    goal = result["curve"][-1]
                else:
                    result = ours(arguments.program, small, name, objective, size, folder)
                results[f"{photo.stem} {name}"] = result
                seconds, loss = result["curve"][-1]
                reached = until(result["curve"], goal[1]) if goal else None
                ratio = f"{reached / goal[0]:.2f}" if reached else "not reached"
                reached = f"{reached:.1f}" if reached else "-"
                print(f"| {photo.stem} | {name} | {result['iterations']} | {seconds:.1f} | {loss:.4g} | {reached} | {ratio} |", flush=True)
                if arguments.out:
                    arguments.out.write_text(json.dumps(results))
    print(f"\n| loss after | {' | '.join(f'{seconds} s' for seconds in MARKS)} |\n| --- |{' --- |' * len(MARKS)}")
    for name, result in results.items():
        print(f"| {name} | {' | '.join(after(result['curve'], seconds) for seconds in MARKS)} |")


if __name__ == "__main__":
    sys.exit(main())
