#!/usr/bin/env python3
"""Prints the licences of all third-party code in the program: the linked crates, and code and data included in them.

    tools/notices.py [TARGET]        target triple [default: this machine's]

Prints each licence text in the crates' unpacked sources once. tools/package adds the output to the release. Fails if a
crate has no licence text and none is known here.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Names of licence files, also in subfolders with third-party code.
TEXTS = re.compile(r"(licen[cs]e|copying|notice|patents|unlicense)([-._].*)?$", re.IGNORECASE)
# Licence texts that are missing in a crate's sources, for content that isn't its own.
CARRIED = {"noto-sans-mono-bitmap": ROOT / "docs/licenses/noto-sans-mono.txt"}
MIT = """Copyright (c) {authors}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def linked(target):
    """Returns the crates linked into the program, without build dependencies."""
    words = ["cargo", "metadata", "--locked", "--format-version", "1", "--features", "embedded-network",
             "--filter-platform", target]
    found = json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True).stdout)
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    reached, left = set(), [found["resolve"]["root"]]
    while left:
        for dependency in nodes[left.pop()]["deps"]:
            crate = dependency["pkg"]
            if crate not in reached and any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                reached.add(crate)
                left.append(crate)
    return sorted((p for p in found["packages"] if p["id"] in reached), key=lambda p: (p["name"], p["version"]))


def texts(crate):
    """Returns the licence texts of a crate."""
    folder = Path(crate["manifest_path"]).parent
    files = [Path(where) / name for where, _, names in os.walk(folder) for name in names if TEXTS.match(name)]
    found = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(files)]
    if not found:
        names = re.split(r"[ /()]+", crate["license"] or "")
        if "MIT" in names:
            found.append(MIT.format(authors=", ".join(crate["authors"]) or f"the authors of {crate['name']}"))
        elif "Apache-2.0" in names:
            found.append((ROOT / "LICENSE-APACHE").read_text(encoding="utf-8"))
        else:
            sys.exit(f"{crate['name']} ({crate['license']}) has no licence text: add one to this script")
    if crate["name"] in CARRIED:
        found.append(CARRIED[crate["name"]].read_text(encoding="utf-8"))
    return found


def main():
    host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    target = sys.argv[1] if len(sys.argv) > 1 else re.search(r"^host: (.*)$", host, re.MULTILINE)[1]
    crates = linked(target)
    groups = {}
    for crate in crates:
        for text in texts(crate):
            # Copies of a text differ in line breaks.
            groups.setdefault(" ".join(text.split()), (text, []))[1].append(crate["name"])
    lines = ["Third-party software in mirage, and its licences.", ""]
    lines += [f"{crate['name']} {crate['version']}: {crate['license']}" for crate in crates]
    lines.append("the Rust standard library, by the Rust Project Developers: MIT OR Apache-2.0")
    for text, names in groups.values():
        lines += ["", "=" * 100, ", ".join(dict.fromkeys(names)), "=" * 100, "", text.strip("\n")]
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
