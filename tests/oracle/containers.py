"""safetensors files made by hand, also broken ones; independent of the converters."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "F64": 8, "F8_E4M3": 1, "U8": 1}


def entry(dtype: str, shape: Iterable[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def container(header: Any, body: bytes = b"", *, length: int | None = None) -> bytes:
    """Header (JSON-able, or its text) and data, with an honest or a false header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def write_sparse(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str | Mapping[str, str] = "F32"
) -> Path:
    """A file of zeros of any size that takes no room on disk; one type, or one for each name."""
    header, position = {}, 0
    for name, shape in shapes.items():
        tag = dtype if isinstance(dtype, str) else dtype[name]
        end = position + prod(shape) * SIZES[tag]
        header[name] = entry(tag, shape, position, end)
        position = end
    start = container(header)
    path.write_bytes(start)
    os.truncate(path, len(start) + position)
    return path


def save(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """One file, by the safetensors library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(
        {k: v.contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"}
    )
    return path


def save_shards(
    folder: Path, stem: str, tensors: Mapping[str, torch.Tensor], count: int, variant: str = ""
) -> Path:
    """The same in shards with their index; returns the index."""
    names = sorted(tensors)
    weight_map = {}
    for i in range(count):
        file = f"{stem}{'.' * bool(variant)}{variant}-{i + 1:05}-of-{count:05}.safetensors"
        save(folder / file, {name: tensors[name] for name in names[i::count]})
        weight_map |= dict.fromkeys(names[i::count], file)
    index = folder / f"{stem}.safetensors.index{'.' * bool(variant)}{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))
    return index


def bits(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as raw integers, so that equality means identity."""
    kind = {4: torch.int32, 2: torch.int16, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(kind).numpy()


def array_bits(array: np.ndarray) -> np.ndarray:
    """The same of an array; it must be contiguous already."""
    assert array.flags.c_contiguous
    return array.view({4: np.int32, 2: np.int16, 8: np.int64}[array.itemsize])
