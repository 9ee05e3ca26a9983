"""Group norms, each form against torch in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

from ipa_mlx.device import Device, writing_for
from ipa_mlx.graph.kernels import by_kind, launches
from ipa_mlx.graph.tracing import hollow, like, trace
from ipa_mlx.networks import norms
from ipa_mlx.networks.norms import GroupNorm
from oracle.measure import relative

Array = np.ndarray[Any, Any]


def by_a_gpu(x: mx.array, weight: None, bias: None, eps: float) -> mx.array:
    """`mx.fast.layer_norm` in the order in which Metal's kernel adds: 1024 threads, then a tree."""
    assert weight is None and bias is None
    rows = np.array(x.astype(mx.float32)).reshape(-1, x.shape[-1])

    def total(values: Array) -> Array:
        filled = np.pad(values, [(0, 0), (0, -values.shape[1] % 8192)])
        threads = filled.reshape(len(values), -1, 1024, 8).transpose(1, 3, 0, 2)
        sums = threads.reshape(-1, *threads.shape[2:]).sum(axis=0, dtype=np.float32)  # one by one
        while sums.shape[1] > 1:
            sums = sums[:, ::2] + sums[:, 1::2]
        return sums

    size = np.float32(rows.shape[1])
    centred = rows - total(rows) / size
    factor = 1 / np.sqrt(total(np.square(centred)) / size + np.float32(eps))
    return mx.array((centred * factor).astype(np.float32).reshape(x.shape)).astype(x.dtype)


@contextmanager
def form(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A form of the norm, run here; what a GPU compiles is not, for that would take a compiler."""
    if name == "cpu":
        yield
        return
    if name == "sums":
        monkeypatch.setattr(norms, "_MOST_IN_BLOCK", 0)
    if name == "block, as a GPU adds":
        monkeypatch.setattr(mx.fast, "layer_norm", by_a_gpu)
    mx.disable_compile()
    try:
        with writing_for(Device.METAL):
            yield
    finally:
        mx.enable_compile()


def layer(draw: np.random.Generator, groups: int, channels: int, eps: float) -> GroupNorm:
    norm = GroupNorm(groups, channels, eps)
    norm.weight = mx.array(draw.standard_normal(channels, dtype=np.float32))
    norm.bias = mx.array(draw.standard_normal(channels, dtype=np.float32))
    return norm


def in_float64(norm: GroupNorm, x: mx.array) -> torch.Tensor:
    weight, bias = (
        torch.from_numpy(np.array(a.astype(mx.float32))).double() for a in (norm.weight, norm.bias)
    )
    wide = torch.from_numpy(np.array(x.astype(mx.float32))).double().permute(0, 3, 1, 2)
    normed = torch.nn.functional.group_norm(wide, norm.groups, weight, bias, norm.eps)
    return normed.permute(0, 2, 3, 1)


# In float32 measured around 0 and 30, in float16 there is no difference: what is between and the
# result are rounded. The CPU's layer norm adds 73 728 numbers one by one, which no GPU does.
LIMITS = {
    ("cpu", mx.float32): 4e-6,  # 8e-8 and 2.6e-6, the rounding of the mean itself
    ("sums", mx.float32): 4e-6,  # 7e-8 and 2.6e-6
    ("block", mx.float32): 1.5e-4,  # 4.2e-6 and 7.3e-5
    ("block, as a GPU adds", mx.float32): 3e-6,  # 7e-8 and 1.6e-6
    ("cpu", mx.float16): 5e-4,  # 3.6e-4, 2.1e-4 before the activation
    ("sums", mx.float16): 3e-4,  # 2.1e-4: activated before it is rounded
    ("block", mx.float16): 4e-4,  # 3.0e-4
    ("block, as a GPU adds", mx.float16): 4e-4,  # 2.7e-4
}


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize(("name", "dtype"), LIMITS, ids=str)
def test_group_norm_is_exact_on_large_pictures(
    name: str,
    dtype: mx.Dtype,
    mean: float,
    monkeypatch: pytest.MonkeyPatch,
    draw: np.random.Generator,
) -> None:
    """Sums over 10⁵ values with a large mean: where a single one in float32 loses its digits."""
    x = mx.array((draw.standard_normal((1, 96, 128, 24)) + mean).astype(np.float32)).astype(dtype)
    norm = layer(draw, 4, 24, 1e-6)
    expected = in_float64(norm, x)
    with form(name, monkeypatch):
        found, activated = norm(x), norm.activated(x)
    assert found.dtype == activated.dtype == dtype
    limit = LIMITS[name, dtype]
    assert relative(np.array(found.astype(mx.float32)), expected.numpy()) < limit
    silu = torch.nn.functional.silu(expected)
    assert relative(np.array(activated.astype(mx.float32)), silu.numpy()) < limit


@pytest.mark.parametrize(("limit", "kernels"), [(1 << 19, 3), (0, 22)], ids=["block", "sums"])
def test_kernels_of_a_norm_on_metal(
    limit: int, kernels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A norm and its activation: copy, norm, and all the rest at once."""
    monkeypatch.setattr(norms, "_MOST_IN_BLOCK", limit)
    norm = GroupNorm(32, 320, 1e-5)
    hollow(norm, mx.float16)
    graph = trace(norm.activated, like((2, 64, 64, 320), mx.float16), module=norm)
    assert sum(by_kind(launches(graph)).values()) == kernels


def test_a_norm_that_is_watched_is_activated_by_itself() -> None:
    """Or who watches would not be told of it."""
    told = []

    class Watched(GroupNorm):
        is_watched = True

        def __call__(self, x: mx.array) -> mx.array:
            told.append(x.shape)
            return super().__call__(x)

    norm = Watched(2, 4, 1e-5)
    for device in (Device.METAL, Device.CPU):
        trace(norm.activated, like((1, 3, 3, 4), mx.float32), on=device)
    assert told == [(1, 3, 3, 4)] * 2


@pytest.mark.parametrize("name", ["_standardize", "_standardize_and_activate"])
def test_of_whole_compiled_for_every_shape(name: str, draw: np.random.Generator) -> None:
    """What a GPU compiles once takes pictures of any size."""
    function = getattr(norms, name)
    compiled = mx.compile(function, shapeless=True)
    for shape in ((2, 4, 3, 8), (1, 9, 3, 8)):
        x = mx.array(draw.standard_normal(shape, dtype=np.float32)).astype(mx.float16)
        mean, factor = (mx.array(draw.standard_normal((shape[0], 1, 1, 8))) for _ in range(2))
        given = (x, mean, factor, factor[0, 0, 0])
        found, expected = compiled(*given), function(*given)
        assert found.dtype == mx.float16
        assert relative(np.array(found.astype(mx.float32)), np.array(expected)) < 1e-3


@pytest.mark.parametrize("name", ["_shift", "_shift_and_activate"])
def test_of_groups_compiled_for_every_shape(name: str, draw: np.random.Generator) -> None:
    """Likewise, of an array that lies in another order."""
    function = getattr(norms, name)
    compiled = mx.compile(function, shapeless=True)
    for shape in ((2, 4, 3, 8), (1, 4, 9, 8)):
        x = mx.array(draw.standard_normal(shape, dtype=np.float32)).transpose(0, 2, 1, 3)
        given = (x, *(mx.array(draw.standard_normal((4, 8), dtype=np.float32)) for _ in range(2)))
        assert relative(np.array(compiled(*given)), np.array(function(*given))) < 2e-7
