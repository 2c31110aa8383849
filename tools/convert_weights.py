#!/usr/bin/env python3
"""Converts VGG weights of other programs to a safetensors file for neural-mirage.

    python3 tools/convert_weights.py vgg19.pth vgg19.safetensors [--half]
    python3 tools/convert_weights.py --self-test

Reads PyTorch state dicts (.pth, .pt), Keras weights (.h5, .hdf5) and Caffe models (.caffemodel).
Needs numpy, and torch for .pth or h5py for .h5; Caffe itself is not needed. Tensors keep their
names and dimension orders (torchvision's, Keras's or Caffe's), which the program recognises. The
preprocessing of the network's input is stored in the file's metadata under "preprocessing".

Exit codes: 0 success, 1 the self-test failed, 2 the input can't be used (the reason is printed).
"""

import argparse
import json
import os
import re
import struct
import sys
import tempfile


class Unusable(Exception):
    """The input can't be used; the message contains the reason and a remedy."""


def need(module, why):
    """Imports an optional module."""
    try:
        return __import__(module)
    except ImportError:
        raise Unusable(f"{why} needs the Python package {module}: python3 -m pip install {module}") from None


# --- PyTorch -------------------------------------------------------------------------------------

# File name parts of Caffe's weights stored under torchvision's names (jcjohnson/pytorch-vgg; neural-style-pt).
CAFFE_IN_DISGUISE = ("00b39a1b", "d01eb7cb")


def read_torch(path):
    """Returns the tensors of a state dict, and its preprocessing."""
    torch = need("torch", "reading PyTorch files")
    try:
        # weights_only: a pickle from the internet must not run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various exceptions of its unpickler
        first = (str(error).splitlines() or [""])[0]
        raise Unusable(f"{path}: not a PyTorch state dict ({type(error).__name__}: {first}). Save model.state_dict()")
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise Unusable(f"{path}: holds a {type(state).__name__}, not a state dict. Save model.state_dict()")
    tensors = {}
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor) and value.is_floating_point():
            name = name.removeprefix("module.")
            # A state dict of only vgg.features has bare indices.
            name = "features." + name if re.match(r"\d+\.", name) else name
            tensors[name] = value.detach().to(torch.float32).contiguous().numpy()
    caffe = any(mark in os.path.basename(path) for mark in CAFFE_IN_DISGUISE)
    named = any(name.startswith("conv1_1") for name in tensors)
    return tensors, "caffe" if caffe or named else "torchvision"


# --- Keras ---------------------------------------------------------------------------------------


def read_keras(path):
    """Returns the variables of a Keras weights file by path, and the preprocessing."""
    numpy, h5py = need("numpy", "conversion"), need("h5py", "reading Keras files")
    tensors = {}

    def visit(name, item):
        if not isinstance(item, h5py.Dataset) or item.dtype.kind != "f" or name.startswith("optimizer"):
            return
        name = name.removeprefix("model_weights/")
        # Keras 3 numbers the variables of a layer: the kernel first, then the bias.
        match = re.fullmatch(r"(?:.*/)?(block\d+_conv\d+|fc\d+|predictions)/vars/([01])", name)
        if match:
            name = f"{match[1]}/{('kernel', 'bias')[int(match[2])]}"
        elif re.search(r"/vars/\d+$", name):
            raise Unusable(f"{path}: the layers have no names ({name}). Save with model.save('vgg.h5')")
        tensors[name] = numpy.asarray(item, dtype=numpy.float32)

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise Unusable(f"{path}: not an HDF5 file ({error})") from None
    with file:
        file.visititems(visit)
    return tensors, "caffe"


# --- Caffe: the required fields of caffe.proto ---------------------------------------------------

NET_V1_LAYERS, NET_LAYERS = 2, 100
# Field numbers of name, type and blobs, and the types with weights.
V1_LAYER = (4, 5, 6, {4: "Convolution", 14: "InnerProduct"})
LAYER = (1, 2, 7, {b"Convolution": "Convolution", b"InnerProduct": "InnerProduct"})
BLOB_OLD_SHAPE, BLOB_DATA, BLOB_SHAPE, BLOB_DOUBLES = (1, 2, 3, 4), 5, 7, 8


def varint(data, at):
    """Reads a protobuf integer; returns it and the position after it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Unusable("not a complete Caffe model: it ends within a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data):
    """Yields number, wire type and value of each field of a protobuf message."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
            yield key >> 3, kind, value
            continue
        if kind == 2:
            length, at = varint(data, at)
        elif kind in (1, 5):
            length = {1: 8, 5: 4}[kind]
        else:
            raise Unusable(f"not a Caffe model: protobuf wire type {kind}")
        if at + length > len(data):
            raise Unusable("not a complete Caffe model: it ends within a field")
        yield key >> 3, kind, data[at : at + length]
        at += length


def read_blob(data):
    """Reads a BlobProto as an array."""
    numpy = need("numpy", "conversion")
    old, shape, pieces = {}, None, []
    for number, kind, value in fields(data):
        if number in BLOB_OLD_SHAPE and kind == 0:
            old[number] = value
        elif number in (BLOB_DATA, BLOB_DOUBLES) and kind in (1, 2, 5):
            wide = number == BLOB_DOUBLES
            if len(value) % (8 if wide else 4):
                raise Unusable("not a complete Caffe model: a blob ends within a number")
            pieces.append(numpy.frombuffer(value, "<f8" if wide else "<f4").astype(numpy.float32))
        elif number == BLOB_SHAPE and kind == 2:
            shape = []
            for part, part_kind, dims in fields(value):
                if part == 1 and part_kind == 0:
                    shape.append(dims)
                elif part == 1 and part_kind == 2:
                    at = 0
                    while at < len(dims):
                        dim, at = varint(dims, at)
                        shape.append(dim)
    values = numpy.concatenate(pieces) if pieces else numpy.zeros(0, numpy.float32)
    if shape is None:
        shape = [old.get(number, 1) for number in BLOB_OLD_SHAPE]
    count = 1
    for dim in shape:
        count *= dim
    if count != values.size or max(shape, default=0) > values.size:
        raise Unusable(f"a blob of shape {shape} holds {values.size} numbers")
    return values.reshape(shape)


def read_caffe(path):
    """Returns filters, matrices and biases of a Caffe model as conv1_1.weight, fc6.bias, ..., and the preprocessing."""
    with open(path, "rb") as file:
        data = memoryview(file.read())
    tensors = {}
    for number, kind, value in fields(data):
        if kind != 2 or number not in (NET_V1_LAYERS, NET_LAYERS):
            continue
        name_field, type_field, blob_field, types = LAYER if number == NET_LAYERS else V1_LAYER
        name, layer_type, blobs = "", None, []
        for part, part_kind, content in fields(value):
            if part == name_field and part_kind == 2:
                name = bytes(content).decode("utf-8", "replace")
            elif part == type_field:
                layer_type = content if part_kind == 0 else bytes(content)
            elif part == blob_field and part_kind == 2:
                blobs.append(content)
        if not blobs:
            continue
        if layer_type not in types:
            raise Unusable(f"{path}: layer {name} has weights but is of type {layer_type}; only convolutions and "
                           "inner products can be converted")
        if len(blobs) != 2:
            raise Unusable(f"{path}: layer {name} has {len(blobs)} blobs; weights and biases were expected")
        weight, bias = (read_blob(blob) for blob in blobs)
        if types[layer_type] == "InnerProduct":
            if weight.ndim < 2 or any(side != 1 for side in weight.shape[:-2]):
                raise Unusable(f"{path}: layer {name} has weights of shape {list(weight.shape)}, which is no matrix")
            weight = weight.reshape(weight.shape[-2:])  # the old format has [1, 1, out, in]
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, bias.reshape(-1)
    return tensors, "caffe"


# --- safetensors ---------------------------------------------------------------------------------

READERS = {".pth": read_torch, ".pt": read_torch, ".h5": read_keras, ".hdf5": read_keras,
           ".caffemodel": read_caffe}


def check_target(path, source, overwrite):
    """Rejects a target that would replace the source or, without --overwrite, another file."""
    if os.path.exists(path) and os.path.samefile(path, source):
        raise Unusable(f"{path} would replace the source. Choose another target")
    if os.path.lexists(path):
        if os.path.exists(path) and not os.path.isfile(path):
            raise Unusable(f"{path} is not a regular file. Choose another target")
        if not overwrite:
            raise Unusable(f"{path} already exists. Choose another target, or replace it with --overwrite")


def publish(part, path, overwrite):
    """Renames a finished file to its final name."""
    if overwrite:
        os.replace(part, os.path.realpath(path))
        return
    try:
        os.link(part, path)  # Unlike os.replace, never replaces a file.
    except FileExistsError:
        raise Unusable(f"{path} exists by now. Choose another target, or replace it with --overwrite") from None
    except OSError:  # A disk without hard links: check, then rename.
        if os.path.lexists(path):
            raise Unusable(f"{path} exists by now. Choose another target") from None
        os.replace(part, path)


def write_safetensors(path, tensors, metadata, half, overwrite=False):
    """Writes tensors and metadata; the file gets its final name only when it is complete."""
    numpy = need("numpy", "conversion")
    stored, header, offset = [], {"__metadata__": metadata}, 0
    for name in sorted(tensors):
        array = tensors[name]
        if not numpy.isfinite(array).all():
            raise Unusable(f"tensor {name} holds NaN or infinite values: the file is damaged")
        if half:
            with numpy.errstate(over="ignore"):
                array = array.astype("<f2")
            if not numpy.isfinite(array).all():
                raise Unusable(f"tensor {name} has values too large for half precision. Omit --half")
        array = numpy.ascontiguousarray(array, dtype="<f2" if half else "<f4")
        header[name] = {"dtype": "F16" if half else "F32", "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
        stored.append(array)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # An unpredictable name, because others may be able to write to the folder.
    handle, part = tempfile.mkstemp(prefix=".mirage-", suffix=".tmp", dir=os.path.dirname(path) or ".")
    try:
        with open(handle, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for array in stored:
                file.write(array.tobytes())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)
        publish(part, path, overwrite)
    finally:
        if os.path.lexists(part):
            os.remove(part)


def convert(source, target, preprocessing=None, half=False, overwrite=False):
    """Converts one file; returns the tensors and the preprocessing."""
    check_target(target, source, overwrite)
    reader = READERS.get(os.path.splitext(source)[1].lower())
    if reader is None:
        raise Unusable(f"{source}: unknown kind of file. Supported: {', '.join(READERS)}")
    tensors, usual = reader(source)
    keys = re.compile(r"features\.\d+\.|conv\d+_\d+\.|(.*/)?block\d+_conv\d+/")
    if not any(keys.match(name) for name in tensors):
        some = ", ".join(sorted(tensors)[:4]) or "nothing"
        raise Unusable(f"{source}: not the weights of a VGG network; it holds {some}")
    preprocessing = preprocessing or usual
    # The header must be UTF-8; a file name may contain other bytes.
    name = os.fsencode(os.path.basename(source)).decode("utf-8", "replace")
    metadata = {"format": "pt", "preprocessing": preprocessing, "source": name}
    write_safetensors(target, tensors, metadata, half, overwrite)
    return tensors, preprocessing


# --- self-test -----------------------------------------------------------------------------------


def read_back(path):
    """Reads a safetensors file as (metadata, {name: (dtype, array)})."""
    numpy = need("numpy", "conversion")
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata, tensors = header.pop("__metadata__"), {}
    for name, info in header.items():
        start, end = (8 + length + offset for offset in info["data_offsets"])
        kind = {"F32": "<f4", "F16": "<f2"}[info["dtype"]]
        tensors[name] = info["dtype"], numpy.frombuffer(data[start:end], kind).reshape(info["shape"])
    return metadata, tensors


def self_test(keep):
    """Converts tiny files of each kind, in the folder `keep` if given, and compares every number."""
    numpy = need("numpy", "conversion")
    random = numpy.random.default_rng(1)
    make = lambda *shape: random.integers(-64, 64, shape).astype(numpy.float32) / 32  # noqa: E731
    weights = {"conv1_1": (make(4, 3, 3, 3), make(4)), "conv1_2": (make(5, 4, 3, 3), make(5)),
               "conv2_1": (make(6, 5, 3, 3), make(6)), "fc6": (make(7, 24), make(7)), "fc7": (make(8, 7), make(8))}
    expected = {f"{layer}.{part}": value for layer, pair in weights.items()
                for part, value in zip(("weight", "bias"), pair)}

    def number(value):
        out = b""
        while value > 0x7F:
            out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
        return out + bytes([value])

    def field(n, kind, value):
        return number(n << 3 | kind) + (number(value) if kind == 0 else number(len(value)) + value)

    def blob(array, old, packed=True, doubles=False):
        if old:
            shape = (1,) * (4 - array.ndim) + array.shape
            out = b"".join(field(n, 0, dim) for n, dim in zip(BLOB_OLD_SHAPE, shape))
        else:
            out = field(BLOB_SHAPE, 2, field(1, 2, b"".join(map(number, array.shape))))
        if doubles:
            return out + field(BLOB_DOUBLES, 2, array.astype("<f8").tobytes())
        if packed:
            return out + field(BLOB_DATA, 2, array.astype("<f4").tobytes())
        return out + b"".join(number(BLOB_DATA << 3 | 5) + struct.pack("<f", v) for v in array.ravel())

    def caffemodel(old, **options):
        out = field(1, 2, b"VGG")
        out += field(2, 2, field(4, 2, b"data") + field(5, 0, 5)) if old else field(100, 2, field(1, 2, b"data"))
        for layer, pair in weights.items():
            conv = layer.startswith("conv")
            blobs = [blob(value, old, **options) for value in pair]
            if old:
                body = b"".join(field(6, 2, b) for b in blobs) + field(4, 2, layer.encode())
                out += field(2, 2, body + field(5, 0, 4 if conv else 14))
            else:
                kind = b"Convolution" if conv else b"InnerProduct"
                out += field(100, 2, field(1, 2, layer.encode()) + field(2, 2, kind)
                             + b"".join(field(7, 2, b) for b in blobs))
        return out

    def check(what, source, expected, preprocessing):
        for half in (False, True):
            target = f"{os.path.splitext(source)[0]}-{'half' if half else 'single'}.safetensors"
            convert(source, target, half=half, overwrite=True)
            metadata, found = read_back(target)
            assert metadata["preprocessing"] == preprocessing, (what, metadata)
            assert set(found) == set(expected), (what, sorted(found))
            for name, (dtype, array) in found.items():
                assert dtype == ("F16" if half else "F32"), (what, name)
                # The test's numbers are exact in half precision.
                assert array.shape == expected[name].shape and (array == expected[name]).all(), (what, name)
        print(f"{what}: ok")

    def refuse(what, path, content, part):
        with open(path, "wb") as file:
            file.write(content)
        try:
            convert(path, path + ".safetensors")
        except Unusable as error:
            assert part in str(error), (what, str(error))
            print(f"{what}: refused")
            return
        raise AssertionError(f"{what}: not refused")

    with tempfile.TemporaryDirectory() as scratch:
        folder = keep or scratch
        os.makedirs(folder, exist_ok=True)
        join = lambda name: os.path.join(folder, name)  # noqa: E731
        for name, content in [("v1", caffemodel(True)), ("new", caffemodel(False)),
                              ("unpacked", caffemodel(True, packed=False)), ("doubles", caffemodel(False, doubles=True))]:
            with open(join(f"{name}.caffemodel"), "wb") as file:
                file.write(content)
            check(f"Caffe ({name})", join(f"{name}.caffemodel"), expected, "caffe")
        for target in ["new-half.safetensors", "new.caffemodel"]:
            try:
                convert(join("new.caffemodel"), join(target))
                raise AssertionError(f"{target} was replaced")
            except Unusable as error:
                assert "Choose another target" in str(error), error
        whole = caffemodel(False)
        refuse("Caffe, cut short", join("cut.caffemodel"), whole[:-5], "not a complete")
        refuse("Caffe, noise", join("noise.caffemodel"), b"\x0f" * 50, "not a Caffe model")
        refuse("Caffe, empty", join("empty.caffemodel"), b"", "nothing")
        refuse("unknown kind", join("weights.onnx"), b"", "unknown kind")
        norm = field(100, 2, field(1, 2, b"bn") + field(2, 2, b"BatchNorm") + field(7, 2, blob(make(4), False)))
        refuse("Caffe, batch norm", join("norm.caffemodel"), whole + norm, "BatchNorm")
        bad = {"conv1_1.weight": numpy.full((1, 3, 1, 1), 1e6, numpy.float32)}
        for values, half, part in [(bad, True, "too large"), ({"x": numpy.array([numpy.nan])}, False, "NaN")]:
            try:
                write_safetensors(join("bad.safetensors"), values, {}, half)
                raise AssertionError(f"{part}: not refused")
            except Unusable as error:
                assert part in str(error), error

        keras = {}
        names = dict(zip(weights, ("block1_conv1", "block1_conv2", "block2_conv1", "fc1", "predictions")))
        for layer, (weight, bias) in weights.items():
            # HWIO filters; matrices [in, out], the first with rows in row, column, channel order.
            if weight.ndim == 4:
                weight = weight.transpose(2, 3, 1, 0)
            else:
                if layer == "fc6":
                    weight = weight.reshape(7, 6, 2, 2).transpose(0, 2, 3, 1).reshape(7, 24)
                weight = weight.T
            keras[names[layer]] = weight, bias
        try:
            import h5py
        except ImportError:
            print("Keras: skipped, h5py is not installed")
        else:
            spellings = [("keras1", "{0}/{0}_W_1:0", "{0}/{0}_b_1:0"), ("keras2", "{0}/{0}/kernel:0", "{0}/{0}/bias:0"),
                         ("model", "model_weights/{0}/{0}/kernel:0", "model_weights/{0}/{0}/bias:0"),
                         ("keras3", "layers/{0}/vars/0", "layers/{0}/vars/1")]
            for spelling, kernel, bias in spellings:
                wanted = {}
                with h5py.File(join(f"{spelling}.h5"), "w") as file:
                    for layer, pair in keras.items():
                        for path, plain, value in zip((kernel, bias), ("kernel", "bias"), pair):
                            path = path.format(layer)
                            file[path] = value
                            key = path.removeprefix("model_weights/")
                            wanted[f"{layer}/{plain}" if spelling == "keras3" else key] = value
                    file["optimizer_weights/iterations"] = numpy.float32(1)
                check(f"Keras ({spelling})", join(f"{spelling}.h5"), wanted, "caffe")
            refuse("Keras, not HDF5", join("bad.h5"), b"text", "not an HDF5 file")
        try:
            import torch
        except ImportError:
            print("PyTorch: skipped, torch is not installed")
        else:
            keys = dict(zip(weights, ("features.0", "features.2", "features.5", "classifier.0", "classifier.3")))
            wanted = {name.replace(layer := name.split(".")[0], keys[layer]): value for name, value in expected.items()}
            state = {name: torch.from_numpy(value.copy()) for name, value in wanted.items()}
            torch.save(state | {"features.1.num_batches_tracked": torch.tensor(5)}, join("plain.pth"))
            check("PyTorch (state dict)", join("plain.pth"), wanted, "torchvision")
            torch.save({"state_dict": {"module." + k: v for k, v in state.items()}, "epoch": 3}, join("nested.pt"))
            check("PyTorch (nested)", join("nested.pt"), wanted, "torchvision")
            torch.save(state, join("vgg19-d01eb7cb.pth"))
            check("PyTorch (Caffe's weights)", join("vgg19-d01eb7cb.pth"), wanted, "caffe")
            refuse("PyTorch, not a state dict", join("bad.pth"), b"text", "not a PyTorch state dict")
    print("self-test passed")


def main():
    """Parses the arguments and converts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="the file to convert")
    parser.add_argument("target", nargs="?", help="the safetensors file to write (default: beside the source)")
    parser.add_argument("--overwrite", action="store_true", help="replace the target if it exists")
    parser.add_argument("--half", action="store_true", help="store half-precision numbers: half the size")
    parser.add_argument("--preprocessing", choices=("caffe", "torchvision"),
                        help="preprocessing of the network's input [default: the usual one for this kind of file]")
    parser.add_argument("--self-test", action="store_true", help="convert tiny synthetic files and compare them")
    parser.add_argument("--keep", metavar="FOLDER", help="with --self-test: keep its files in this folder")
    options = parser.parse_args()
    try:
        if options.self_test:
            self_test(options.keep)
            return 0
        if not options.source:
            parser.error("a file to convert is required")
        target = options.target or os.path.splitext(options.source)[0] + ".safetensors"
        tensors, preprocessing = convert(options.source, target, options.preprocessing, options.half,
                                         options.overwrite)
    except AssertionError as error:
        print(f"self-test failed: {error}", file=sys.stderr)
        return 1
    except (Unusable, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{target}: {len(tensors)} tensors, preprocessing {preprocessing} "
          "(if that is wrong for this network, set --preprocessing)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
