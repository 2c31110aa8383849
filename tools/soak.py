#!/usr/bin/env python3
"""Runs `mirage render` for many iterations with film, log, checkpoints and a viewer of the live page, and checks that
memory and time per iteration stay constant. Linux only.

    tools/soak.py [--mirage target/release/mirage] [--adapter cpu] [--iterations 10000] [-- more options of render]

Prints a table: for each tenth of the run the peak resident size, and CPU seconds and seconds per iteration (CPU seconds
don't depend on the machine's other load). Exits with 1 if the last tenth needs more than 1.1 times the memory of the
first or more than 1.15 times its CPU seconds. The first 100 iterations are ignored: memory is touched for the first time
there, and drivers compile.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MEMORY, TIME = 1.1, 1.15
# Number of iterations at the start that are not compared.
IGNORED = 100


def watch(address):
    """Reads the page's stream until the run closes it, like an open browser."""
    host, port = re.match(r"http://([^:/]+):(\d+)", address).groups()
    request = (
        f"GET /live HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Origin: http://{host}:{port}\r\n"
        "Sec-WebSocket-Key: c29hayBzb2FrIHNvYWsgcw==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as page:
        page.sendall(request.encode())
        answered = time.monotonic()
        while chunk := page.recv(1 << 16):
            watch.received += len(chunk)
            if time.monotonic() - answered > 5:
                page.sendall(bytes([0x8A, 0x80, 0, 0, 0, 0]))  # a pong without content
                answered = time.monotonic()


watch.received = 0


def sample(pid):
    """Returns resident bytes and CPU seconds of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) << 10
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return resident, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirage", default="target/release/mirage")
    parser.add_argument("--adapter", default="cpu")
    parser.add_argument("--iterations", type=int, default=10000)
    parser.add_argument("--photo", default="docs/photos/chelsea.png")
    parser.add_argument("more", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "run.jsonl")
        command = [
            args.mirage, "render", args.photo, "--adapter", args.adapter, "--size", "128", "--scales", "1",
            "--iterations", str(args.iterations), "-o", Path(folder, "out.png"), "--film", Path(folder, "film.webp"),
            "--log", log, "--checkpoint-every", "100", "--save-every", "1000", "--print-every", "25", "--web", "0", "--quiet",
            *args.more,
        ]  # fmt: skip
        said = Path(folder, "said")
        with said.open("wb") as output:
            child = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output)
        samples, viewer = [], None
        while child.poll() is None:
            time.sleep(0.5)
            address = re.search(r"http://\S+", said.read_text(errors="replace"))
            if address and viewer is None:
                viewer = threading.Thread(target=watch, args=(address.group(),), daemon=True)
                viewer.start()
            if not log.exists():
                continue
            with log.open("rb") as lines:
                lines.seek(max(0, log.stat().st_size - (1 << 16)))
                events = [line for line in lines.read().decode(errors="replace").splitlines() if '"iteration"' in line]
            numbers = [int(found.group(1)) for line in events if (found := re.search(r'"iteration":(\d+)', line))]
            try:
                samples.append((max(numbers, default=0), time.monotonic(), *sample(child.pid)))
            except (FileNotFoundError, AttributeError):
                break
        if child.wait() != 0:
            sys.exit(said.read_text(errors="replace"))
        ending = json.loads(log.read_text().splitlines()[-1])
        sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir() if path.suffix in (".webp", ".jsonl")}
    print(f"{ending['iterations']} iterations, {ending['ending']}; the page sent {watch.received >> 20} MiB; {sizes} bytes")
    print("| iterations | peak resident, MiB | CPU s per iteration | s per iteration |")
    print("| --- | ---: | ---: | ---: |")
    tenths = []
    for tenth in range(10):
        first, last = (args.iterations * at // 10 for at in (tenth, tenth + 1))
        first = max(first, IGNORED)
        part = [taken for taken in samples if first <= taken[0] <= last]
        if len(part) < 2 or part[-1][0] == part[0][0]:
            sys.exit(f"too few samples between {first} and {last}: more iterations are needed")
        count = part[-1][0] - part[0][0]
        row = (max(taken[2] for taken in part), (part[-1][3] - part[0][3]) / count, (part[-1][1] - part[0][1]) / count)
        tenths.append(row)
        print(f"| {first} to {last} | {row[0] / (1 << 20):.1f} | {row[1]:.4f} | {row[2]:.4f} |")
    memory, seconds = (tenths[9][at] / tenths[0][at] for at in (0, 1))
    print(f"ratio of the last tenth to the first: memory {memory:.3f}, CPU seconds {seconds:.3f}")
    # False for NaN.
    if not (memory <= MEMORY and seconds <= TIME and watch.received > 0):
        sys.exit(1)


if __name__ == "__main__":
    main()
