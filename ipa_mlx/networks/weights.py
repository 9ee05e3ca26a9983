"""Filling modules with converted weights: strictly, and one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeAlias

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ipa.errors import CheckpointError, RequestError
from ipa.model.quantization import Quantization
from ipa.watching import watch
from ipa_convert import Converted, ConvertedTensor, Layout, is_quantized

from ..device import device

_GROUP = 16 << 20  # numbers that are read together, at most about
_PARTS = 32  # of a component, at least, so that what is read ahead is little beside it
_THREADS = 4  # that look for what is no number, while one waits for memory

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}
"""The bytes of a number in a file, by its tag."""

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

# Freed buffers that MLX may keep on a CPU. Its default of 32 MB is less than one score matrix: each
# operation would then wait for the system to clear new pages (measured: 11 times slower sums).
_CPU_CACHE = 1 << 30


def keep_freed() -> None:
    """Let MLX keep freed buffers on a CPU."""
    if not device().is_gpu:
        mx.set_cache_limit(_CPU_CACHE)


def place(
    module: nn.Module,
    converted: Converted,
    dtype: mx.Dtype,
    where: str,
    quantize: Quantization | None = None,
) -> None:
    """Fill a module with a converted component.

    Args:
        module: Of the component's spec, not quantised yet.
        converted: Its weights, quantised or not.
        dtype: The precision to compute in.
        where: The component, for messages.
        quantize: How to quantise its matrices (`ipa_convert.tables.quantized_layers`); a component
            that is quantised in its file is taken as it is.

    Raises:
        CheckpointError: See `fill`; or weights cannot be quantised.
        RequestError: The file is quantised in another way.
    """
    how = chosen_quantization(converted, quantize, where)
    fill(module, arrays(converted, dtype, quantize), where, how)


def chosen_quantization(
    converted: Converted, quantize: Quantization | None, where: str
) -> Quantization | None:
    """How a component will be quantised: as its file is, or as is asked.

    Raises:
        RequestError: The file is quantised in another way.
    """
    stored = converted.quantization
    if stored and quantize and stored != quantize:
        raise RequestError(
            f"{where} is quantised already",
            found=f"{stored.bits} bits, asked for {quantize.bits}",
            remedy="leave quantize out, or take the original model",
        )
    return stored or quantize


def arrays(
    converted: Converted, dtype: mx.Dtype, quantize: Quantization | None = None
) -> Iterator[tuple[str, mx.array]]:
    """All tensors of a converted component as MLX arrays of one precision, evaluated.

    Packed weights stay whole numbers. With `quantize`, matrices come as `nn.QuantizedLinear` has
    them: as if they had been converted to this precision and quantised in a file. They are read a
    group at a time, and nothing of a group's files stays in memory beside them. Whoever watches is
    told of every tensor's bytes, and may stop it.
    """
    how, watching = None if converted.quantization else quantize, watch()
    with ThreadPoolExecutor(_THREADS) as pool:
        for group, stored in _ahead(converted):
            found = zip(group.items(), _finished(group, stored, dtype, pool), strict=True)
            for (name, tensor), array in found:
                made = [(name, array)]
                if is_quantized(name, tensor.shape, how):
                    made = _quantized(name, array, how, tensor.stored.where)
                yield from made
                watching.advance("load", sum(part.nbytes for _, part in made))


Group: TypeAlias = dict[str, ConvertedTensor]


def _ahead(tensors: Mapping[str, ConvertedTensor]) -> Iterator[tuple[Group, list[mx.array]]]:
    """Groups of tensors as their files have them; each is read while the last is worked on."""
    files: dict[Path, dict[str, mx.array]] = {}
    last: tuple[Group, list[mx.array]] | None = None
    for group in _groups(tensors):
        stored = [_stored(tensor, files) for tensor in group.values()]
        mx.async_eval(stored)
        if last is not None:
            yield last
        last = group, stored
    if last is not None:
        yield last


def reading_bytes(
    converted: Converted, dtype: mx.Dtype, quantize: Quantization | None = None
) -> int:
    """The most that `arrays` takes at any moment beside what it gives in the end.

    That is what a group copies, and what is read ahead, less what is yet to come.
    """
    how = None if converted.quantization else quantize
    sizes = [_sizes(group, dtype, how) for group in _groups(converted)]
    to_come, most = sum(size.made for size in sizes), 0
    for size, ahead in zip(sizes, (*sizes[1:], _Sizes()), strict=True):
        to_come -= size.made
        most = max(most, size.copied + ahead.stored - to_come)
    return most


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of a group as its file has it, of what of it is copied, and of what is made of it."""

    stored: int = 0
    copied: int = 0
    made: int = 0


def _sizes(group: Group, dtype: mx.Dtype, how: Quantization | None) -> _Sizes:
    stored = copied = made = 0
    for name, tensor in group.items():
        count, item = prod(tensor.shape), ITEM_BYTES[tensor.dtype]
        stored += count * item
        if tensor.dtype == "U32":
            made += count * item
        elif how is not None and is_quantized(name, tensor.shape, how):
            copied += count * (item + dtype.size)
            made += how.nbytes(tensor.shape, dtype.size)
        else:
            is_kept = tensor.layout is not Layout.CONVOLUTION and item == dtype.size
            copied += 0 if is_kept else count * item
            made += count * dtype.size
    return _Sizes(stored, copied, made)


def _groups(tensors: Mapping[str, ConvertedTensor]) -> Iterator[Group]:
    group: Group = {}
    size, most = 0, min(_GROUP, sum(prod(t.shape) for t in tensors.values()) // _PARTS)
    for name, tensor in tensors.items():
        group[name] = tensor
        size += prod(tensor.shape)
        if size >= most:
            yield group
            group, size = {}, 0
    if group:
        yield group


def _finished(
    group: Group, stored: list[mx.array], dtype: mx.Dtype, pool: ThreadPoolExecutor
) -> list[mx.array]:
    """A group of tensors, checked, in MLX's layout and this precision."""
    mx.eval(stored)
    list(pool.map(_check, group.values(), stored))
    found = [_placed(*pair, dtype) for pair in zip(group.values(), stored, strict=True)]
    mx.eval(found)
    stored.clear()  # or it would stay while the group after the next is read
    return found


def _stored(tensor: ConvertedTensor, files: dict[Path, dict[str, mx.array]]) -> mx.array:
    """A tensor as its file has it: read by MLX straight into its memory, or through our map."""
    path = tensor.stored.plain_file()
    if path is not None:
        if path not in files:
            files[path] = mx.load(str(path), format="safetensors", stream=mx.cpu)
        found = files[path].pop(tensor.stored.name, None)
        if found is not None and found.shape == tensor.stored.shape:
            return found
    array = mx.array(tensor.stored.array())  # a copy
    tensor.stored.release()
    return array.view(mx.bfloat16) if tensor.dtype == "BF16" else array


def _check(tensor: ConvertedTensor, stored: mx.array) -> None:
    """Raise CheckpointError for what is no number; MLX's memory is looked at where it lies."""
    if stored.dtype == mx.bfloat16:
        stored = stored.view(mx.uint16)
    tensor.check(np.array(stored, copy=False))


def _placed(tensor: ConvertedTensor, stored: mx.array, dtype: mx.Dtype) -> mx.array:
    array = tensor.layout.to_target(stored).reshape(tensor.shape)
    if array.dtype == mx.uint32:
        return mx.contiguous(array)
    return mx.contiguous(array.astype(dtype))


def _quantized(
    name: str, array: mx.array, how: Quantization, where: str
) -> list[tuple[str, mx.array]]:
    # On the CPU always: the converters write its bits, and a GPU may round otherwise.
    parts = mx.quantize(array, how.group_size, how.bits, stream=mx.cpu)
    mx.eval(*parts)
    if not mx.isfinite(parts[1]).all():
        raise CheckpointError(
            f"{where}: {name} cannot be quantised", found="a range that its precision cannot hold"
        )
    names = (name, *(f"{name.removesuffix('.weight')}.{part}" for part in ("scales", "biases")))
    return list(zip(names, parts, strict=True))


def fill(
    module: nn.Module,
    weights: Iterable[tuple[str, mx.array]],
    where: str,
    how: Quantization | None = None,
) -> None:
    """Set every parameter of a module exactly once.

    Linear layers for which there are scales become quantised ones first, which costs nothing: MLX
    is lazy, and their random weights are never computed.

    Raises:
        CheckpointError: Names or shapes are not exactly the module's. The converters check this
            before; here it guards against a table and a module that drifted apart.
    """
    given = dict(weights)
    if how is not None:
        nn.quantize(
            module,
            how.group_size,
            how.bits,
            class_predicate=lambda path, layer: (
                isinstance(layer, nn.Linear) and f"{path}.scales" in given
            ),
        )
    expected = {name: array.shape for name, array in tree_flatten(module.parameters())}
    wrong = sorted(
        name
        for name in expected.keys() | given.keys()
        if name not in given or expected.get(name) != given[name].shape
    )
    if wrong:
        raise CheckpointError(
            f"{where}: {len(wrong)} tensors do not fit the module", found=", ".join(wrong[:5])
        )
    module.update(tree_unflatten(list(given.items())))
