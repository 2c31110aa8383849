#!/usr/bin/env python3
"""Paints photos with many recipes and combines the pictures in one sheet: docs/pictures/recipes.jpg of docs/recipes.md.

    python3 tools/recipe_sheet.py PROGRAM [--size 256] [--photos FILE...] [--only NAME...] [--folder DIR] [--sheet FILE]

PROGRAM is a release build of `mirage`; needs pillow. Pictures that already exist in the folder are not painted again,
so an interrupted run can be continued. Prints a Markdown table of options and of the seconds for each picture, without
the startup of the program.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = [ROOT / "docs" / "photos" / name for name in ("summer-palace.jpg", "coffee.png", "chelsea.png", "astronaut.png")]
# Options that differ from the default.
RECIPES = {
    "default": "",
    "gram": "--style-statistic gram",
    "mean-variance": "--style-statistic mean-variance",
    "mean-covariance": "--style-statistic mean-covariance",
    "equal layers": "--style relu1_1,relu2_1,relu3_1,relu4_1",
    "more spatial": "--balance spatial=40,abstract=10,style=50",
    "less spatial": "--balance spatial=5,abstract=15,style=80",
    "more abstract": "--balance spatial=15,abstract=30,style=55",
    "max pooling": "--pooling max",
    "no grain": "--grain 0",
    "from noise": "--init noise",
    "one scale": "--scales 1 --iterations 61",
    "lbfgs": "--optimizer lbfgs",
}
GAP, TEXT = 6, 16


def paint(program, photo, options, size, picture):
    command = [program, "render", photo, "-o", picture, "--size", size, "--overwrite", "-q", *options.split()]
    subprocess.run([str(part) for part in command], check=True)


def seconds_of(program, picture):
    shown = subprocess.run([str(program), "show", str(picture), "--json"], check=True, stdout=subprocess.PIPE)
    return json.loads(shown.stdout)["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda name: Path(name).resolve())
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--photos", type=Path, nargs="+", default=PHOTOS)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--folder", type=Path, default=Path("recipes"))
    parser.add_argument("--sheet", type=Path, default=Path("recipes.jpg"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    names = [photo.stem for photo in arguments.photos]
    print(f"| recipe | differs by | {', '.join(names)}, s |\n| --- | --- | --- |")
    rows = []
    for recipe in arguments.only:
        pictures, times = [], []
        for photo in arguments.photos:
            picture = arguments.folder / f"{recipe.replace(' ', '-')}-{photo.stem}.png"
            if not picture.exists():
                paint(arguments.program, photo, RECIPES[recipe], arguments.size, picture)
            pictures.append(picture)
            times.append(f"{seconds_of(arguments.program, picture):.0f}")
        options = f"`{RECIPES[recipe]}`" if RECIPES[recipe] else "nothing"
        print(f"| {recipe} | {options} | {', '.join(times)} |", flush=True)
        rows.append([Image.open(picture).convert("RGB") for picture in pictures])
    widths = [max(row[at].width for row in rows) for at in range(len(names))]
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), sum(heights) + (GAP + TEXT) * len(rows) + GAP), "white")
    draw, y = ImageDraw.Draw(sheet), GAP
    for recipe, row, height in zip(arguments.only, rows, heights):
        draw.text((GAP, y), f"{recipe}  {RECIPES[recipe]}", fill="black")
        x = GAP
        for picture, width in zip(row, widths):
            sheet.paste(picture, (x, y + TEXT))
            x += width + GAP
        y += height + TEXT + GAP
    sheet.save(arguments.sheet, quality=88)


if __name__ == "__main__":
    sys.exit(main())
