"""The files that mutants begin with: `python -m fuzz.corpus` writes them beside this module."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from random import Random

from fuzz import headers, names
from fuzz.archives import pack
from oracle.containers import container, entry
from oracle.pickles import (
    NONE,
    START,
    call,
    group,
    name,
    number,
    numbers,
    state,
    storage,
    stream,
    tensor,
    text,
)

FOLDER = Path(__file__).with_name("corpus")
Files = dict[str, bytes]
_LONG_RANGE = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,%b]}}' % (b"9" * 4300)
_ORDERED = call("collections", "OrderedDict")


def handmade() -> Files:
    """Sound files of every container, by name; the same bytes at any time."""
    return {**_headers(), **_zips(), **_streams()}


def regressions() -> Files:
    """What mutants have found: they are refused, or read, without any harm."""
    huge = [2**31 - 1] * 7 + [0]
    return {
        "huge-and-empty.safetensors": container({"a": entry("F32", huge, 0, 0)}),
        "huge-and-empty.zip": _zip(state(a=tensor(huge, [1] * 8))),
        "long-type.safetensors": container({"a": entry("x" * 3000, [1], 0, 4)}, bytes(4)),
        "long-layout.safetensors": container({"__metadata__": {"ipa_layout": "x" * 3000}}),
        "long-range.safetensors": container(_LONG_RANGE, bytes(4)),
        "brackets.safetensors": container(b'{"a":[' + b"[]," * 4000 + b"0]}"),
        "stride-of-one.zip": _zip(state(a=tensor((1, 4), (2**100, 1)))),
    }


def load() -> Files:
    """The saved files, by name."""
    return {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir())}


def _headers() -> Files:
    draw = Random(1)
    kinds = headers.SIZES
    shapes: dict[str, names.Shapes] = {**names.KNOWN, "types": dict.fromkeys(kinds, (2, 3))}
    shapes["dimensions"] = {"a": (), "b": (0,), "c": (1,) * 8, "d": (3, 0, 2), "ü": (1, 2)}
    found = {}
    for kind, rows in shapes.items():
        fields = {
            key: {"dtype": key if key in kinds else "F16", "shape": list(shape)}
            for key, shape in rows.items()
        }
        body = headers.tiled(fields, draw)
        found[f"{kind}.safetensors"] = container(fields, body)
    mlx = {
        "__metadata__": {"format": "mlx", "ipa_layout": "1"},
        "conv_in.weight": entry("F32", [1], 0, 4),
    }
    found["converted.safetensors"] = container(mlx, bytes(4))
    found["nothing.safetensors"] = container({})
    return found


def _zip(pickle: bytes, sizes: Mapping[str, int] | None = None, *, wide: bool = False) -> bytes:
    rows = {"0": 16} if sizes is None else sizes
    storages = [(f"archive/data/{key}", bytes(range(size))) for key, size in rows.items()]
    return pack([("archive/data.pkl", pickle), ("archive/version", b"3\n"), *storages], wide=wide)


def _shapes(rows: names.Shapes, *, old: bool) -> tuple[bytes, dict[str, int]]:
    """A state dict of these shapes, every tensor with a storage of its own."""
    more = (NONE,) if old else ()
    entries, sizes = b"", {}
    for key, shape in rows.items():
        strides = [1] * len(shape)
        for axis in reversed(range(len(shape) - 1)):
            strides[axis] = strides[axis + 1] * shape[axis + 1]
        count = max(1, strides[0] * shape[0]) if shape else 1
        source = storage("HalfStorage", str(len(sizes)), count, *more)
        entries += text(key) + tensor(shape, strides, 0, source)
        sizes[str(len(sizes))] = 2 * count
    return START + b"}(" + entries + b"u.", sizes


def _run(more: bytes = b"") -> bytes:
    """A training run of Lightning with settings of OmegaConf, and `more` in a storage's id."""

    def made(kind: str, attributes: bytes) -> bytes:
        return name("omegaconf." + kind.rpartition(".")[0], kind.rpartition(".")[2]) + attributes

    resolvers = call("collections", "defaultdict", name("__builtin__", "dict")) + text("a") + b"]s"
    about = made("base.ContainerMetadata", b")\x81}(") + text("ref_type") + name("typing", "Any")
    about += text("resolver_cache") + resolvers + b"ub"
    leaf = made("nodes.AnyNode", b")\x81}(") + text("_parent") + b"h\1" + text("_val") + b"K\2ub"
    config = made("dictconfig.DictConfig", b")\x81q\1}(") + text("_metadata") + about
    config += text("_content") + b"}" + text("a") + leaf + b"sub"
    path = call("pathlib", "PosixPath", text("logs"), text("x.ckpt"))
    arguments = name("argparse", "Namespace") + b")\x81}" + text("path") + path + b"sb"
    queue = call("collections", "deque", b")", b"K\5") + b"(K\1K\2e"
    source = storage("FloatStorage", "0", 4, *([more] if more else []))
    moments = storage("FloatStorage", "1", 2, *([more] if more else []))
    return state(
        callbacks=b"}" + path + text("x") + b"s",
        hparams_type=name("omegaconf.dictconfig", "DictConfig"),
        hyper_parameters=config,
        args=arguments,
        queue=queue,
        optimizer_states=b"]}K\0" + tensor((2,), (1,), 0, moments) + b"sa",
        state_dict=_ORDERED + text("a") + tensor((4,), (1,), 0, source) + b"s",
    )


def _zips() -> Files:
    shared = (
        tensor() + b"q\0",
        call("torch._utils", "_rebuild_parameter", b"h\0", b"\x88", _ORDERED),
    )
    typed = call(
        "torch._utils",
        "_rebuild_tensor_v3",
        storage("UntypedStorage", "0", 8).replace(b"ctorch\n", b"ctorch.storage\n"),
        number(1),
        group(b"K\3"),
        call("torch", "Size", numbers([1])),
        b"\x89",
        _ORDERED,
        name("torch", "uint16"),
    )
    training = state(
        epoch=b"K\5",
        callbacks=b"}"
        + name("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
        + b"}s",
        number=call(
            "numpy.core.multiarray", "scalar", call("numpy", "dtype", text("f8")) + b"Nb", b"C\1a"
        ),
        lr=b"G" + bytes(8),
        state_dict=_ORDERED + text("a") + tensor() + b"s}" + text("_metadata") + _ORDERED + b"sb",
    )
    modern = b"\x80\4\x95" + struct.pack("<Q", 0) + b"}\x94(\x8c\1a\x94" + tensor() + b"u."
    pairs = call("collections", "OrderedDict", b"](" + group(text("a"), tensor()) + b"e")
    linear, sizes = _shapes(names.KNOWN["linear"], old=False)
    return {
        "flat.zip": _zip(state(a=tensor())),
        "wide.zip": _zip(state(a=tensor()), wide=True),
        "nested.zip": _zip(
            state(image_proj=b"}" + text("a") + tensor() + b"s", ip_adapter=_ORDERED)
        ),
        "transposed.zip": _zip(state(a=tensor((2, 2), (1, 2)))),
        "shared.zip": _zip(state(a=shared[0], b=shared[1])),
        "typed.zip": _zip(state(a=typed), {"0": 8}),
        "training.zip": _zip(training),
        "lightning.zip": _zip(_run(), {"0": 16, "1": 8}),
        "protocol-4.zip": _zip(modern),
        "pairs.zip": _zip(START + pairs + b"."),
        "adapter.zip": _zip(linear, sizes),
        "order.zip": pack(
            [
                ("x/data.pkl", state(a=tensor())),
                ("x/byteorder", b"little"),
                ("x/data/0", bytes(16)),
                ("x/.data/serialization_id", b"1" * 40),
            ]
        ),
    }


def _streams() -> Files:
    old = storage("FloatStorage", "0", 4, NONE)
    vision, sizes = _shapes(names.KNOWN["vision"], old=True)
    keys = START + b"](" + b"".join(map(text, sizes)) + b"e."
    tail = b"".join(struct.pack("<q", size // 2) + bytes(size) for size in sizes.values())
    ordered = state(a=tensor(source=old), b=_ORDERED)
    two = START + b"](" + text("0") + text("1") + b"e."
    both = struct.pack("<q", 4) + bytes(16) + struct.pack("<q", 2) + bytes(8)
    return {
        "flat.stream": stream(state(a=tensor(source=old))),
        "ordered.stream": stream(ordered),
        "vision.stream": stream(vision, keys, tail),
        "lightning.stream": stream(_run(NONE), two, both),
        "empty.stream": stream(START + b"}.", START + b"].", b""),
    }


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for file, data in {**handmade(), **regressions()}.items():
        (FOLDER / file).write_bytes(data)


if __name__ == "__main__":
    main()
