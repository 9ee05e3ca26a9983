"""The header of a safetensors file: parsed strictly, because weights are untrusted input.

Layout (huggingface/safetensors, README "Format"): u64 little-endian length n, n bytes of JSON, then
the data buffer. Other readers accept overlaps, holes, negative dimensions or duplicate names; here
every byte of the buffer belongs to exactly one tensor, or the file is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn, TypeGuard

from ipa.errors import CheckpointError

from .dtypes import MAX_ELEMENTS, NUMPY

MAX_HEADER_BYTES = 100_000_000
"""The longest header that the safetensors format allows."""

_MAX_TENSORS = 100_000
_MAX_DIMENSIONS = 8
_MAX_SIDE = 2**31 - 1  # of one dimension: MLX counts in 32 bits
_MAX_NAME = 256
_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"
_ALIGNMENT = 8
_ALLOWANCE = 32 << 20  # bytes of memory, beside as many as the file has
_PART = 128  # bytes that a bracket, a colon or a comma of JSON may take: 12 of them make a tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One tensor as the header describes it; `begin` and `end` count from the data buffer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A validated header: its entries tile the buffer exactly."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def parse_header(text: bytes, buffer_bytes: int, where: str) -> Header:
    """Validate the JSON part of a file.

    Args:
        text: The JSON bytes.
        buffer_bytes: Bytes of the file after the header.
        where: The file, for messages.

    Raises:
        CheckpointError: Anything about it is not as the format demands.
    """
    if text.count(b'"data_offsets"') > _MAX_TENSORS:
        refuse(where, f"more than {_MAX_TENSORS} tensors in the header")
    _check_cost(text, buffer_bytes, where)
    raw = _parse_json(text, where)
    metadata = _metadata(raw.pop(_METADATA, {}), where)
    entries = {name: _entry(name, value, where) for name, value in raw.items()}
    _check_tiling(entries.values(), buffer_bytes, where)
    return Header(entries=entries, metadata=metadata)


def encode_header(entries: Iterable[Entry], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data buffer: length, and JSON padded so that the buffer is aligned."""
    fields: dict[str, Any] = {_METADATA: dict(metadata)}
    for entry in entries:
        fields[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def refuse(where: str, found: str) -> NoReturn:
    """Raise the error of a file that breaks the format."""
    raise CheckpointError(
        f"{where} is damaged or not a proper safetensors file",
        found=found,
        remedy="download it again, from a source that you trust",
    )


def _check_cost(text: bytes, buffer_bytes: int, where: str) -> None:
    """Refuse JSON that is costly to parse: three bytes of it can make a list of seventy."""
    parts = sum(map(text.count, (b"[", b"{", b":", b",")))
    wide = 0 if text.isascii() else 4 * len(text)  # one emoji, and every character takes four
    if _PART * parts + wide > _ALLOWANCE + len(text) + buffer_bytes:
        refuse(where, f"a header of {len(text)} bytes that takes too much memory: {parts} parts")


def _parse_json(text: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            repeated, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            refuse(where, f"the name {repeated[:80]!r} twice in the header")
        return fields

    def no_number(literal: str) -> NoReturn:
        refuse(where, f"{literal[:40]} in the header, where only integers may be")

    try:
        raw = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_float=no_number,
            parse_constant=no_number,
        )
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are ValueErrors
        refuse(where, f"a header that is not valid JSON ({error})")
    if not isinstance(raw, dict):
        refuse(where, f"a header that is a JSON {type(raw).__name__}, not an object")
    return raw


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        refuse(where, f"{_METADATA} that does not map names to strings")
    return value


def _entry(name: str, value: Any, where: str) -> Entry:
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        refuse(where, f"a tensor with the name {name[:40]!r}")
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        refuse(where, f"an entry for {name} that does not have exactly {sorted(_FIELDS)}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in NUMPY:
        refuse(where, f"{name} of the unknown type {dtype!r:.60}")
    if (
        not _naturals(shape)
        or len(shape) > _MAX_DIMENSIONS
        or max(shape, default=0) > _MAX_SIDE
        or (0 in shape and prod(side or 1 for side in shape) > MAX_ELEMENTS)
    ):
        refuse(where, f"{name} with the shape {str(shape)[:80]}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse(where, f"{name} with the byte range {str(offsets)[:80]}")
    begin, end = offsets
    needed = prod(shape) * NUMPY[dtype].itemsize
    if end - begin != needed:
        length = str(end - begin)[:40]
        refuse(where, f"{length} bytes for {name}, but {dtype} {shape} takes {needed}")
    return Entry(name=name, dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _naturals(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _check_tiling(entries: Iterable[Entry], buffer_bytes: int, where: str) -> None:
    position = 0
    for entry in sorted(entries, key=lambda e: (e.begin, e.end)):
        if entry.begin != position:
            kind = "overlap" if entry.begin < position else "leave a hole"
            refuse(where, f"byte ranges that {kind} before {entry.name}")
        position = entry.end
    if position > buffer_bytes:
        raise CheckpointError(
            f"{where} is truncated",
            found=f"{buffer_bytes} bytes of weights, its header needs {position}",
            remedy="the download did not finish: download it again",
        )
    if position < buffer_bytes:
        refuse(where, f"{buffer_bytes - position} bytes after the last tensor")
