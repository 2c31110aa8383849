#!/usr/bin/env python3
"""Draws docs/pictures/pixels.png and docs/pictures/roofline.png from measurements.

    python3 tools/compare_peers.py --pixels pixels.json
    cargo bench --bench kernels -- --json kernels.json
    python3 tools/plot_performance.py pixels.json kernels.json      (needs matplotlib)

The measurements for the plots in docs/ are in docs/measurements/.

pixels.png: seconds per iteration and resident memory over the number of pixels, log-log.
roofline.png: GFLOP/s of each op over its operations per byte, with the device's measured peaks (Williams et al. 2009).
Winograd kernels are counted as the direct sum, so they may lie above the roof.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
COLOURS = {"ours": "#0072b2", "PyTorch": "#d55e00"}
MARKS = {"ours": "o", "PyTorch": "s"}


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def style(axes, x, y):
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_pixels(rows):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6))
    for name in COLOURS:
        own = [row for row in rows if row["name"] == name]
        pixels = [row["side"] ** 2 for row in own]
        look = {"color": COLOURS[name], "marker": MARKS[name], "label": name}
        left.loglog(pixels, [row["min"] for row in own], **look)
        right.loglog(pixels, [row["peak_mib"] for row in own], **look)
    ours = [row for row in rows if row["name"] == "ours"]
    plan = {"color": COLOURS["ours"], "linestyle": ":", "label": "ours, on the device"}
    planned = [row for row in ours if "device_mib" in row]
    right.loglog([row["side"] ** 2 for row in planned], [row["device_mib"] for row in planned], **plan)
    middle = next(row for row in ours if row["side"] == 256)
    ends = [64**2, 2048**2]
    line = [middle["min"] * pixels / 256**2 for pixels in ends]
    left.loglog(ends, line, color="#999999", linestyle="--", label="in proportion to 256 px")
    style(left, "pixels", "seconds per iteration")
    style(right, "pixels", "resident memory at most, MiB")
    sides = [64, 128, 256, 512, 1024, 2048]
    for axes in (left, right):
        axes.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
        axes.minorticks_off()
        axes.legend(frameon=False)
    figure.suptitle("VGG-19, style and content, forward + gradient + Adam: 2 CPU cores, lavapipe and PyTorch")
    save(figure, "pixels.png")


def draw_roofline(rows):
    peaks = next(row for row in rows if "device" in row)
    starts = [i for i, row in enumerate(rows) if "device" in row]
    ops = rows[starts[0] + 1 : starts[1] if len(starts) > 1 else None]
    figure, axes = plt.subplots(figsize=(9, 5.6))
    flops, bandwidth = peaks["peak_flops"] / 1e9, peaks["peak_bandwidth"] / 1e9
    intensities = [row["flops"] / row["bytes"] for row in ops]
    low, high = min(intensities) / 2, max(intensities) * 2
    xs = [low, flops / bandwidth, high]
    axes.loglog(xs, [min(flops, x * bandwidth) for x in xs], color="#444444")
    axes.text(xs[1], flops * 1.05, f"{flops:.0f} GFLOP/s", ha="left", va="bottom", color="#444444")
    axes.text(low * 3, low * 3 * bandwidth * 1.3, f"{bandwidth:.0f} GB/s", ha="right", va="bottom", color="#444444")
    groups = {}
    for row in ops:
        kind = row["op"].split()[0]
        group = "convolution" if kind == "conv" else "its adjoint" if kind == "conv_backward" else kind.split("_")[0]
        group = group if group in ("convolution", "its adjoint", "gram", "linear") else "others"
        groups.setdefault(group, []).append((row["flops"] / row["bytes"], row["flops"] / row["min"] / 1e9))
    looks = {"convolution": ("#0072b2", "o"), "its adjoint": ("#56b4e9", "^"), "gram": ("#d55e00", "s")}
    looks |= {"linear": ("#009e73", "D"), "others": ("#999999", "v")}
    for group, points in groups.items():
        colour, mark = looks[group]
        axes.loglog(*zip(*points), color=colour, marker=mark, linestyle="none", label=group)
    style(axes, "operations per byte", "GFLOP/s (Winograd counted as the direct sum)")
    axes.legend(frameon=False, loc="lower right")
    axes.set_title("Roofline: the preferred kernels on lavapipe, 2 CPU cores", pad=14)
    save(figure, "roofline.png")


def save(figure, name):
    figure.tight_layout()
    figure.savefig(PICTURES / name, dpi=110)
    print(PICTURES / name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    draw_pixels(rows_of(sys.argv[1]))
    draw_roofline(rows_of(sys.argv[2]))
