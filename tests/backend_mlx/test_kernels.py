"""Kernels counted in a graph: fusion as MLX's own, layouts as numpy's, and MLX's borders."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from ipa import bases
from ipa.model.unet import UNetSpec
from ipa_mlx.device import Device
from ipa_mlx.graph.counts import Counts, counts
from ipa_mlx.graph.dispatch import (
    AttentionShape,
    ConvolutionShape,
    attention_kernel,
    convolution_kernel,
)
from ipa_mlx.graph.kernels import by_kind, launches
from ipa_mlx.graph.layouts import are_rows, is_dense, reshaped
from ipa_mlx.graph.steps import StepShape, step_graph
from ipa_mlx.graph.tracing import like, trace
from ipa_mlx.networks.layers import FeedForward, silu
from ipa_mlx.networks.norms import GroupNorm
from ipa_mlx.networks.unet import UNet

# MLX's names of operations with variants, which the export tells by an argument.
_VARIANTS = re.compile(r"Rsqrt|Sum|Max(?!imum)|Log2|Log10")
_GENERAL = {"Rsqrt": "Sqrt", "Sum": "Reduce", "Max": "Reduce", "Log2": "Log", "Log10": "Log"}


def compiled_by_mlx(function: Callable[..., Any], *arrays: mx.array) -> Counter[str]:
    """The names of what `mx.compile` makes of a function; nothing is computed."""
    text = io.StringIO()
    outputs = [array for _, array in tree_flatten(mx.compile(function)(*arrays))]
    mx.export_to_dot(text, *outputs)
    names = re.findall(r'label ="(\w+)"', text.getvalue())
    return Counter(_VARIANTS.sub(lambda found: _GENERAL[found[0]], name) for name in names)


def compiled_by_us(function: Callable[..., Any], *arrays: mx.array) -> Counter[str]:
    graph = trace(function, *arrays, on=Device.CPU, compiled=True)
    return Counter(
        "Compiled" + "".join(node.arguments) if node.name == "Compiled" else node.name
        for node in graph.nodes
    )


def _norm(x: mx.array) -> mx.array:
    norm = GroupNorm(4, 16, 1e-5)
    norm.weight, norm.bias = mx.array([0.5] * 16), mx.array([0.1] * 16)
    return silu(norm(x.reshape(2, 3, 3, 16)))


def _deep(x: mx.array) -> mx.array:
    for i in range(30):
        x = mx.abs(x * 2 + i)
    return x


def _wide(x: mx.array) -> mx.array:
    """More arrays than one kernel takes."""
    total = x
    for i in range(40):
        total = total + x.sum(axis=0) * i
    return total


def _shared(x: mx.array) -> list[mx.array]:
    """Results that are needed inside and outside, and a broadcast that two chains need."""
    row = mx.broadcast_to(x.sum(axis=0), x.shape)
    y = mx.exp(x + row)
    return [y, (y * row).sum(axis=1), y.astype(mx.float16) + 1, mx.softmax(y @ x.T - row[:, :1])]


FUNCTIONS = {
    "activations": lambda x: nn.gelu(x) * nn.silu(x + 1) + x.sum(-1, keepdims=True),
    "group norm": _norm,
    "deep": _deep,
    "wide": _wide,
    "shared": _shared,
    "attention": lambda x: mx.softmax((x @ x.T) * 0.5 + 1, axis=-1) @ (x * 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fusion_is_mlx_s(name: str) -> None:
    x = mx.array(np.ones((18, 16), np.float32))
    assert compiled_by_us(FUNCTIONS[name], x) == compiled_by_mlx(FUNCTIONS[name], x)


def test_fusion_of_a_module_is_mlx_s() -> None:
    block, norm = FeedForward(8), nn.LayerNorm(8)
    x = mx.array(np.ones((2, 5, 8), np.float32))
    mx.eval(block.parameters(), norm.parameters())

    def function(x: mx.array) -> mx.array:
        return x + block(norm(x)).astype(mx.float16)

    assert compiled_by_us(function, x) == compiled_by_mlx(function, x)


def _as_numpy(shape: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.int8).transpose(axes)


@given(st.data())
def test_a_reshape_is_a_view_where_it_is_numpy_s(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4)))
    array = _as_numpy(shape, tuple(data.draw(st.permutations(range(len(shape))))))
    factors = [f for size in array.shape for f in {4: (2, 2)}.get(size, (size,))]
    cuts = data.draw(st.lists(st.booleans(), min_size=len(factors), max_size=len(factors)))
    made: list[int] = []
    for factor, is_new in zip(factors, cuts, strict=True):
        if is_new or not made:
            made.append(factor)
        else:
            made[-1] *= factor
    view = array.reshape(made)
    is_view = np.shares_memory(view, array)
    found = reshaped(array.shape, array.strides, made)
    assert (found is not None) == is_view
    if found is not None:
        assert all(a == b for a, b, n in zip(found, view.strides, made, strict=True) if n > 1)


def test_rows_and_dense_arrays() -> None:
    assert are_rows((2, 1, 3), (3, 99, 1)) and not are_rows((2, 3), (1, 2))
    assert is_dense((2, 3), (1, 2)) and not is_dense((2, 3), (6, 1))


_BIG = ConvolutionShape(2, 64, 64, 320, 320)
CONVOLUTIONS = {
    "SD1.5 at 64²": (_BIG, "Winograd"),
    "exactly 4096 pixels": (replace(_BIG, batch=1), "Winograd"),
    "one row of pixels less": (replace(_BIG, batch=1, height=63), "implicit GEMM"),
    "SD1.5 at 32², guided": (replace(_BIG, height=32, width=32, inputs=640), "implicit GEMM"),
    "two strides": (replace(_BIG, stride=(2, 2)), "implicit GEMM"),
    "5 × 5": (replace(_BIG, kernel=(5, 5)), "implicit GEMM"),
    "256 channels together": (replace(_BIG, inputs=128, outputs=128), "Winograd"),
    "224 channels together": (replace(_BIG, inputs=128, outputs=96), "implicit GEMM"),
    "multiples of 16, not of 32": (replace(_BIG, inputs=336), "implicit GEMM"),
    "conv_in": (replace(_BIG, inputs=4), "implicit GEMM"),
    "conv_out": (replace(_BIG, outputs=4), "implicit GEMM"),
    "5 channels in": (replace(_BIG, inputs=5), "implicit GEMM, padded channels"),
    "conv_in of inpainting": (replace(_BIG, inputs=9), "implicit GEMM, padded channels"),
    "17 channels out": (replace(_BIG, outputs=17), "implicit GEMM, padded channels"),
    "256 odd pixels": (ConvolutionShape(1, 16, 16, 9, 9), "implicit GEMM, padded channels"),
    "255 odd pixels": (ConvolutionShape(1, 15, 17, 9, 9), "unfold and matmul"),
    "1 × 1": (replace(_BIG, kernel=(1, 1)), "1x1 as matmul"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_kernels_of_convolutions(name: str) -> None:
    shape, expected = CONVOLUTIONS[name]
    assert convolution_kernel(shape).name == expected


_LONG = AttentionShape(4096, 4096, 64, 64)
ATTENTIONS = {
    "SDXL": (_LONG, "fused"),
    "SD1.5 at 32²": (replace(_LONG, width=80, value_width=80), "fused"),
    "SD1.5 at 64²": (replace(_LONG, width=40, value_width=40), "unfused"),
    "SD1.5 at 16²": (AttentionShape(256, 256, 160, 160), "unfused"),
    "128": (replace(_LONG, width=128, value_width=128), "fused"),
    "192, which MLX leaves unfused": (replace(_LONG, width=192, value_width=192), "unfused"),
    "the VAE's": (replace(_LONG, width=512, value_width=512), "unfused"),
    "values of another width": (replace(_LONG, value_width=128), "unfused"),
    "9 queries": (replace(_LONG, queries=9), "fused"),
    "8 queries": (replace(_LONG, queries=8), "fused, few queries"),
    "8 queries of 80": (AttentionShape(8, 77, 80, 80), "unfused"),
    "8 queries, 7 keys": (AttentionShape(8, 7, 64, 64), "unfused"),
    "a causal text": (AttentionShape(77, 77, 64, 64, is_causal=True), "fused"),
    "causal, fewer keys": (AttentionShape(77, 76, 64, 64, is_causal=True), "unfused"),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_kernels_of_attentions(name: str) -> None:
    shape, expected = ATTENTIONS[name]
    assert attention_kernel(shape).name == expected


def counted(function: Callable[..., Any], *arrays: mx.array) -> dict[str, int]:
    return dict(by_kind(launches(trace(function, *arrays, on=Device.METAL))))


def test_views_are_no_kernels() -> None:
    x = like((2, 6, 8), mx.float16)

    def views(x: mx.array) -> mx.array:
        first, _ = mx.split(x, 2, axis=-1)
        rows = mx.broadcast_to(first[:, None, 1:3], (2, 3, 2, 4)).transpose(0, 2, 1, 3)
        return rows.squeeze()

    assert counted(views, x) == {}
    assert counted(lambda x: x.reshape(12, 8).reshape(2, 6, 4, 2), x) == {}
    assert counted(lambda x: x.transpose(0, 2, 1).reshape(2, -1), x) == {"copy": 1}


def test_kernels_of_an_attention_s_heads() -> None:
    """A fused kernel leaves its heads side by side, so merging them is free; else it is a copy."""

    def attend(x: mx.array, width: int) -> mx.array:
        q = x.reshape(1, 16, -1, width).transpose(0, 2, 1, 3)
        out = mx.fast.scaled_dot_product_attention(q, q, q, scale=1.0)
        return out.transpose(0, 2, 1, 3).reshape(x.shape)

    x = like((1, 16, 320), mx.float16)
    assert counted(lambda x: attend(x, 64), x) == {"attention": 1}
    assert counted(lambda x: attend(x, 40), x) == {"attention": 4, "copy": 1}


def test_kernels_that_are_several() -> None:
    x = like((1, 64, 64, 320), mx.float16)
    weight = like((320, 3, 3, 320), mx.float16)
    assert counted(lambda x, w: mx.conv2d(x, w, padding=1), x, weight) == {"convolution": 6}
    assert counted(lambda x: mx.concatenate([x, x + 1], -1), x) == {
        "elementwise": 1,
        "concatenation": 2,
    }
    assert counted(lambda x: mx.pad(x, 1), x) == {"zeros around": 2}
    assert counted(lambda x: mx.softmax(x.sum(1).astype(mx.float32), -1), x) == {
        "sum": 1,
        "cast": 1,
        "softmax": 1,
    }
    assert counted(lambda x, w: x[0, 0] @ w[:, 0, 0].T, x, weight) == {"matmul": 1}
    assert counted(lambda x: x[0, 0, :, ::2] @ x[0, 0, :, ::2].T, x) == {"matmul": 1, "copy": 2}


# Launches of a guided step before norms were grouped, by this table: SD1.5 at 64², SDXL at 128²;
# and those of the MLX examples' UNet (`python -m benchmarks.graph --peer FOLDER`).
@pytest.mark.parametrize(
    ("base", "side", "before", "examples"), [("sd15", 64, 2115, 1127), ("sdxl", 128, 2621, 2094)]
)
def test_kernels_of_a_step(base: bases.Base, side: int, before: int, examples: int) -> None:
    config = json.loads((bases.folder(base) / "unet" / "config.json").read_text("utf-8"))
    spec = UNetSpec.from_config(config)

    def counted_step(*prompts: int, compiled: bool = True) -> Counts:
        return counts(step_graph(spec, StepShape(side, side, prompts=prompts), compiled=compiled))

    alone, plain = counted_step(), counted_step(compiled=False)
    assert alone.launches < plain.launches < 0.8 * examples  # measured 0.74 and 0.77
    assert alone.launches < 0.62 * before  # measured 0.39 and 0.61
    sites = len(UNet(spec).cross_attentions)
    with_one, with_four = counted_step(4), counted_step(*(16,) * 4)
    # One attention a prompt at every site, and at most one sum for all of them.
    assert with_one.operations - alone.operations <= 2 * sites
    assert with_four.operations - with_one.operations == 3 * sites
    assert set(alone.classes) <= {
        "attention: fused",
        "attention: unfused",  # SD1.5's coarse heads of 160
        "convolution: Winograd",
        "convolution: implicit GEMM",
    }
    assert sum(alone.shares.values()) == pytest.approx(1.0)
