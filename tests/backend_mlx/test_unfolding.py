"""Convolutions by unfolding: the same sums, on one kind of chip alone, and by a switch."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from ipa import RequestError
from ipa_mlx.device import Device, writing_for
from ipa_mlx.graph.kernels import by_kind, launches
from ipa_mlx.graph.tracing import hollow, like, trace
from ipa_mlx.networks import unfolding
from ipa_mlx.networks.layers import Convolution
from ipa_mlx.networks.unfolding import convolved, is_accelerated, is_unfolded, routed
from oracle.measure import relative


@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 5, 3, 4), (3, 8, 8, 16)])
def test_the_same_sums(shape: tuple[int, ...], draw: np.random.Generator) -> None:
    x = mx.array(draw.standard_normal(shape, dtype=np.float32))
    weight = mx.array(draw.standard_normal((7, 3, 3, shape[-1]), dtype=np.float32))
    bias = mx.array(draw.standard_normal(7, dtype=np.float32))
    expected = np.array(mx.conv2d(x, weight, padding=1))
    assert relative(np.array(convolved(x, weight, None)), expected) < 1e-6  # measured 2e-7
    assert relative(np.array(convolved(x, weight, bias)), expected + np.array(bias)) < 1e-6
    turned = x.transpose(0, 2, 1, 3)  # whose rows do not lie one after another
    expected = np.array(mx.conv2d(mx.contiguous(turned), weight, padding=1))
    assert relative(np.array(convolved(turned, weight, None)), expected) < 1e-6


def test_a_layer_takes_it_by_the_switch(
    monkeypatch: pytest.MonkeyPatch, draw: np.random.Generator
) -> None:
    layer = Convolution(4, 512)
    x = mx.array(draw.standard_normal((1, 5, 6, 4), dtype=np.float32))
    expected, calls = np.array(layer(x)), []
    original = unfolding.convolved
    monkeypatch.setattr(
        "ipa_mlx.networks.layers.convolved", lambda *given: (calls.append(1), original(*given))[1]
    )
    monkeypatch.setenv(unfolding.SWITCH, "unfold")
    assert relative(np.array(layer(x)), expected) < 1e-6
    assert calls == [1]
    with routed("mlx"):
        assert np.array_equal(np.array(layer(x)), expected)
    monkeypatch.setenv(unfolding.SWITCH, "auto")
    assert np.array_equal(np.array(layer(x)), expected)
    assert calls == [1]


@pytest.mark.parametrize(
    ("batch", "height", "outputs", "expected"),
    [(2, 32, 512, True), (2, 32, 511, False), (4, 32, 512, False), (1, 63, 1280, True)],
)
def test_only_wide_ones_below_winograd(
    batch: int, height: int, outputs: int, expected: bool
) -> None:
    x = like((batch, height, 64 if height == 63 else 32, 8), mx.float32)
    with routed("unfold"):
        assert is_unfolded(x, outputs) is expected
    with routed("mlx"):
        assert not is_unfolded(x, outputs)


def test_by_itself_on_an_m5_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x = like((2, 16, 16, 8), mx.float32)
    for is_m5 in (True, False):
        monkeypatch.setattr(unfolding, "has_neural_accelerators", lambda is_m5=is_m5: is_m5)
        for device in Device:
            with writing_for(device), routed("auto"):
                assert is_unfolded(x, 1280) is (is_m5 and device is Device.METAL)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("applegpu_g17s", True), ("applegpu_g16d", False), ("applegpu_g18", True), ("x86", False)],
)
def test_chips(name: str, expected: bool) -> None:
    assert is_accelerated(name) is expected


def test_kernels() -> None:
    """Zeros around, one copy, and the product with the bias in it."""
    layer = Convolution(1280, 1280)
    hollow(layer, mx.float16)
    x = like((2, 16, 16, 1280), mx.float16)
    with routed("unfold"):
        graph = trace(layer, x, module=layer)
    assert dict(by_kind(launches(graph))) == {"zeros around": 2, "copy": 1, "matmul": 1}


def test_an_unknown_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(unfolding.SWITCH, "fast")
    with pytest.raises(RequestError, match=r"IPA_MLX_CONV_ROUTE.*'fast'.*auto, mlx, unfold"):
        unfolding.route()
