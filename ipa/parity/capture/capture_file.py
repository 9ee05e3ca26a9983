"""The file of a capture: safetensors, with its header and its sketches' moments in the metadata."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ipa.errors import CaptureError, CheckpointError
from ipa.files import put_whole
from ipa.model.files import require_safetensors

from .capture import FORMAT_VERSION, Capture, Header
from .checksums import checksum, checksum_of
from .floors import floors_of, told
from .sketch import WIDTH, Kept, Moments, Sketch, Whole

_FORMAT = "ipa-mlx capture"
_TAGS = {"float32": "F32", "float16": "F16"}
_ALIGNMENT = 8
_COMPACT = (",", ":")
_REMEDY = "capture again with `ipa-mlx parity capture`"
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("model", "backend", "dtype", "device"), str),
    **dict.fromkeys(("request", "environment", "fingerprints", "timings_s"), dict),
    "warnings": list,
    "format_version": int,
}


def check_target(path: str | os.PathLike[str]) -> Path:
    """Check a path for a capture. Raises CaptureError for another suffix or no folder."""
    where = Path(path)
    if where.suffix != ".safetensors" or where.is_dir():
        raise CaptureError(
            f"{where}: captures are kept as .safetensors",
            found="a folder" if where.is_dir() else f"suffix {where.suffix!r}",
            remedy="use a name that ends in .safetensors",
        )
    if not where.parent.is_dir():
        raise CaptureError(f"{where.parent} does not exist", remedy="create the folder first")
    return where


def write(path: str | os.PathLike[str], capture: Capture) -> None:
    """Write a capture under a temporary name, stage by stage, and rename it.

    Raises:
        CaptureError: The name does not end in .safetensors, or it cannot be written.
    """
    where = check_target(path)
    try:
        put_whole(where, lambda file: _write(file, capture))
    except OSError as error:
        raise CaptureError(f"{where} cannot be written", found=str(error)) from error


def _write(file: BinaryIO, capture: Capture) -> None:
    rows, sums = [], []
    arrays: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for name, values in capture.stages.items():
        array = values.projection if isinstance(values, Sketch) else values
        moments = _plain(values.moments) if isinstance(values, Sketch) else None
        rows.append([name, list(values.shape), moments])
        sums.append(checksum(_bytes(array)))
        arrays[name] = (_TAGS[array.dtype.name], array.shape, array.nbytes)
    metadata = {
        "format": _FORMAT,
        "format_version": str(capture.header.format_version),
        "header": json.dumps(asdict(capture.header), ensure_ascii=False),
        "stages": json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=_COMPACT),
        "floors": json.dumps(told(capture.floors, arrays), separators=_COMPACT),
        "sums": json.dumps(sums, separators=_COMPACT),
    }
    metadata["sum"] = checksum_of(metadata)
    order = sorted(arrays, key=lambda name: arrays[name][0], reverse=True)  # F32 first: aligned
    header: dict[str, Any] = {"__metadata__": metadata}
    start = 0
    for name in order:
        tag, shape, size = arrays[name]
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header, ensure_ascii=False, separators=_COMPACT).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        values = capture.stages[name]
        array = values.projection if isinstance(values, Sketch) else values
        file.write(_bytes(array))


def _bytes(array: Whole) -> memoryview:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data


def _plain(moments: Moments) -> list[float | None]:
    """A value that JSON can hold: it has no NaN."""
    return [value if math.isfinite(value) else None for value in astuple(moments)]


@dataclass(frozen=True, slots=True)
class _Row:
    """The metadata of a stage."""

    shape: tuple[int, ...]
    moments: Moments | None


@dataclass(frozen=True, slots=True, eq=False)
class StoredStages(Mapping[str, Kept]):
    """The stages of a file, read one by one when they are asked for, and not kept."""

    where: Path
    rows: Mapping[str, _Row]
    sums: Mapping[str, str]
    file: Any = field(repr=False)

    def __getitem__(self, name: str) -> Kept:
        from safetensors import SafetensorError

        row = self.rows[name]
        try:
            array = self.file.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _damaged(self.where, f"{name}: {error}") from error
        if self.sums and checksum(_bytes(array)) != self.sums[name]:
            raise _damaged(self.where, f"{name}: its numbers are not those that were written")
        if row.moments is None:
            return np.asarray(array)
        if math.isfinite(row.moments.norm) and not np.isfinite(array).all():
            raise _damaged(self.where, f"{name}: the sketch of finite numbers is not finite")
        return Sketch(row.shape, row.moments, array)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


def read(path: str | os.PathLike[str]) -> Capture:
    """Open a capture: its header is checked, no stage is read yet.

    Raises:
        CaptureError: The file is missing, damaged, no capture, or of a newer version.
    """
    from safetensors import SafetensorError, safe_open  # a program that converts goes without it

    where = Path(path)
    try:
        require_safetensors(where)
        file: Any = safe_open(where, framework="numpy")
        metadata = file.metadata() or {}
    except CheckpointError as error:
        raise CaptureError(error.what, found=error.found, remedy=_REMEDY) from error
    except (SafetensorError, OSError) as error:
        raise _damaged(where, str(error)) from error
    _check_format(where, metadata)
    try:
        _check_sum(where, metadata)
        header = _header(where, json.loads(metadata["header"]))
        rows = _rows(json.loads(metadata["stages"]))
        sums = json.loads(metadata.get("sums", "[]"))
        floors = floors_of(json.loads(metadata.get("floors", "{}")), rows)
        _check_stages(where, rows, file)
        stages = StoredStages(where, rows, dict(zip(rows, sums, strict=bool(sums))), file)
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(where, f"its metadata cannot be read: {error!r:.120}") from error
    return Capture(header, stages, floors, is_summed=bool(sums))


def _check_sum(where: Path, metadata: Mapping[str, str]) -> None:
    """Check the checksum; captures of the first versions have none."""
    if "sum" in metadata and metadata["sum"] != checksum_of(metadata):
        raise _damaged(where, "its metadata are not those that were written")


def _check_format(where: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != _FORMAT:
        raise CaptureError(
            f"{where} is no capture",
            found=f"format {metadata.get('format', 'of weights')!r:.60}",
            remedy=_REMEDY,
        )
    version = None
    with suppress(ValueError):
        version = int(metadata.get("format_version", ""))
    if version is None or version < 1:
        raise _damaged(where, f"format_version {metadata.get('format_version')!r:.40}")
    if version > FORMAT_VERSION:
        raise CaptureError(
            f"{where} was written by a newer version",
            found=f"format {version}; this version reads up to {FORMAT_VERSION}",
            remedy="update ipa-mlx, or capture again with this version",
        )


def _header(where: Path, given: Any) -> Header:
    for name, kind in _TYPES.items():
        if not isinstance(given[name], kind):
            raise _damaged(where, f"{name}: {given[name]!r:.60}")
    values: dict[str, Any] = {
        one.name: given[one.name] for one in fields(Header) if one.name in given
    }
    embedding = values.get("embedding")
    return Header(
        **values
        | {
            "warnings": tuple(map(str, values["warnings"])),
            "unfinished": str(values.get("unfinished", "")),
            "embedding": None if embedding is None else tuple(map(float, embedding)),
        }
    )


def _rows(given: Any) -> dict[str, _Row]:
    return {
        name: _Row(
            tuple(int(side) for side in shape),
            None if moments is None else Moments(*map(_number, moments)),
        )
        for name, shape, moments in given
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _check_stages(where: Path, rows: Mapping[str, _Row], file: Any) -> None:
    """Check that every tensor is a stage and has its shape, before one is read."""
    spare = rows.keys() ^ set(file.keys())
    if spare:
        raise _damaged(where, f"stages without a tensor, or tensors without a stage: {_few(spare)}")
    for name, row in rows.items():
        stored = file.get_slice(name)
        size = math.prod(row.shape)
        shape = row.shape if row.moments is None else (min(WIDTH, size),)
        good = tuple(stored.get_shape()) == shape and stored.get_dtype() in _TAGS.values()
        if not good or size < 1:
            raise _damaged(where, f"{name}: {stored.get_dtype()} {stored.get_shape()} for {shape}")


def _few(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names)[:3])


def _damaged(where: Path, found: str) -> CaptureError:
    return CaptureError(f"{where} is damaged", found=found, remedy=_REMEDY)
