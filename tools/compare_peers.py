#!/usr/bin/env python3
"""Times this program against PyTorch on the same machine, and prints a Markdown table.

    python3 tools/compare_peers.py [--rounds 7] [--sides 256 512] [--dir DIR] [--starts 5]

Installs the newest torch, numpy and safetensors into a virtual environment of its own (tools/.venv-peers, or
PEERS_PYTHON names a Python that has them), builds `benches/iteration.rs`, then runs in turn: ours, PyTorch, ours,
PyTorch, ... Each run is a process of its own that warms up twice and takes the median of its iterations; the table
holds the medians of the rounds with their smallest and largest. PyTorch runs on 2 threads with contiguous (NCHW) and
with channels_last tensors; the faster one of the two counts.

The objective is the same on both sides: forward, gradient of the picture, a step of Adam.
    style   VGG-19 up to relu5_1 (random weights): Gram losses at relu1_1 relu2_1 relu3_1 relu4_1 relu5_1, MSE at relu4_2
    three   the network in weights/: the same style and spatial layers, MSE at fc8; total variation
PyTorch optimises the preprocessed picture itself, so it is spared the preprocessing, its adjoint and the clamp.

Cold and warm start are ours alone: seconds from process start to the end of the first iteration, balance included.
Results and how to read them: docs/performance.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NARROW = ROOT / "weights" / "vgg16-narrow.safetensors"
BLOCKS = {"vgg19": [2, 2, 4, 4, 4], "vgg16": [2, 2, 3, 3, 3]}
STYLE = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]


def peak_mib():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


# ---- the PyTorch side, run as `compare_peers.py torch OBJECTIVE SIDE LAYOUT WEIGHTS` ----


def torch_side(objective, side, layout, weights, iterations):
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file

    torch.set_num_threads(2)
    state = {key: value.float() for key, value in load_file(weights).items()}
    blocks = BLOCKS["vgg19" if objective == "style" else "vgg16"]
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    state = {k: v.contiguous(memory_format=form) if v.dim() == 4 else v for k, v in state.items()}
    wanted = set(STYLE) | {"relu4_2"}

    def forward(x):
        found = {}
        for b, count in enumerate(blocks, 1):
            for i in range(1, count + 1):
                x = F.relu(F.conv2d(x, state[f"conv{b}_{i}.weight"], state[f"conv{b}_{i}.bias"], padding=1))
                if f"relu{b}_{i}" in wanted:
                    found[f"relu{b}_{i}"] = x
                if objective == "style" and (b, i) == (5, 1):
                    return found
            x = F.max_pool2d(x, 2)
        x = F.adaptive_max_pool2d(x, 7).flatten()
        for name in ("fc6", "fc7"):
            x = F.relu(F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]))
        found["fc8"] = F.linear(x, state["fc8.weight"], state["fc8.bias"])
        return found

    def gram(f):
        flat = f.flatten(2)[0]
        return flat @ flat.t() / flat.numel()

    index = torch.arange(side * side * 3)
    photo = (index * 37 % 101).float().mul(0.01).reshape(side, side, 3).permute(2, 0, 1)[None]
    photo = photo.contiguous(memory_format=form) * 255 - 117
    with torch.no_grad():
        found = forward(photo)
        grams = {name: gram(found[name]) for name in STYLE}
        points = {name: value for name, value in found.items() if name in ("relu4_2", "fc8")}
        del found
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(photo.shape, generator=generator).mul(255).sub(117).contiguous(memory_format=form)
    picture.requires_grad_(True)
    adam = torch.optim.Adam([picture], lr=0.03)

    def iteration():
        adam.zero_grad(set_to_none=True)
        found = forward(picture)
        loss = sum(((gram(found[name]) - goal) ** 2).mean() for name, goal in grams.items())
        loss = loss + sum(((found[name] - goal) ** 2).mean() for name, goal in points.items())
        if objective == "three":
            dx, dy = picture[..., 1:] - picture[..., :-1], picture[..., 1:, :] - picture[..., :-1, :]
            loss = loss + 0.05 * ((dx**2).sum() + (dy**2).sum())
        loss.backward()
        adam.step()

    times = []
    for _ in range(2 + iterations):
        start = time.perf_counter()
        iteration()
        times.append(time.perf_counter() - start)
    times = sorted(times[2:])
    print(json.dumps({"median": times[len(times) // 2], "min": times[0], "peak_mib": peak_mib(), "version": torch.__version__}))


def make_vgg19(path):
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    state, ins = {}, 3
    for b, (count, outs) in enumerate(zip(BLOCKS["vgg19"], [64, 128, 256, 512, 512]), 1):
        for i in range(1, count + 1):
            state[f"conv{b}_{i}.weight"] = torch.randn(outs, ins, 3, 3, generator=generator) * (2 / (9 * ins)) ** 0.5
            state[f"conv{b}_{i}.bias"] = torch.randn(outs, generator=generator) * 0.01
            ins = outs
    save_file(state, path, {"format": "pt", "architecture": "vgg19", "preprocessing": "caffe"})


# ---- the driver ----


def python():
    named = os.environ.get("PEERS_PYTHON")
    if named:
        return named
    venv = ROOT / "tools" / ".venv-peers"
    if not (venv / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([venv / "bin" / "pip", "install", "--quiet", "torch", "numpy", "safetensors"], check=True)
    return str(venv / "bin" / "python")


def bench_binary():
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", "iteration", "--message-format", "json"]
    build = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    for line in build.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "iteration":
            return message["executable"]
    raise SystemExit("cargo built no bench named iteration")


def run(command, environment=None):
    command = [str(part) for part in command]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def spread(values, digits=3):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--objectives", nargs="+", default=["style", "three"], choices=["style", "three"])
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "compare-peers")
    parser.add_argument("--starts", type=int, default=5, help="cold and warm starts to time; 0 for none")
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    interpreter, ours = python(), bench_binary()
    vgg19 = arguments.dir / "vgg19-convs.safetensors"
    if not vgg19.exists():
        subprocess.run([interpreter, __file__, "weights", str(vgg19)], check=True)

    print("| objective | px | ours, s | PyTorch, s | layout | ratio of medians | ours / PyTorch, each round | our peak MiB | PyTorch's | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    version = ""
    for objective in arguments.objectives:
        weights = vgg19 if objective == "style" else NARROW
        for side in arguments.sides if objective == "style" else arguments.sides[:1]:
            mine = [ours, side, "--objective", objective, "--weights", weights, "--iterations", arguments.iterations, "--json"]
            peer = [interpreter, __file__, "torch", objective, side]
            tail = [weights, arguments.iterations]
            layouts = {name: run([*peer, name, *tail])["median"] for name in ("nchw", "channels_last")}
            layout = min(layouts, key=layouts.get)
            run(mine)  # fills the shader cache
            a, b = [], []
            for _ in range(arguments.rounds):
                a.append(run(mine))
                b.append(run([*peer, layout, *tail]))
            version = b[0]["version"]
            times = [[r["median"] for r in side_] for side_ in (a, b)]
            memory = [statistics.median(r["peak_mib"] for r in side_) for side_ in (a, b)]
            medians = [statistics.median(t) for t in times]
            ratios = [x / y for x, y in zip(*times)]
            print(
                f"| {objective} | {side} | {spread(times[0])} | {spread(times[1])} | {layout} | **{medians[0] / medians[1]:.2f}** | "
                f"{spread(ratios, 2)} | {memory[0]:.0f} | {memory[1]:.0f} | **{memory[0] / memory[1]:.2f}** |",
                flush=True,
            )
    print(f"\nPyTorch {version}, 2 threads; {arguments.rounds} rounds in turn, {arguments.iterations} iterations each.")
    if arguments.starts:
        cold, warm = [], []
        for _ in range(arguments.starts):
            with tempfile.TemporaryDirectory() as cache:
                environment = {"MESA_SHADER_CACHE_DIR": cache}
                cold.append(run([ours, 256, "--first"], environment)["first"])
                warm.append(run([ours, 256, "--first"], environment)["first"])
        print(f"Start to the end of the first iteration, default network, 256 px: cold {spread(cold)} s, warm {spread(warm)} s.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["torch"]:
        objective, side, layout, weights, iterations = sys.argv[2:7]
        torch_side(objective, int(side), layout, weights, int(iterations))
    elif sys.argv[1:2] == ["weights"]:
        make_vgg19(sys.argv[2])
    else:
        main()
