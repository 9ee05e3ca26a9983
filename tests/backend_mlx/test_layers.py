"""The small parts, against torch in float64."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from ipa.request.scales import EMBEDS_SCALINGS
from ipa_mlx.device import Device, writing_for
from ipa_mlx.networks import attention, layers
from ipa_mlx.networks.layers import ACTIVATIONS, silu, sinusoid
from oracle.measure import relative


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
    expected = np.array(attention.attend(q, k, v))
    padded = np.array(attention.attend_padded(q, k, v, 64, 40**-0.5))
    assert relative(padded[..., :40], expected) < 1e-6
    assert not padded[..., 40:].any()
    wide = [attention.widened(x, 64) for x in (q, k, v)]  # as keys and values are kept
    assert np.array_equal(np.array(attention.attend(*wide, head=40)), expected)
    with writing_for(Device.METAL):
        assert relative(np.array(attention.attend(q, k, v)), expected) < 1e-6
        assert np.array_equal(np.array(attention.attend(*wide, head=40)), padded[..., :40])


def test_metal_keeps_keys_and_values_as_wide_as_its_kernel() -> None:
    site = attention.CrossAttention(120, 16, 3)
    text = mx.array(np.ones((2, 7, 16), np.float32))
    narrow = site.keys_values(text)
    with writing_for(Device.METAL):
        wide = site.keys_values(text)
    assert (narrow.keys.shape, wide.keys.shape) == ((2, 3, 7, 40), (2, 3, 7, 64))
    assert narrow.width == wide.width == site.width == 40
    assert np.array_equal(np.array(wide.values)[..., :40], np.array(narrow.values))
    assert not np.array(wide.values)[..., 40:].any()
    penalised = [replace(p, scaling=EMBEDS_SCALINGS["K+V w/ C penalty"]) for p in (narrow, wide)]
    assert penalised[0].factor(0.5) == penalised[1].factor(0.5) == 0.5 * 120 / 1280


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


@pytest.mark.parametrize("name", ["silu", "quick_gelu", "gelu", "geglu"])
def test_compiled_as_on_a_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch, draw: np.random.Generator
) -> None:
    """What Metal is given: the branch of a vectorised exp, compiled once for every shape."""
    monkeypatch.setattr(layers, "has_fast_exp", lambda _: True)
    function = getattr(layers, name)
    compiled = mx.compile(function, shapeless=True)
    for shape in ((2, 3, 5, 8), (1, 7, 2, 16)):
        x = mx.array(draw.standard_normal(shape, dtype=np.float32))
        given = (x, x + 1) if name == "geglu" else (x,)
        assert relative(np.array(compiled(*given)), np.array(function(*given))) < 2e-7
