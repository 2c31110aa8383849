"""Makes tests/images/: the few kinds of pictures that the Rust crates can't write themselves.

Needs Pillow (made with 13.0.0). Run from the repository root:
    python3 tools/make_test_images.py

Every picture is 24x16 with four flat quarters (so that lossy coding hardly matters):
red, green over blue, light gray.
"""

from pathlib import Path

from PIL import Image

SIZE = (24, 16)
QUARTERS = [(200, 40, 40), (40, 160, 60), (40, 60, 180), (220, 220, 220)]


def quarters(mode="RGB"):
    picture = Image.new("RGB", SIZE)
    for i, color in enumerate(QUARTERS):
        picture.paste(color, (12 * (i % 2), 8 * (i // 2), 12 * (i % 2) + 12, 8 * (i // 2) + 8))
    return picture.convert(mode)


def main():
    folder = Path("tests/images")
    folder.mkdir(parents=True, exist_ok=True)
    picture = quarters()
    picture.save(folder / "progressive.jpg", quality=95, subsampling=2, progressive=True)
    picture.save(folder / "restart.jpg", quality=95, subsampling=2, restart_marker_blocks=1)
    quarters("CMYK").save(folder / "cmyk.jpg", quality=95, subsampling=0)
    quarters("CMYK").save(folder / "cmyk.tif")
    # Fax coding with white as zero: what scanners write.
    quarters("1").save(folder / "fax4.tif", compression="group4")
    picture.save(folder / "lossy.webp", quality=95)
    alpha = quarters("RGBA")
    alpha.putalpha(Image.new("L", SIZE, 128))
    alpha.save(folder / "lossy-alpha.webp", quality=95)
    picture.save(
        folder / "animated.webp",
        save_all=True,
        append_images=[Image.new("RGB", SIZE, (0, 0, 0))],
        lossless=True,
        duration=100,
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "orientation6.webp", lossless=True, exif=exif)
    picture.save(folder / "orientation6.png", exif=exif)


if __name__ == "__main__":
    main()
