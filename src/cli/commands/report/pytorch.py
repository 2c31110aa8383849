"""The iteration that `mirage report` times, in PyTorch: forward pass, backward pass, Adam step.
    pytorch.py cpu|auto describe
    pytorch.py cpu|auto time style|three SIDE nchw|channels_last f32|tf32 ITERATIONS WEIGHTS.safetensors
The weights have Caffe's names (conv1_1.weight, fc6.weight). Prints one line of JSON. Needs the package torch and nothing
else."""
import json
import re
import struct
import sys
import time

import torch
import torch.nn.functional as F

STYLE = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]
TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
WARM = 3
# Seconds of work until an idle GPU has raised its clock, as in src/graph/warm_up.rs.
WARM_SECONDS = 1.5


def device(choice):
    if choice == "auto" and torch.cuda.is_available():
        return "cuda"
    if choice == "auto" and getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def name(dev):
    return torch.cuda.get_device_name() if dev == "cuda" else dev


def resident_mib():
    """Largest resident memory of this process so far; None where /proc does not exist (Windows, macOS)."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM:"))
    except OSError:
        return None


def load(path):
    """Reads all tensors of a safetensors file: a length, a JSON header, the values."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        values = bytearray(file.read())
    tensors = {}
    for key, entry in header.items():
        if key != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = torch.frombuffer(memoryview(values)[begin:end], dtype=TYPES[entry["dtype"]])
            tensors[key] = flat.reshape(entry["shape"]).float()
    return tensors


def measure(dev, objective, side, layout, precision, iterations, path):
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    state = {key: value.to(dev) for key, value in load(path).items()}
    state = {key: v.contiguous(memory_format=form) if v.dim() == 4 else v for key, v in state.items()}
    found = (re.fullmatch(r"conv(\d+)_(\d+)\.weight", key) for key in state)
    blocks = {}
    for match in filter(None, found):
        block, index = int(match[1]), int(match[2])
        blocks[block] = max(blocks.get(block, 0), index)
    wanted = set(STYLE) | {"relu4_2"}

    def forward(x):
        seen = {}
        for block, count in sorted(blocks.items()):
            for index in range(1, count + 1):
                layer = f"{block}_{index}"
                filters = state[f"conv{layer}.weight"]
                border = [side // 2 for side in filters.shape[2:]]
                x = F.relu(F.conv2d(x, filters, state[f"conv{layer}.bias"], padding=border))
                if f"relu{layer}" in wanted:
                    seen[f"relu{layer}"] = x
                if objective == "style" and layer == "5_1":
                    return seen
            x = F.max_pool2d(x, 2)
        # Pool to the input size of the first fully connected layer.
        grid = round((state["fc6.weight"].shape[1] / x.shape[1]) ** 0.5)
        x = F.adaptive_max_pool2d(x, grid).flatten()
        for layer in ("fc6", "fc7"):
            x = F.relu(F.linear(x, state[f"{layer}.weight"], state[f"{layer}.bias"]))
        seen["fc8"] = F.linear(x, state["fc8.weight"], state["fc8.bias"])
        return seen

    def gram(map):
        map = map.flatten(2)[0]
        return map @ map.t() / map.numel()

    photo = (torch.arange(side * side * 3) * 37 % 101).float().mul(0.01).reshape(side, side, 3)
    photo = (photo.permute(2, 0, 1)[None] * 255 - 117).contiguous(memory_format=form).to(dev)
    with torch.no_grad():
        seen = forward(photo)
        grams = {layer: gram(seen[layer]) for layer in STYLE}
        points = {layer: value for layer, value in seen.items() if layer in ("relu4_2", "fc8")}
    start = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0)) * 255 - 117
    x = start.contiguous(memory_format=form).to(dev).requires_grad_(True)
    adam = torch.optim.Adam([x], lr=0.03, fused=dev == "cuda")
    wait = {"cuda": torch.cuda.synchronize, "cpu": lambda: None}.get(dev) or torch.mps.synchronize

    def step():
        wait()
        begin = time.perf_counter()
        adam.zero_grad(set_to_none=True)
        seen = forward(x)
        loss = sum(((gram(seen[layer]) - goal) ** 2).mean() for layer, goal in grams.items())
        loss = loss + sum(((seen[layer] - goal) ** 2).mean() for layer, goal in points.items())
        if objective == "three":
            loss = loss + 0.05 * (((x[..., 1:] - x[..., :-1]) ** 2).sum() + ((x[..., 1:, :] - x[..., :-1, :]) ** 2).sum())
        loss.backward()
        adam.step()
        wait()
        return time.perf_counter() - begin

    for _ in range(WARM):
        step()
    first = time.perf_counter()
    while dev != "cpu" and time.perf_counter() - first < WARM_SECONDS:
        step()
    times = sorted(step() for _ in range(iterations))
    peak = torch.cuda.max_memory_allocated() if dev == "cuda" else None
    seconds = {"least_seconds": times[0], "median_seconds": times[len(times) // 2]}
    print(json.dumps({**seconds, "device_bytes": peak, "peak_mib": resident_mib()}))


def main():
    dev = device(sys.argv[1])
    if sys.argv[2] == "describe":
        tf32 = dev == "cuda" and torch.cuda.get_device_capability()[0] >= 8
        print(json.dumps({"version": torch.__version__, "device": name(dev), "threads": torch.get_num_threads(), "tf32": tf32}))
    else:
        objective, side, layout, precision, iterations, path = sys.argv[3:9]
        measure(dev, objective, int(side), layout, precision, int(iterations), path)


main()
