"""Filling modules with converted weights: strictly, and one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ipa.contract.errors import CheckpointError
from ipa_convert import Converted

_CHUNK_BYTES = 256 << 20  # evaluated together, so that sources are freed on the way


def arrays(converted: Converted, dtype: mx.Dtype) -> Iterator[tuple[str, mx.array]]:
    """All tensors of a converted component as MLX arrays of one precision, evaluated."""
    waiting: list[tuple[str, mx.array]] = []
    for name, tensor in converted.items():
        array = mx.array(tensor.array())  # a copy
        tensor.stored.release()
        if tensor.dtype == "BF16":
            array = array.view(mx.bfloat16)
        waiting.append((name, array.astype(dtype)))
        if sum(a.nbytes for _, a in waiting) > _CHUNK_BYTES:
            mx.eval([a for _, a in waiting])
            yield from waiting
            waiting = []
    mx.eval([a for _, a in waiting])
    yield from waiting


def fill(module: nn.Module, weights: Iterable[tuple[str, mx.array]], where: str) -> None:
    """Set every parameter of a module exactly once.

    Raises:
        CheckpointError: Names or shapes are not exactly the module's. The converters check this
            before; here it guards against a table and a module that drifted apart.
    """
    expected = {name: array.shape for name, array in tree_flatten(module.parameters())}
    given = dict(weights)
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
