#!/usr/bin/env python3
"""Compares the speed of this program with PyTorch, ncnn and Burn on the same machine, and prints Markdown tables.

    python3 tools/compare_peers.py [--rounds 7] [--sides 256 512] [--dir DIR] [--starts 5] [--adapter cpu]
    python3 tools/compare_peers.py --ncnn                 forward passes of VGG-19 to relu5_1, with ncnn and PyTorch
    python3 tools/compare_peers.py --burn                 single convolutions, with Burn
    python3 tools/compare_peers.py --pixels FILE.json     one run of each program for every size from 64 to 2040 px

Installs the newest torch, numpy and safetensors into a virtual environment (tools/.venv-peers; PEERS_PYTHON overrides
it with a Python that has them), builds `benches/iteration.rs`, then alternates: ours, PyTorch, ours, PyTorch, ... Each
run is a separate process with two warm-up iterations and reports the median of its iterations; the table contains the
median, minimum and maximum over the rounds. PyTorch runs on 2 threads with contiguous (NCHW) and with channels_last
tensors; the faster of the two is used.

Both programs do the same per iteration: forward pass, gradient with respect to the picture, a step of Adam.
    style   VGG-19 up to relu5_1 (random weights): Gram losses at relu1_1 relu2_1 relu3_1 relu4_1 relu5_1, MSE at relu4_2
    three   the network in weights/: the same style and spatial layers, MSE at fc8; total variation
PyTorch optimises the preprocessed picture, so it does no preprocessing, its adjoint and no clamp.

--adapter: our device, as listed by `mirage devices`; the default without a GPU is the CPU device.

--ncnn: f32, two threads, with its Winograd convolutions. The package `ncnn` is installed into the virtual environment.

--burn: single 3x3 convolutions (forward) with our preferred kernel of the texture family and with Burn's wgpu backend
(tools/burn_peer, built here), alternating on the same adapter. BURN_PEER is the path of an existing binary.

--pixels writes time, resident memory and our planned memory for tools/plot_performance.py. Skips sizes that would need
more than three quarters of the machine's memory, extrapolated from the previous size.

Cold and warm starts are only measured for our program: seconds from process start to the end of the first iteration,
including balancing. Results and their interpretation: docs/performance.md.
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
# PyTorch's iterations; also used by `mirage report --against pytorch`.
PYTORCH = ROOT / "src" / "cli" / "commands" / "report" / "pytorch.py"
BLOCKS = [2, 2, 4, 4, 4]


def make_vgg19(path):
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    state, ins = {}, 3
    for b, (count, outs) in enumerate(zip(BLOCKS, [64, 128, 256, 512, 512]), 1):
        for i in range(1, count + 1):
            state[f"conv{b}_{i}.weight"] = torch.randn(outs, ins, 3, 3, generator=generator) * (2 / (9 * ins)) ** 0.5
            state[f"conv{b}_{i}.bias"] = torch.randn(outs, generator=generator) * 0.01
            ins = outs
    save_file(state, path, {"format": "pt", "architecture": "vgg19", "preprocessing": "caffe"})


# ---- forward passes of the peers, run as `compare_peers.py forward ncnn|torch SIDE WEIGHTS RUNS` ----


def vgg19_to_relu5_1():
    """Returns the convolutions in order, with None for a pooling."""
    names = []
    for b, count in enumerate(BLOCKS, 1):
        names += [f"conv{b}_{i}" for i in range(1, count + 1)]
        if b == 5:
            return names[: names.index("conv5_1") + 1]
        names.append(None)


def ncnn_forward(side, state):
    import ncnn
    import numpy as np

    lines, last, ins = ["Input picture 0 1 picture 0=0 1=0 2=3"], "picture", 3
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/vgg19.bin", "wb") as file:
            for index, name in enumerate(vgg19_to_relu5_1()):
                if name is None:
                    lines.append(f"Pooling pool{index} 1 1 {last} pool{index} 0=0 1=2 2=2")
                    last = f"pool{index}"
                    continue
                weight, bias = state[f"{name}.weight"].numpy(), state[f"{name}.bias"].numpy()
                form = f"0={weight.shape[0]} 1=3 4=1 5=1 6={weight.size} 9=1"
                lines.append(f"Convolution {name} 1 1 {last} {name} {form}")
                file.write(np.uint32(0).tobytes() + weight.tobytes() + bias.tobytes())
                last = name
        Path(folder, "vgg19.param").write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""]))
        net = ncnn.Net()
        net.opt.num_threads = 2
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        assert net.load_param(f"{folder}/vgg19.param") == 0 and net.load_model(f"{folder}/vgg19.bin") == 0
    picture = np.random.default_rng(0).random((3, side, side), dtype=np.float32)

    def forward():
        extractor = net.create_extractor()
        extractor.input("picture", ncnn.Mat(picture))
        status, found = extractor.extract(last)
        assert status == 0
        return np.array(found)

    return forward, picture


def torch_forward(side, state, picture=None):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(2)
    form = torch.channels_last
    state = {k: v.contiguous(memory_format=form) if v.dim() == 4 else v for k, v in state.items()}
    picture = torch.rand(1, 3, side, side) if picture is None else torch.from_numpy(picture)[None]
    picture = picture.contiguous(memory_format=form)

    @torch.no_grad()
    def forward():
        x = picture
        for name in vgg19_to_relu5_1():
            x = F.max_pool2d(x, 2) if name is None else F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
        return x[0].numpy()

    return forward


def forward_side(peer, side, weights, runs):
    from safetensors.torch import load_file

    state = load_file(weights)
    forward, picture = (torch_forward(side, state), None) if peer == "torch" else ncnn_forward(side, state)
    times = []
    for _ in range(2 + runs):
        start = time.perf_counter()
        forward()
        times.append(time.perf_counter() - start)
    times = sorted(times[2:])
    if peer == "ncnn":  # check that it computes the same
        import numpy as np

        wanted = torch_forward(side, state, picture)()
        off = np.linalg.norm(forward() - wanted) / np.linalg.norm(wanted)
        assert off < 1e-3, f"ncnn's activations are off by {off}"
    print(json.dumps({"median": times[len(times) // 2], "min": times[0]}))


# ---- the driver ----


def python():
    named = os.environ.get("PEERS_PYTHON")
    if named:
        return named
    venv = ROOT / "tools" / ".venv-peers"
    interpreter = str(venv / "bin" / "python")
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    if subprocess.run([interpreter, "-c", "import torch, numpy, safetensors"], stderr=subprocess.DEVNULL).returncode:
        packages = ["torch", "numpy", "safetensors"]
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *packages], check=True)
    return interpreter


def bench_binary(name="iteration"):
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", name, "--message-format", "json"]
    build = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    for line in build.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == name:
            return message["executable"]
    raise SystemExit(f"cargo built no bench named {name}")


def run(command, environment=None):
    command = [str(part) for part in command]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "2", **(environment or {})})
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {result.returncode}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def pytorch(interpreter, objective, side, layout, iterations, weights):
    return [interpreter, PYTORCH, "cpu", "time", objective, side, layout, "f32", iterations, weights]


def machine_mib():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


def lines_of(command):
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, check=True, text=True)
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def compare_burn(rounds, directory):
    burn = os.environ.get("BURN_PEER")
    if not burn:
        package = ROOT / "tools" / "burn_peer"
        target = directory / "burn-target"
        command = ["cargo", "build", "--release", "--locked", "--target-dir", target]
        subprocess.run(command, cwd=package, check=True)
        burn = target / "release" / "burn-peer"
    kernels, log = bench_binary("kernels"), directory / "kernels.json"
    ours, theirs = {}, {}
    for _ in range(rounds):
        subprocess.run([kernels, "conv ", "--json", log], stdout=subprocess.DEVNULL, check=True)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        starts = [i for i, row in enumerate(rows) if "device" in row]
        for row in rows[starts[0] + 1 : starts[1]]:  # the texture family comes first
            ours.setdefault(row["op"], []).append(row["min"])
        for row in lines_of([burn]):
            theirs.setdefault(row["op"], []).append(row["min"])
    print("| convolution, forward | ours, ms | Burn, ms | Burn / ours | each round |")
    print("| --- | --- | --- | --- | --- |")
    for op, times in theirs.items():
        mine = ours[op]
        ratios = [b / a for a, b in zip(mine, times)]
        ms = [spread([1e3 * t for t in side], 1) for side in (mine, times)]
        ratio = statistics.median(times) / statistics.median(mine)
        print(f"| {op.removeprefix('conv ')} | {ms[0]} | {ms[1]} | **{ratio:.0f}** | {spread(ratios, 0)} |", flush=True)
    print(f"\n{rounds} alternating rounds, the minimum of each round's runs.")


def compare_forward(rounds, sides, ours, interpreter, vgg19):
    subprocess.run([interpreter, "-m", "pip", "install", "--quiet", "ncnn"], check=True)
    print("| px | ours, s | ncnn, s | PyTorch, s | ours / ncnn | each round | ours / PyTorch |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for side in sides:
        commands = [
            [*ours, side, "--forward", "relu5_1", "--weights", vgg19, "--iterations", 9],
            [interpreter, __file__, "forward", "ncnn", side, vgg19, 9],
            [interpreter, __file__, "forward", "torch", side, vgg19, 9],
        ]
        found = [[], [], []]
        for _ in range(rounds):
            for times, command in zip(found, commands):
                times.append(run(command)["median"])
        medians = [statistics.median(times) for times in found]
        each = spread([a / b for a, b in zip(found[0], found[1])], 2)
        print(
            f"| {side} | {' | '.join(spread(times) for times in found)} | **{medians[0] / medians[1]:.2f}** | {each} | "
            f"{medians[0] / medians[2]:.2f} |",
            flush=True,
        )
    print(f"\nVGG-19 to relu5_1, forward; {rounds} alternating rounds, medians of 9 passes.")


def sweep_pixels(path, ours, interpreter, vgg19):
    rows, last = [], {}
    # Not 2048: a plane of 2049 x 2049 texels slightly exceeds 64 MiB. lavapipe binds 128 MiB, and windows hold pairs.
    for side in (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1448, 2040):
        count = 7 if side <= 256 else 3 if side <= 768 else 1
        commands = {
            "ours": [*ours, side, "--objective", "style", "--weights", vgg19, "--iterations", count, "--json"],
            "PyTorch": pytorch(interpreter, "style", side, "channels_last", count, vgg19),
        }
        for name, command in commands.items():
            pixels = side * side
            if name in last and last[name]["peak_mib"] * pixels / last[name]["side"] ** 2 > 0.75 * machine_mib():
                print(f"{name} at {side} px is skipped: not enough memory", flush=True)
                continue
            found = run(command)
            seconds = found.get("min", found.get("least_seconds"))
            row = {"name": name, "side": side, "min": seconds, "peak_mib": found["peak_mib"]}
            if "device_mib" in found:
                row["device_mib"] = found["device_mib"]
            last[name] = row
            rows.append(row)
            print(f"{name:8} {side:5} px {row['min']:9.4f} s {row['min'] / pixels * 1e6:7.2f} us/px {row['peak_mib']:6} MiB", flush=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def spread(values, digits=3):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--objectives", nargs="+", default=["style", "three"], choices=["style", "three"])
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "compare-peers")
    parser.add_argument("--starts", type=int, default=5, help="number of cold and warm starts; 0 for none")
    parser.add_argument("--adapter", help="adapter of our program")
    parser.add_argument("--ncnn", action="store_true", help="only compare forward passes with ncnn")
    parser.add_argument("--burn", action="store_true", help="only compare single convolutions with Burn")
    parser.add_argument("--pixels", type=Path, help="only measure sizes from 64 to 2040 px, and write them to this file")
    arguments = parser.parse_args()
    arguments.dir.mkdir(parents=True, exist_ok=True)
    if arguments.burn:
        return compare_burn(arguments.rounds, arguments.dir)
    interpreter, ours = python(), [bench_binary()]
    if arguments.adapter:
        ours += ["--adapter", arguments.adapter]
    vgg19 = arguments.dir / "vgg19-convs.safetensors"
    if not vgg19.exists():
        subprocess.run([interpreter, __file__, "weights", str(vgg19)], check=True)

    if arguments.ncnn:
        return compare_forward(arguments.rounds, arguments.sides, ours, interpreter, vgg19)
    if arguments.pixels:
        return sweep_pixels(arguments.pixels, ours, interpreter, vgg19)
    print("| objective | px | ours, s | PyTorch, s | layout | ratio of medians | ours / PyTorch, each round | our peak MiB | PyTorch's | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    version = run([interpreter, PYTORCH, "cpu", "describe"])["version"]
    for objective in arguments.objectives:
        weights = vgg19 if objective == "style" else NARROW
        for side in arguments.sides if objective == "style" else arguments.sides[:1]:
            peer = lambda layout: pytorch(interpreter, objective, side, layout, arguments.iterations, weights)
            mine = [*ours, side, "--objective", objective, "--weights", weights, "--iterations", arguments.iterations, "--json"]
            layouts = {name: run(peer(name))["median_seconds"] for name in ("nchw", "channels_last")}
            layout = min(layouts, key=layouts.get)
            run(mine)  # fills the shader cache
            a, b = [], []
            for _ in range(arguments.rounds):
                a.append(run(mine))
                b.append(run(peer(layout)))
            times = [[r["median"] for r in a], [r["median_seconds"] for r in b]]
            memory = [statistics.median(r["peak_mib"] for r in side_) for side_ in (a, b)]
            medians = [statistics.median(t) for t in times]
            ratios = [x / y for x, y in zip(*times)]
            print(
                f"| {objective} | {side} | {spread(times[0])} | {spread(times[1])} | {layout} | **{medians[0] / medians[1]:.2f}** | "
                f"{spread(ratios, 2)} | {memory[0]:.0f} | {memory[1]:.0f} | **{memory[0] / memory[1]:.2f}** |",
                flush=True,
            )
    print(f"\nPyTorch {version}, 2 threads; {arguments.rounds} alternating rounds, {arguments.iterations} iterations each.")
    if arguments.starts:
        cold, warm = [], []
        for _ in range(arguments.starts):
            with tempfile.TemporaryDirectory() as cache:
                environment = {"MESA_SHADER_CACHE_DIR": cache}
                cold.append(run([*ours, 256, "--first"], environment)["first"])
                warm.append(run([*ours, 256, "--first"], environment)["first"])
        print(f"Start to the end of the first iteration, default network, 256 px: cold {spread(cold)} s, warm {spread(warm)} s.")


if __name__ == "__main__":
    if sys.argv[1:2] == ["forward"]:
        peer, side, weights, runs = sys.argv[2:6]
        forward_side(peer, int(side), weights, int(runs))
    elif sys.argv[1:2] == ["weights"]:
        make_vgg19(sys.argv[2])
    else:
        main()
