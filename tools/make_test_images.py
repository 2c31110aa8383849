"""Creates tests/images/: the kinds of pictures that the Rust crates can't write.

Needs Pillow, NumPy, tifffile and imagecodecs (made with 13.0.0, 2.4.6, 2026.3.3 and 2026.3.6), and cjpeg and jpegtran of
libjpeg-turbo (2.1.5). Run from the repository root:
    python3 tools/make_test_images.py

Most are 24x16 with four flat quarters (so lossy coding hardly matters): red, green over blue, light gray. Those called
large-... have 203x149 pixels, which no block or step size of JPEG divides: waves in all colours, an edge, some texture.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy
import tifffile
from PIL import Image

SIZE = (24, 16)
QUARTERS = [(200, 40, 40), (40, 160, 60), (40, 60, 180), (220, 220, 220)]


def quarters(mode="RGB"):
    picture = Image.new("RGB", SIZE)
    for i, color in enumerate(QUARTERS):
        picture.paste(color, (12 * (i % 2), 8 * (i // 2), 12 * (i % 2) + 12, 8 * (i // 2) + 8))
    return picture.convert(mode)


def waves():
    y, x = numpy.mgrid[0:149, 0:203].astype(float)
    texture = 18 * numpy.sin(1.9 * x) * numpy.sin(2.3 * y)
    edge = 40 * (x + 2 * y > 260)
    red = 110 + 60 * numpy.sin(x / 23 + y / 41)
    green = 90 + 50 * numpy.cos(x / 37 - y / 19)
    blue = 70 + 60 * numpy.sin(y / 29 - x / 53)
    return Image.fromarray(numpy.stack([c + edge + texture for c in (red, green, blue)], -1).clip(0, 255).astype("uint8"))


def transcoded(jpeg, scans):
    with tempfile.NamedTemporaryFile("w") as script:
        script.write(scans)
        script.flush()
        command = ["jpegtran", "-scans", script.name]
        return subprocess.run(command, input=jpeg, stdout=subprocess.PIPE, check=True).stdout


def large(folder):
    picture = waves()
    for sampling in ("4:4:4", "4:2:2", "4:2:0"):
        name = folder / f"large-{sampling.replace(':', '')}.jpg"
        picture.save(name, quality=90, subsampling=sampling, progressive=True)
    # Progressive with restart markers, and the same pixels as a baseline JPEG.
    for name, progressive in (("restart", True), ("baseline", False)):
        name = folder / f"large-{name}.jpg"
        picture.save(name, quality=90, subsampling="4:2:0", progressive=progressive, restart_marker_blocks=7)
    picture.convert("L").save(folder / "large-gray.jpg", quality=90, progressive=True)
    picture.convert("CMYK").save(folder / "large-cmyk.jpg", quality=90, progressive=True)
    picture.save(folder / "large-rgb.jpg", quality=90, progressive=True, keep_rgb=True)
    # The coefficients of large-baseline.jpg with a scan for each component, or for two and one.
    baseline = (folder / "large-baseline.jpg").read_bytes()
    for name, scans in (("separate", "0;1;2;"), ("pair", "0 1;2;")):
        (folder / f"large-{name}.jpg").write_bytes(transcoded(baseline, scans))
    # Progressive, with a DC scan for each component, and the chroma quantization table after the first of them.
    dc = "0: 0-0, 0, 0; 1: 0-0, 0, 0; 2: 0-0, 0, 0;"
    data = transcoded(baseline, dc + "0: 1-63, 0, 0; 1: 1-63, 0, 0; 2: 1-63, 0, 0;")
    tables = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xdb"]
    table = data[tables[1] : tables[1] + 69]
    data = data[: tables[1]] + data[tables[1] + 69 :]
    scan = data.index(b"\xff\xda")
    second = scan + 2 + data[scan + 2 :].index(b"\xff\xda")
    (folder / "large-late-table.jpg").write_bytes(data[:second] + table + data[second:])
    # Luminance with half the resolution of the chroma.
    ppm = b"P6\n203 149\n255\n" + picture.tobytes()
    command = ["cjpeg", "-quality", "90", "-sample", "1x1,2x2,2x2"]
    data = subprocess.run(command, input=ppm, stdout=subprocess.PIPE, check=True).stdout
    (folder / "large-coarse-luma.jpg").write_bytes(data)


def main():
    folder = Path("tests/images")
    folder.mkdir(parents=True, exist_ok=True)
    large(folder)
    picture = quarters()
    picture.save(folder / "progressive.jpg", quality=95, subsampling=2, progressive=True)
    picture.save(folder / "restart.jpg", quality=95, subsampling=2, restart_marker_blocks=1)
    quarters("CMYK").save(folder / "cmyk.jpg", quality=95, subsampling=0)
    quarters("CMYK").save(folder / "cmyk.tif")
    # Fax coding with white as zero, as scanners write it.
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
    picture.quantize(8).save(
        folder / "animated.gif",
        save_all=True,
        append_images=[Image.new("RGB", SIZE, (90 * i, 0, 0)).quantize(2) for i in range(2)],
        duration=100,
    )
    # JPEG in TIFF: in strips with subsampled chroma, as libtiff writes it, and in tiles.
    quarters("YCbCr").save(folder / "jpeg-strips.tif", compression="jpeg", quality=95)
    tifffile.imwrite(
        folder / "jpeg-tiles.tif",
        numpy.asarray(quarters("YCbCr")),
        photometric="ycbcr",
        compression="jpeg",
        compressionargs={"level": 95},
        subsampling=(2, 2),
        tile=(16, 16),
    )
    # Planar, in tiles that extend beyond the picture.
    tifffile.imwrite(
        folder / "planar-tiles.tif",
        numpy.moveaxis(numpy.asarray(picture), -1, 0).copy(),
        photometric="rgb",
        planarconfig="separate",
        tile=(16, 16),
        compression="zlib",
    )
    tifffile.imwrite(folder / "u32.tif", numpy.asarray(picture).astype("uint32") * 16843009, photometric="rgb")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "orientation6.webp", lossless=True, exif=exif)
    picture.save(folder / "orientation6.png", exif=exif)


if __name__ == "__main__":
    main()
