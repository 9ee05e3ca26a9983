"""Filling modules with converted weights: strictly, and one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ipa.errors import CheckpointError, RequestError
from ipa.model.quantization import Quantization
from ipa_convert import Converted, ConvertedTensor, is_quantized

_CHUNK_BYTES = 256 << 20  # evaluated together, so that sources are freed on the way

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

# Freed buffers that MLX may keep on a CPU. Its default of 32 MB is less than one score matrix: each
# operation would then wait for the system to clear new pages (measured: 11 times slower sums).
_CPU_CACHE = 1 << 30


def keep_freed() -> None:
    """Let MLX keep freed buffers on a CPU."""
    if mx.default_device() == mx.cpu:
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
    them: as if they had been converted to this precision and quantised in a file.
    """
    waiting: list[tuple[str, mx.array]] = []
    size, stored = 0, converted.quantization
    for name, tensor in converted.items():
        array = _array(tensor, dtype)
        if quantize is not None and stored is None and is_quantized(name, tensor.shape, quantize):
            yield from _quantized(name, array, quantize, tensor.stored.where)
            continue
        waiting.append((name, array))
        size += array.nbytes
        if size > _CHUNK_BYTES:
            mx.eval([a for _, a in waiting])
            yield from waiting
            waiting, size = [], 0
    mx.eval([a for _, a in waiting])
    yield from waiting


def _array(tensor: ConvertedTensor, dtype: mx.Dtype) -> mx.array:
    array = mx.array(tensor.array())  # a copy
    tensor.stored.release()
    if tensor.dtype == "BF16":
        array = array.view(mx.bfloat16)
    return array if array.dtype == mx.uint32 else array.astype(dtype)


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
