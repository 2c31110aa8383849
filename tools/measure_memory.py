#!/usr/bin/env python3
"""Compares the memory predicted by `mirage plan` with the peak of `mirage render`, and prints a Markdown table.

    tools/measure_memory.py [--mirage target/release/mirage] [--adapters cpu,llvmpipe] [--sizes 256,512,1024]
                            [--scales 1,auto] [--iterations 2] [--photo PHOTO] [-- more options of render]

The measured value is the peak resident size of the process (ru_maxrss of wait4, as in /usr/bin/time -v). The device
must share the machine's memory: the CPU device, or a software driver. Exits with 1 if any ratio differs from 1 by more
than 10 %.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

LIMIT = 0.10


def peak(command):
    """Runs a command, which must succeed; returns its peak resident bytes."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            said.seek(0)
            sys.exit(f"{' '.join(command)}: {said.read().decode(errors='replace')}")
    return usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirage", default="target/release/mirage")
    parser.add_argument("--adapters", default="cpu,llvmpipe")
    parser.add_argument("--sizes", default="256,512,1024")
    parser.add_argument("--scales", default="1,auto")
    parser.add_argument("--iterations", default="2")
    parser.add_argument("--photo", default="docs/photos/summer-palace.jpg")
    parser.add_argument("more", nargs="*")
    args = parser.parse_args()

    print("| device | longest side | scales | planned, MiB | measured, MiB | planned / measured |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    far = False
    with tempfile.TemporaryDirectory() as folder:
        for adapter in args.adapters.split(","):
            for size in args.sizes.split(","):
                for scales in args.scales.split(","):
                    options = [args.photo, "--adapter", adapter, "--size", size, "--scales", scales]
                    options += ["--iterations", args.iterations, *args.more]
                    plan = subprocess.run([args.mirage, "plan", *options, "--json"], check=True, stdout=subprocess.PIPE)
                    plan = json.loads(plan.stdout)
                    if not plan["shared_memory"]:
                        sys.exit(f"{adapter}: it has dedicated memory, which can't be measured here")
                    output = os.path.join(folder, "out.png")
                    measured = peak([args.mirage, "render", *options, "-o", output, "--overwrite"])
                    ratio = plan["peak_bytes"] / measured
                    # False for NaN.
                    near = abs(ratio - 1) <= LIMIT
                    far |= not near
                    mib = [round(n / 2**20) for n in (plan["peak_bytes"], measured)]
                    print(f"| {adapter} | {size} | {len(plan['scales'])} | {mib[0]} | {mib[1]} | {ratio:.3f} |", flush=True)
    sys.exit(far)


if __name__ == "__main__":
    main()
