"""Sinusoids of known numbers: what last bits of their frequencies make is no fault."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.parity.compare.comparing_tap import ComparingTap
from ipa.parity.compare.limits import Limits
from ipa.parity.compare.sinusoids import Sinusoids
from ipa_mlx.networks.layers import sinusoid

FORMS = [(flip, shift) for flip in (True, False) for shift in (0, 1)]


def row(number: float, width: int, form: tuple[bool, int], ulps: int = 0) -> np.ndarray:
    """In float32 as diffusers computes it, with frequencies off by some last bits."""
    flip, shift = form
    half = width // 2
    exponents = np.float32(-np.log(10_000)) * np.arange(half, dtype=np.float32)
    frequencies = np.exp(exponents / np.float32(half - shift)).astype(np.float32)
    frequencies += ulps * np.spacing(frequencies)
    angles = np.float64(frequencies * np.float32(number))
    pair = [np.cos(angles), np.sin(angles)] if flip else [np.sin(angles), np.cos(angles)]
    return np.pad(np.concatenate(pair).astype(np.float32), (0, width % 2))[None]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [25, 64, 320])
@pytest.mark.parametrize("number", [1.0, 37.5, 501.0, 999.0])
def test_a_last_bit_of_every_frequency(number: float, width: int, form: tuple[bool, int]) -> None:
    """Whatever the floors that were measured: 1 ulp is well within the limit, 100 are beyond."""
    exact = sinusoid(number, width, flip_sin_to_cos=form[0], freq_shift=form[1])
    assert np.abs(row(number, width, form) - exact).max() < 1.3e-4  # the same formula
    stage = "step.003/unet.time_proj"
    floors = [{}, {stage: 0.0}]
    for limits in (Limits("float32", known, forced=True) for known in floors):
        share = {}
        for ulps in (1, -1, 100):
            tap = ComparingTap({stage: exact}, limits, forced=True)
            tap("step.003/timestep", np.array([[number]], np.float32))
            tap(stage, row(number, width, form, ulps))
            share[ulps] = tap.differences[0].share
        assert max(share[1], share[-1]) < 0.5
        # Without a measured floor 32 roundings are allowed: at 1 a bit is not worth that.
        assert share[100] > 1 or (number == 1.0 and not limits.floors)


def test_sizes_of_sdxl_beside_pooled_text(draw: np.random.Generator) -> None:
    pooled = draw.standard_normal((2, 40)).astype(np.float32)
    numbers = np.array([[1024, 1024, 0, 0, 1024, 768], [512, 512, 9, 0, 1024, 768]], np.float32)
    form, stage = (True, 0), "condition/unet.add_embedding.input"

    def whole(ulps: int) -> np.ndarray:
        parts = [[row(n, 32, form, ulps)[0] for n in own] for own in numbers]
        return np.concatenate([pooled, np.reshape(parts, (2, -1))], axis=1)

    for ulps, is_good in ((1, True), (100, False)):
        tap = ComparingTap({stage: whole(0)}, Limits("float32", {stage: 1e-8}, forced=True))
        tap("text.positive/pooled", pooled[:1])
        tap("condition/sizes", numbers)
        tap(stage, whole(ulps))
        assert tap.differences[0].bad != is_good


@pytest.mark.parametrize("form", FORMS)
def test_nudged_rows_are_off_by_about_half_the_floor(form: tuple[bool, int]) -> None:
    own, stage = Sinusoids(), "step.000/controlnet.edges.time_proj"
    given = row(981.0, 320, form)
    assert own.floor(stage, given.shape) is None  # of no number that was told
    own.see("step.000/timestep", np.array([[981.0]], np.float32))
    nudged = own.nudged(stage, given)
    assert nudged is not None
    off = np.linalg.norm(nudged - given) / np.linalg.norm(given)
    floor = own.floor(stage, given.shape)
    assert floor is not None and 0.2 < off / floor < 1.0
    assert own.nudged(stage, given[:, ::-1]) is None  # in no form: left as it is
    assert own.floor("step.000/unet.conv_in", given.shape) is None
