"""Shared by the scripts that write the PyTorch goldens: random numbers, a few operations, and the file format.

The Rust tests read the goldens from tests/golden. Each script documents its files:

    make_op_goldens.py          ops.safetensors                               single operations and their gradients
    make_objective_goldens.py   tiny_vgg.safetensors, objective.safetensors   a tiny network; losses, gradients, runs
    make_statistic_goldens.py   statistics.safetensors                        statistics of feature maps
    make_optimizer_goldens.py   optimizers.safetensors                        L-BFGS, and moments between scales

Running one (nothing is installed automatically):

    python3 -m venv tools/.venv
    tools/.venv/bin/pip install torch numpy safetensors      # any CPU build of torch works
    tools/.venv/bin/python tools/make_op_goldens.py          # seconds; make_objective_goldens.py takes half a minute

Conventions:
  Random numbers come from numpy generators seeded with the case's name. Every input is rounded to f32; everything else
  is computed in f64 and stored as F32. The cases are JSON in the metadata key "cases". It contains losses and totals as
  f64 numbers, and keys of tensors in the file.
  There is no batch dimension: maps are (C,H,W), vectors (N,), matrices (R,C), conv weights OIHW, linear weights
  (out,in); scalars are vectors of length 1.
  The same version of torch gives the same bytes on the same machine (`save` writes safetensors itself, because the
  official writer orders metadata randomly); on another machine a loss may differ in its last digit.
"""

import argparse
import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

torch.use_deterministic_algorithms(True)
torch.set_num_threads(1)

F64 = torch.float64
GOLDEN = Path(__file__).resolve().parent.parent / "tests/golden"


# --- files ----------------------------------------------------------------------------------------------------------


def output_path(documentation, default=GOLDEN):
    """Returns the output path from the command line."""
    parser = argparse.ArgumentParser(description=documentation.split("\n")[0])
    parser.add_argument("--out", type=Path, default=default)
    return parser.parse_args().out


def save(path, tensors, metadata):
    """Writes F32 tensors as a safetensors file whose bytes depend only on the content."""
    header, blobs, offset = {"__metadata__": metadata}, [], 0
    for key in sorted(tensors):
        blob = np.ascontiguousarray(tensors[key], dtype="<f4").tobytes()
        span = [offset, offset + len(blob)]
        header[key] = {"dtype": "F32", "shape": list(tensors[key].shape), "data_offsets": span}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))
    print(f"{path}: {len(tensors)} tensors, {path.stat().st_size / 1024:.0f} KiB")


def save_cases(path, tensors, cases):
    """Writes goldens with the description of the cases and the name of the script."""
    save(path, tensors, {"format": "pt", "generator": f"tools/{Path(sys.argv[0]).name}",
                         "torch": torch.__version__.split("+")[0],
                         "cases": json.dumps(cases, separators=(",", ":"))})


# --- random numbers -------------------------------------------------------------------------------------------------


def rng(name):
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def as_f32(array):
    """Rounds to values that are exact in f32, as f64, so both sides compute with the same inputs."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.asarray(array, dtype=np.float32).astype(np.float64))


def normal(name, *shape, scale=1.0, shift=0.0):
    return as_f32(rng(name).standard_normal(shape) * scale + shift)


# --- operations -----------------------------------------------------------------------------------------------------


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
