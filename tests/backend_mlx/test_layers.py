"""The small parts, against torch in float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from ipa_mlx.networks import attention, layers
from ipa_mlx.networks.layers import ACTIVATIONS, GroupNorm, silu, sinusoid
from oracle.measure import relative


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_group_norm_is_exact_on_large_pictures(mean: float, draw: np.random.Generator) -> None:
    """Float32 sums over 10⁵ values with a large mean: where a single sum loses its digits."""
    x = (draw.standard_normal((1, 96, 128, 24)) + mean).astype(np.float32)
    norm = GroupNorm(4, 24, eps=1e-6)
    norm.weight = mx.array(draw.standard_normal(24, dtype=np.float32))
    norm.bias = mx.array(draw.standard_normal(24, dtype=np.float32))
    expected = torch.nn.functional.group_norm(
        torch.from_numpy(x).double().permute(0, 3, 1, 2),
        4,
        torch.from_numpy(np.array(norm.weight)).double(),
        torch.from_numpy(np.array(norm.bias)).double(),
        1e-6,
    )
    # Measured 1e-7 around 0 and 1.2e-6 around 30: the rounding of the mean itself (30 · 6e-8).
    assert relative(np.array(norm(mx.array(x))), expected.permute(0, 2, 3, 1).numpy()) < 3e-6


@pytest.mark.parametrize("timestep", [0.0, 1.0, 499.3, 999.0])
@pytest.mark.parametrize("flip", [True, False])
def test_sinusoid(timestep: float, flip: bool) -> None:
    expected = get_timestep_embedding(
        torch.tensor([timestep]), 25, flip_sin_to_cos=flip, downscale_freq_shift=0
    )
    found = sinusoid(timestep, 25, flip_sin_to_cos=flip, freq_shift=0)
    assert np.abs(found - expected.numpy()).max() < 1e-4  # float32 angles up to 999: 6e-5 apart


def test_activations(draw: np.random.Generator) -> None:
    x = draw.standard_normal(1000, dtype=np.float32) * 4
    wide = torch.from_numpy(x).double()
    expected = {
        "gelu": torch.nn.functional.gelu(wide),
        "quick_gelu": wide * torch.sigmoid(1.702 * wide),
    }
    for name, function in ACTIVATIONS.items():
        assert relative(np.array(function(mx.array(x))), expected[name].numpy()) < 1e-6
    assert relative(np.array(silu(mx.array(x))), torch.nn.functional.silu(wide).numpy()) < 1e-6


def heads(length: int, width: int, draw: np.random.Generator) -> mx.array:
    return mx.array(draw.standard_normal((2, 3, length, width), dtype=np.float32))


def test_padded_heads_change_nothing(draw: np.random.Generator) -> None:
    """What Metal is given for heads of 40."""
    q, k, v = heads(20, 40, draw), heads(7, 40, draw), heads(7, 40, draw)
    padded = attention.attend_padded(q, k, v, 64, 40**-0.5)
    assert relative(np.array(padded), np.array(attention.attend(q, k, v))) < 1e-6


def test_queries_in_parts_change_nothing(
    monkeypatch: pytest.MonkeyPatch, draw: np.random.Generator
) -> None:
    """How the score matrix is kept small where no fused kernel avoids it."""
    q, k, v = heads(23, 8, draw), heads(50, 8, draw), heads(50, 8, draw)
    whole = np.array(attention.attend(q, k, v))
    monkeypatch.setattr(attention, "_MAX_SCORES", 2 * 3 * 50 * 4)
    assert relative(np.array(attention.attend(q, k, v)), whole) < 1e-6


def test_attention_is_torchs(draw: np.random.Generator) -> None:
    q, k, v = heads(11, 16, draw), heads(5, 16, draw), heads(5, 16, draw)
    wide = [torch.from_numpy(np.array(x)).double() for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*wide)
    assert relative(np.array(attention.attend(q, k, v)), expected.numpy()) < 1e-6


@pytest.mark.parametrize("height", [1, 2, 7, 12])
def test_convolution_in_strips(
    height: int, monkeypatch: pytest.MonkeyPatch, draw: np.random.Generator
) -> None:
    """How a CPU is given large pictures: strips of 3 rows, the last one shorter."""
    x = draw.standard_normal((2, height, 5, 4), dtype=np.float32)
    convolution = layers.Convolution(4, 6)
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch.from_numpy(np.array(convolution.weight)).permute(0, 3, 1, 2),
        torch.from_numpy(np.array(convolution.bias)),
        padding=1,
    )
    whole = np.array(convolution(mx.array(x)))
    monkeypatch.setattr(layers, "_MOST_NEIGHBOURS", 0)
    monkeypatch.setattr(layers, "_STRIP_NEIGHBOURS", 3 * 2 * 5 * 9 * 4)
    for found in (whole, np.array(convolution(mx.array(x)))):
        assert relative(found.transpose(0, 3, 1, 2), expected.numpy()) < 1e-6


def test_exponentials_where_exp_is_slow(draw: np.random.Generator) -> None:
    """As exact as MLX's own, and no NaN at the ends."""
    x = draw.standard_normal(1000, dtype=np.float32) * 6
    wide = torch.from_numpy(x).double()
    below = -wide.abs()  # as in a softmax; measured 8e-8
    assert relative(np.array(layers.exp(mx.array(-np.abs(x)))), below.exp().numpy()) < 2e-7
    assert relative(np.array(layers.sigmoid(mx.array(x))), wide.sigmoid().numpy()) < 1e-7
    ends = mx.array([-1e30, -200.0, 0.0, 200.0, 1e30])
    assert np.array(layers.sigmoid(ends)).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert np.array(silu(ends))[[0, 1]].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["silu", "quick_gelu", "gelu", "_squared_distance"])
def test_compiled_as_on_a_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch, draw: np.random.Generator
) -> None:
    """What Metal is given: the branch of a vectorised exp, compiled once for every shape."""
    monkeypatch.setattr(layers, "has_fast_exp", lambda _: True)
    function = getattr(layers, name)
    compiled = mx.compile(function, shapeless=True)
    for shape in ((2, 3, 5, 8), (1, 7, 2, 16)):
        x = mx.array(draw.standard_normal(shape, dtype=np.float32))
        given = (x, mx.array([0.5])) if name == "_squared_distance" else (x,)
        assert relative(np.array(compiled(*given)), np.array(function(*given))) < 2e-7


def test_group_norm_compiled_as_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, draw: np.random.Generator
) -> None:
    norm = GroupNorm(2, 8, 1e-5)
    norm.weight = mx.array(draw.standard_normal(8, dtype=np.float32))
    pictures = [mx.array(draw.standard_normal((2, s, 3, 8), dtype=np.float32)) for s in (4, 9)]
    plain = [np.array(norm(x)) for x in pictures]
    for name in ("_standardize", "_squared_distance"):
        monkeypatch.setattr(layers, name, mx.compile(getattr(layers, name), shapeless=True))
    for x, expected in zip(pictures, plain, strict=True):
        assert relative(np.array(norm(x)), expected) < 2e-7
        half = norm(x.astype(mx.float16))
        assert half.dtype == mx.float16
        assert relative(np.array(half.astype(mx.float32)), expected) < 2e-3  # measured 4e-4
