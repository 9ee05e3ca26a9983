"""Hashes of weights as their network knows them: the same in every container, spelling and layout.

A tensor counts by its canonical name (diffusers'), its shape and its values, laid out as the
original checkpoint has them. Values are hashed exactly and rounded to each half precision, so that
what was made from a file by rounding can be told to be made from it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np

from ipa.model.quantization import Quantization

from ..containers.dtypes import Array
from ..containers.values import pieces, widen
from ..lora.pairs import Lora
from ..tables.converted import Converted, ConvertedTensor
from ..tables.quantized_layers import is_quantized

Fingerprint: TypeAlias = dict[str, str]

_MAX_THREADS = 8  # a tensor each: memory is what the largest few take
_PACKED = "U32"
_FEW_BITS = Quantization(4)  # which matrices are quantised is the same for every number of bits
REST = " but for quantised layers"
"""A precision's suffix for the fingerprint of what quantisation leaves as it is."""


def _half(values: Array) -> Array:
    with np.errstate(over="ignore"):  # infinity is as good a sign as any
        return values.astype("<f2")


def _brain(values: Array) -> Array:
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "float32": lambda values: values.astype("<f4", copy=False),
    "float16": _half,
    "bfloat16": _brain,
}


def fingerprint(converted: Converted) -> Fingerprint:
    """The fingerprints of a component or an adapter: sha256 by precision.

    "float32" is of the very values; "float16" of what they round to. Of weights that are quantised
    in their file there are only those that leave quantised layers out.

    Raises:
        CheckpointError: Values are not finite, or the file is damaged.
    """
    packed = {_path(name) for name, tensor in converted.items() if tensor.dtype == _PACKED}
    whole = [tensor for name, tensor in converted.items() if _path(name) not in packed]
    whole.sort(key=lambda tensor: tensor.tensor.name)
    digests = list(_digests(whole))
    left = [
        digest
        for tensor, digest in zip(whole, digests, strict=True)
        if not is_quantized(tensor.name, tensor.shape, _FEW_BITS)
    ]
    rest = {name + REST: hashed for name, hashed in _joined(left).items()}
    return rest if packed else _joined(digests) | rest


def agreement(a: Mapping[str, str], b: Mapping[str, str]) -> str | None:
    """The highest precision in which two components' fingerprints are equal; None if in none.

    That quantised layers may differ is granted only where one of the two has them.
    """
    is_whole = all("float32" in hashes for hashes in (a, b))
    names = [*_ROUNDINGS, *(() if is_whole else (name + REST for name in _ROUNDINGS))]
    return next((name for name in names if name in a and a[name] == b.get(name)), None)


def lora_fingerprint(lora: Lora) -> Fingerprint:
    """The fingerprint of a LoRA: its matrices, and the strength that alphas give each layer."""
    pairs = sorted(lora.values(), key=lambda pair: (pair.module.component, pair.module.path))
    tensors = [tensor for pair in pairs for tensor in (pair.down, pair.up)]
    places = [
        f"{pair.module.component}.{pair.module.path}.{half} {np.float32(pair.scale)!r}"
        for pair in pairs
        for half in ("down", "up")
    ]
    rows = zip(places, _digests(tensors), strict=True)
    return _joined([{k: f"{place} {d}" for k, d in digest.items()} for place, digest in rows])


def _path(name: str) -> str:
    """A layer's path; its own bias is not among what quantisation makes of its matrix."""
    head, _, last = name.rpartition(".")
    return head if last in {"weight", "scales", "biases"} else name


def _digests(tensors: list[ConvertedTensor]) -> Iterator[Fingerprint]:
    """The sha256 of each tensor, in order, by threads: numpy and hashlib release the lock."""
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        yield from threads.map(_digest, tensors)


def _digest(tensor: ConvertedTensor) -> Fingerprint:
    values = tensor.original()
    head = f"{tensor.tensor.name} {tensor.tensor.shape} ".encode()
    hashes = {name: hashlib.sha256(head) for name in _ROUNDINGS}
    for _, piece in pieces(values.reshape(-1)):
        wide = widen(piece, tensor.dtype)
        for name, rounded in _ROUNDINGS.items():
            hashes[name].update(rounded(wide).data)
    tensor.stored.release()
    return {name: digest.hexdigest() for name, digest in hashes.items()}


def _joined(digests: list[Fingerprint]) -> Fingerprint:
    return {
        name: hashlib.sha256("\n".join(digest[name] for digest in digests).encode()).hexdigest()
        for name in _ROUNDINGS
    }
