#!/usr/bin/env python3
"""Paints the pictures of README.md and docs/recipes.md, except for the recipe sheet (see recipe_sheet.py).

    python3 tools/doc_pictures.py PROGRAM [--folder docs/pictures]

PROGRAM is a release build of `mirage`; needs pillow. Takes five minutes on two cores of an EPYC (Zen 4).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = Path("docs/photos")
PHOTO = PHOTOS / "summer-palace.jpg"
SIZE = "--size 384"
PICTURES = {
    "default": "",
    "balanced": f"{SIZE} --save-early",
    "spatial-high": f"{SIZE} --spatial relu2_2 --balance spatial=96,abstract=2,style=2",
    "spatial-low": f"{SIZE} --spatial none --init noise",
    "spatial-conv5_1": f"{SIZE} --spatial conv5_1 --init noise",
}
EARLY = [5, 8, 13, 34]
BESIDE = [
    f"{SIZE} --spatial conv1_1 --balance spatial=90,abstract=5,style=5",
    f"{SIZE} --spatial conv1_1 --balance spatial=2,abstract=18,style=80",
    f"{SIZE} --style-image {PHOTOS / 'starry-night.jpg'}",
]
GAP = 6


def paint(program, options, picture):
    command = [program, "render", PHOTO, "-o", picture, "--overwrite", "-q", *options.split()]
    # Pictures record the paths in their options, so they are relative to the checkout.
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


def sheet(files, columns, target):
    """Arranges pictures of one size in `columns` columns."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    width, height = pictures[0].width + GAP, pictures[0].height + GAP
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (width * columns - GAP, height * rows - GAP), "white")
    for number, picture in enumerate(pictures):
        whole.paste(picture, (number % columns * width, number // columns * height))
    whole.save(target, quality=90)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "pictures")
    arguments = parser.parse_args()
    program, folder = arguments.program.resolve(), arguments.folder.resolve()
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        for name, options in PICTURES.items():
            paint(program, options, temporary / f"{name}.png")
            (folder / f"{name}.png").write_bytes((temporary / f"{name}.png").read_bytes())
        early = sorted(temporary.glob("balanced-*.png"))
        wanted = [next(file for file in early if int(file.stem.split("-")[-1]) == after) for after in EARLY]
        sheet(wanted, 2, folder / "early.jpg")
        for number, options in enumerate(BESIDE):
            paint(program, options, temporary / f"beside{number}.png")
        sheet([temporary / f"beside{number}.png" for number in range(len(BESIDE))], 3, folder / "conv1_1-and-style.jpg")


if __name__ == "__main__":
    sys.exit(main())
