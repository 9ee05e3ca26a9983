"""The bytes of a component in memory, from its structure alone."""

from __future__ import annotations

from math import prod

from ipa.model.adapter import AdapterSpec
from ipa.model.quantization import Quantization
from ipa.model.sites import Site

from ..tables import ip_adapter
from ..tables.quantized_layers import is_quantized
from ..tables.table import Table
from .components import TABLES, Component, Spec

_WORD = 4  # bytes of packed weights


def component_bytes(
    component: Component, spec: Spec, itemsize: int, how: Quantization | None = None
) -> int:
    """The bytes of a component's weights.

    Args:
        component: Which part of a model.
        spec: Its structure.
        itemsize: The bytes of a number: 4 or 2.
        how: How its matrices are quantised, those that can be; None leaves all as they are.
    """
    return _bytes(TABLES[component](spec), itemsize, how)


def adapter_bytes(spec: AdapterSpec, sites: tuple[Site, ...], itemsize: int) -> int:
    """The bytes of an IP-Adapter's weights, which are never quantised, without its encoder."""
    return _bytes(ip_adapter.table(spec, sites), itemsize, None)


def _bytes(table: Table, itemsize: int, how: Quantization | None) -> int:
    total = 0
    for tensor in table.tensors:
        shape = tensor.target_shape
        if how is not None and is_quantized(table.target(tensor), shape, how):
            total += prod(how.packed(shape)) * _WORD + 2 * prod(how.groups(shape)) * itemsize
        else:
            total += prod(shape) * itemsize
    return total
