"""Creates tests/fuzz/corpus/: small files for each fuzz target, and one for each known fault. Files found by fuzzing, whose
names begin with `found-`, are kept.

Needs only Python's standard library, tests/images, and the program. Run from the repository root:
    python3 tests/fuzz/make_corpus.py target/debug/mirage
"""

import json
import random
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

CORPUS = Path("tests/fuzz/corpus")
MIB = 1 << 20


def put(target, name, content):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width=12, height=8, color=2, depth=8, before=b"", interlace=0, rows=None):
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    generator = random.Random(1)
    if rows is None:
        row_bytes = (width * channels * depth + 7) // 8
        rows = b"".join(b"\0" + generator.randbytes(row_bytes) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def text(key, value, deflated=None):
    if deflated is not None:
        return chunk(b"iTXt", key + b"\0\1\0\0\0" + deflated)
    return chunk(b"iTXt", key + b"\0\0\0\0\0" + value)


def tiff(bits, photometric, data, more=()):
    """Returns a TIFF of 12x8 pixels in one uncompressed strip. `bits` has an entry per channel; `more` are further tags as
    (tag, type, values), with type 3 for SHORT."""
    shorts = [(256, [12]), (257, [8]), (258, bits), (259, [1]), (262, [photometric]), (277, [len(bits)]), (278, [8])]
    tags = sorted([(tag, 3, values) for tag, values in shorts] + [(273, 4, [8]), (279, 4, [len(data)]), *more])
    start = 8 + len(data) + len(data) % 2
    values_at = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, kind, numbers in tags:
        packed = struct.pack("<" + ("H" if kind == 3 else "I") * len(numbers), *numbers)
        if len(packed) > 4:
            where, values = struct.pack("<I", values_at + len(values)), values + packed
        else:
            where = packed.ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + where
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + data.ljust(start - 8, b"\0") + directory + values


def zeros(count):
    return zlib.compress(bytes(count), 9)


def safetensors(tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    words = json.dumps(header).encode()
    return struct.pack("<Q", len(words)) + words + data


def network(caffe=True, form="e"):
    """Returns a network of two narrow blocks and a fully connected layer, in half precision by default."""
    generator = random.Random(2)
    dtype = {"e": "F16", "f": "F32"}[form]

    def numbers(*shape, scale=0.2):
        count = 1
        for side in shape:
            count *= side
        values = [generator.gauss(0, scale) for _ in range(count)]
        return dtype, list(shape), struct.pack(f"<{count}{form}", *values)

    names = ("conv1_1", "conv2_1", "fc6") if caffe else ("features.0", "features.3", "classifier.0")
    tensors = {}
    for name, shape in zip(names, ((3, 3, 3, 3), (2, 3, 3, 3), (3, 8))):
        tensors[f"{name}.weight"] = numbers(*shape)
        tensors[f"{name}.bias"] = numbers(shape[0])
    return safetensors(tensors, {"preprocessing": "caffe"} if caffe else {"format": "pt"})


def weights():
    whole = network()
    put("weights", "caffe-names.safetensors", whole)
    put("weights", "torchvision-names.safetensors", network(caffe=False, form="f"))
    put("weights", "header-of-40-gib.safetensors", struct.pack("<Q", 40 << 30) + b"{")
    put("weights", "header-beyond-64-bits.safetensors", struct.pack("<Q", (1 << 64) - 1) + b"{" + whole[9:200])
    past = b'{"conv1_1.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}'
    put("weights", "offsets-overflow.safetensors", struct.pack("<Q", len(past)) + past)
    sides = f'"shape":[{1 << 32},{1 << 32},{1 << 32}]'
    huge = b'{"conv1_1.weight":{"dtype":"F32",%s,"data_offsets":[0,4]}}' % sides.encode()
    put("weights", "shape-overflows.safetensors", struct.pack("<Q", len(huge)) + huge + bytes(4))
    nested = b'{"__metadata__":' + b"[" * 4000 + b"}"
    put("weights", "nested-header.safetensors", struct.pack("<Q", len(nested)) + nested)


def runs(program):
    """Creates pictures and checkpoints with real runs."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "photo.png").write_bytes(png(width=20, height=16))
        (folder / "net.safetensors").write_bytes(network(form="f"))
        common = ["render", "photo.png", "--weights", "net.safetensors", "--adapter", "cpu", "--size", "16", "--quiet"]
        common += ["--overwrite", "--iterations", "2", "--spatial", "relu2_1", "--style", "relu1_1", "--abstract", "fc6"]
        for name in ("png", "jpg", "webp", "tif"):
            more = ["--checkpoint-every", "2"] if name == "png" else []
            subprocess.run([program, *common, "-o", f"out.{name}", *more], cwd=folder, check=True)
            put("record", f"painted.{name}", (folder / f"out.{name}").read_bytes())
            put("image", f"painted.{name}", (folder / f"out.{name}").read_bytes())
        subprocess.run([program, *common, "-o", "f.png", "--film", "film.gif"], cwd=folder, check=True)
        put("record", "film.gif", (folder / "film.gif").read_bytes())
        checkpoint = (folder / "out-checkpoint.safetensors").read_bytes()
    put("checkpoint", "saved.safetensors", checkpoint)
    length = struct.unpack("<Q", checkpoint[:8])[0]
    header, data = json.loads(checkpoint[8 : 8 + length]), checkpoint[8 + length :]

    def forged(name, change, data=data, tensors=None):
        copy = {**json.loads(json.dumps(header)), **(tensors or {})}
        change(copy["__metadata__"])
        words = json.dumps(copy, separators=(",", ":")).encode()
        put("checkpoint", name, struct.pack("<Q", len(words)) + words + data)

    def options(**more):
        def change(metadata):
            metadata["options"] = json.dumps({**json.loads(metadata["options"]), **more})

        return change

    forged("sets-where-to-write.safetensors", options(log="/tmp/x", overwrite=True, adapter="$(touch x)"))
    forged("size-overflows.safetensors", lambda m: m.update({"state:size": f"{1 << 63}x{1 << 63}"}))
    forged("earlier-scales.safetensors", lambda m: m.update({"state:earlier_scales": "5x4:1,10x8:2"}))
    best = {"dtype": "F32", "shape": [624], "data_offsets": [len(data), len(data) + 2496]}
    losses = {"state:loss": "0.5", "state:trend": "20 3.5 0.25 1 2", "state:best": "1 1e-9"}
    forged("best-picture.safetensors", lambda m: m.update(losses), data + bytes(2496), {"best": best})
    forged("no-groups.safetensors", lambda m: m.update({"state:groups": ""}))
    forged("nested-options.safetensors", lambda m: m.update(options="[" * 2000))
    forged("no-tensors.safetensors", lambda m: None, data=b"")


def records():
    options = json.dumps({"photo": "/p.png", "seed": 3, "iterations": [2], "style_image": ["/s.png"], "balance": None})
    put("record", "options.png", png(before=text(b"neural-mirage:options", options.encode())))
    forged = json.dumps({"photo": "/p.png", "log": "/tmp/x", "overwrite": True, "adapter": "$(touch x)"})
    put("record", "sets-where-to-write.png", png(before=text(b"neural-mirage:options", forged.encode())))
    bomb = text(b"neural-mirage:options", b"", zeros(33 * MIB))
    put("record", "bomb-in-itxt.png", png(before=bomb * 2))
    deep = text(b"neural-mirage:options", b'{"a":' + b"[" * 5000)
    put("record", "nested.png", png(before=deep))
    escapes = json.dumps({"seed": 1, "\x1b[2J": "\u202e\x9b", "photo": "bytes:%ff%1b%zz"})
    losses = text(b"neural-mirage:losses", b'{"iteration":1,"total":1e999,"factors":{"a":{"loss":[]}}}')
    put("record", "escapes.png", png(before=text(b"neural-mirage:options", escapes.encode()) + losses))
    extended = b"http://ns.adobe.com/xap/1.0/\0<x HasExtendedXMP='" + b"A" * 32 + b"'/>"
    part = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + struct.pack(">II", 4, 0) + b"text"
    segments = b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in (extended, part))
    put("record", "extended-xmp.jpg", b"\xff\xd8" + segments + b"\xff\xd9")


def images():
    palette = chunk(b"PLTE", bytes(range(48))) + chunk(b"tRNS", bytes(range(16)))
    generator = random.Random(2)
    put("image", "reversed-bits.tif", tiff([1], 1, generator.randbytes(16), [(266, 3, [2])]))
    colors = [generator.randrange(65536) for _ in range(48)]
    put("image", "palette.tif", tiff([4], 3, generator.randbytes(48), [(320, 3, colors)]))
    put("image", "extra-channels.tif", tiff([8] * 5, 2, generator.randbytes(480), [(338, 3, [0, 2])]))
    exif = b"II*\0" + struct.pack("<IHHIII", 8, 1, 0x112, 4, 1, 6) + bytes(4)
    end = chunk(b"IEND", b"")
    put("image", "exif-after-pixels.png", png().replace(end, chunk(b"eXIf", exif) + end))
    put("image", "palette.png", png(color=3, depth=4, before=palette))
    put("image", "gray-16.png", png(color=4, depth=16))
    primaries = [31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000]
    primaries = chunk(b"cHRM", struct.pack(">8I", *primaries))
    put("image", "gamma-and-primaries.png", png(before=chunk(b"gAMA", struct.pack(">I", 100000)) + primaries))
    put("image", "gamma-of-gray.png", png(color=0, depth=16, before=chunk(b"gAMA", struct.pack(">I", 55556))))
    put("image", "interlaced.png", png(width=1, height=1, color=6, interlace=1))
    put("image", "bomb-in-iccp.png", png(before=chunk(b"iCCP", b"x\0\0" + zeros(20 * MIB))))
    put("image", "large.png", png(width=30000, height=30000, rows=b"\0"))
    put("image", "wide.png", png(width=32768, height=30, rows=bytes(30 * (3 * 32768 + 1))))
    put("image", "large-canvas.gif", b"GIF89a" + struct.pack("<HH", 30000, 8000) + b"\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;")
    rows = bytes(range(24)) * 2
    bmp = b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54)
    bmp += struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 24, 0, len(rows), 2835, 2835, 0, 0)
    put("image", "plain.bmp", bmp + rows)
    put("image", "large.bmp", bmp[:18] + struct.pack("<ii", 30000, -30000) + bmp[26:] + rows)


def npy(descr, shape=(2,), version=1, data=bytes(64), order=False):
    words = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    head = b"\x93NUMPY" + bytes([version, 0])
    words += b" " * (-(len(words) + 11) % 64) + b"\n"
    return head + struct.pack("<H" if version == 1 else "<I", len(words)) + words + data


def arrays():
    put("npy", "single.npy", npy("'<f4'", (2, 8)))
    put("npy", "half.npy", npy("'<f2'", (4, 8), version=2))
    put("npy", "scalar.npy", npy("'|u1'", ()))
    put("npy", "record.npy", npy("[('a', '<f4'), ('b', '<i2', (2, 3))]", (4,)))
    put("npy", "fortran.npy", npy("'<f4'", (2, 8), order=True))
    put("npy", "high-byte-first.npy", npy("'>f8'", (8,)))
    put("npy", "text.npy", npy("'<U4'", (4,)))
    put("npy", "large-shape.npy", npy("'<f4'", (1 << 40, 1 << 40)))
    for depth in (3, 12):
        put("npy", f"nested-{depth}.npy", npy("[('a', " * depth + "'<f4'" + ")]" * depth, (1,)))


SHADER = """@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() {
"""


def shaders():
    put("shader", "parameters.wgsl", """enable f16;
struct Params { a: f32, count: u32, matrix: mat3x2<f32>, list: array<vec4<i32>, 3> }
override LANES: u32 = 64u;
@id(7) override SCALE: f32 = 2.0;
const SIZE: u32 = 4u;
var<workgroup> parts: array<f32, LANES>;
var<immediate> step: u32;
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f16>;
@group(0) @binding(2) var<storage, read_write> bins: array<atomic<u32>, 16>;
@group(1) @binding(0) var image: texture_storage_2d<rgba32float, write>;
@compute @workgroup_size(LANES, SIZE)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    parts[lane] = SCALE * f32(x[min(id.x, arrayLength(&x) - 1u)]);
    workgroupBarrier();
    // unroll
    for (var i = 0u; i < 4u; i++) { atomicAdd(&bins[i], params.count + step); }
    textureStore(image, vec2<i32>(id.xy), vec4<f32>(parts[lane]));
}
""")
    put("shader", "long-sum.wgsl", SHADER + "let a = y[0]; y[0] = " + "+".join(["a"] * 2000) + ";}")
    put("shader", "many-signs.wgsl", SHADER + "y[0] = " + "- " * 2000 + "1.0;}")
    put("shader", "endless-loop.wgsl", SHADER + "// unroll\nfor (var i = 0u; i < 4000000000u; i++) { y[0] += 1.0; }\n}\n")
    put("shader", "large-variables.wgsl", "var<private> p: array<f32, 100000000>;\n" + SHADER + "y[0] = p[u32(y[0])];}")
    put("shader", "nested-types.wgsl", "var<private> p: " + "array<" * 300 + "f32" + ", 1>" * 300 + ";\n" + SHADER + "}")
    uniform = "@group(0) @binding(1) var<uniform> u: array<vec4<f32>, 4000000>;\n"
    put("shader", "large-uniform.wgsl", uniform + SHADER + "y[0] = u[2].x;}")
    structs = "struct S0 { a: f32 }" + "".join(f"struct S{n + 1} {{ a: S{n}, b: S{n} }}\n" for n in range(27))
    put("shader", "doubling-structs.wgsl", structs + "@group(0) @binding(1) var<storage> s: S27;\n" + SHADER + "y[0] = s" + ".a" * 28 + ";}")
    constants = "const A0 = array(1, 2);" + "".join(f"const A{n + 1} = array(A{n}, A{n});\n" for n in range(24))
    put("shader", "doubling-constants.wgsl", constants + SHADER + "let a: f32 = A24[1][1][0][0]; y[0] = a;}")
    blocks = "if y[0] > 0 " + "{ if y[0] > 1 " * 150 + "{ y[0] = 2.0; }" + "}" * 150
    put("shader", "nested-blocks.wgsl", SHADER + blocks + "}")


def configuration():
    adapter = {"backend": "vulkan", "vendor": 1, "device": 2, "name": "a device", "driver": "driver 1.0"}
    entry = {
        "adapter": adapter, "exact": False, "precision": "single", "op": "conv", "form": ["conv/forward RELU=1"],
        "channels": [[3, 0], [64, 0]], "sizes": [10, 10], "content": "abc", "variant": "one", "seconds": [["one", 0.5]],
    }
    cache = {"format": 3, "program": "0.1.0", "entries": [entry]}
    put("configuration", "tuning.json", json.dumps(cache))
    put("configuration", "later-tuning.json", json.dumps({**cache, "format": 4}))
    row = {
        "case": "relu 4x8x8", "variant": "naive", "preferred": True, "clock": "wall", "samples": 3, "min": 0.1,
        "quartiles": [0.1, 0.2, 1e308], "flops": 1.0, "bytes": 2.0, "compute_bound": False,
    }
    figures = {"format": 1, "version": "0.1.0", "device": "d", "peak_flops": 1.0, "peak_bandwidth": 2.0, "rows": [row]}
    put("configuration", "figures.json", json.dumps(figures))
    put("configuration", "labels.txt", "\ufeffcat\r\n\r\ntabby:0.5\nthe same\nthe same\n")
    put("configuration", "no-text.txt", b"\xff\xfe\0c\0a\0t")
    put("configuration", "nested.json", "[" * 5000)


def main():
    for path in CORPUS.glob("*/*"):
        if not path.name.startswith("found-"):
            path.unlink()
    weights()
    runs(str(Path(sys.argv[1]).resolve()))
    records()
    images()
    arrays()
    shaders()
    configuration()
    print(sum(path.stat().st_size for path in CORPUS.glob("*/*")), "bytes")


main()
