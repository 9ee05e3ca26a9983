"""Pickles and torch files made by hand, also hostile ones; independent of the converters."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable, Mapping

START = b"\x80\x02"
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
SYSTEM = b"\x80\x02}(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian%bu."
FALSE, TRUE, NONE = b"\x89", b"\x88", b"N"
ZEROS = bytes(16)


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    return b"c%s\n%s\n" % (module.encode(), attribute.encode())


def group(*items: bytes) -> bytes:
    """A tuple."""
    return b"(" + b"".join(items) + b"t"


def numbers(values: Iterable[int]) -> bytes:
    return group(*map(number, values))


def call(module: str, attribute: str, *items: bytes) -> bytes:
    return name(module, attribute) + group(*items) + b"R"


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4, *more: bytes) -> bytes:
    identity = text("storage"), name("torch", kind), text(key), text("cpu"), number(count)
    return group(*identity, *more) + b"Q"


def tensor(
    shape: Iterable[int] = (4,),
    strides: Iterable[int] = (1,),
    offset: int = 0,
    source: bytes | None = None,
    hooks: bytes = b"}",
) -> bytes:
    source = storage() if source is None else source
    rows = source, number(offset), numbers(shape), numbers(strides), FALSE, hooks
    return call("torch._utils", "_rebuild_tensor_v2", *rows)


def state(**entries: bytes) -> bytes:
    """The whole pickle of a dict."""
    items = b"".join(text(key) + value for key, value in entries.items())
    return START + b"}(" + items + b"u."


def archive(
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    more: Iterable[tuple[str, bytes]] = (),
    root: str = "archive",
    method: int = zipfile.ZIP_STORED,
) -> bytes:
    """torch's zip around a pickle, by Python's zipfile."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as target:
        target.writestr(f"{root}/data.pkl", pickle)
        target.writestr(f"{root}/version", b"3\n")
        for key, raw in ({"0": ZEROS} if storages is None else storages).items():
            target.writestr(f"{root}/data/{key}", raw)
        for path, raw in more:
            target.writestr(path, raw)
    return file.getvalue()


def stream(
    pickle: bytes,
    keys: bytes = START + b"](" + text("0") + b"e.",
    tail: bytes = struct.pack("<q", 4) + ZEROS,
    little: bytes = TRUE,
) -> bytes:
    """torch's older format around a pickle."""
    return MAGIC + SYSTEM.replace(b"%b", little) + pickle + keys + tail
