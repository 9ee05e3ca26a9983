"""NoiseStream against torch's own CPU generator."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.errors import RequestError
from ipa.prepare.samplers.noise import NoiseStream

SEEDS = (0, 1, 7, 2**31, 2**32 + 5, 2**63, 2**64 - 1)
SHAPES = ((16,), (17,), (31,), (1, 4, 8, 8), (1, 4, 5, 5), (2, 4, 96, 64), (1, 4, 128, 128), (999,))
# torch evaluates log, cos and sin in float32: measured one float32 step at |x| in 4–8, 4.8e-7, from
# the exact values for its angles, with and without AVX. Ours are exact, rounded once: half a step.
TOLERANCE = 4.8e-7 + 2.4e-7
# Fewer than 16 values are computed in double on both sides: measured 0. Another libm may flip the
# last float32 bit, 2.4e-7 at |x| in 2–4.
SMALL_TOLERANCE = 2.4e-7


def _torch(seed: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def _other_angles(generator: torch.Generator, count: int) -> np.ndarray:
    """How far the next draw moves if its angles are rounded as torch's plain C++ rounds them.

    torch has two formulas. With AVX2 and wider, and here, θ = float32(2π) · u, rounded; where its
    code is not vectorised (also on a Mac), θ = 2π · u in double, rounded: up to one float32 step of
    an angle apart, which moves a value by up to 2.2e-6. The uniforms are torch's own.
    """
    if count < 16:
        return np.zeros(count)  # in double, by one formula
    ahead = torch.Generator("cpu")
    ahead.set_state(generator.get_state())
    uniforms, moves = torch.rand(count, generator=ahead).numpy(), np.zeros(count)
    moves[: count - count % 16] = _moves(uniforms[: count - count % 16])
    if count % 16:
        moves[-16:] = _moves(torch.rand(16, generator=ahead).numpy())
    return moves


def _moves(uniforms: np.ndarray) -> np.ndarray:
    near, turn = np.moveaxis(uniforms.reshape(-1, 2, 8), 1, 0)
    radius = np.sqrt(-2 * np.log(1 - near.astype(np.float64)))
    here = (np.float32(2 * np.pi) * turn).astype(np.float64)
    there = (2 * np.pi * turn.astype(np.float64)).astype(np.float32).astype(np.float64)
    cosine, sine = np.cos(there) - np.cos(here), np.sin(there) - np.sin(here)
    return np.stack([radius * cosine, radius * sine], axis=1).reshape(-1)


def _distance(stream: NoiseStream, theirs: torch.Generator, shape: tuple[int, ...]) -> float:
    """Our next draw from torch's, by whichever angles this torch takes for the whole of it."""
    ours, moves = stream.normal(shape), _other_angles(theirs, math.prod(shape))
    assert ours.dtype == np.float32 and ours.shape == shape
    apart = ours.astype(np.float64) - _randn(theirs, shape)
    return min(np.abs(apart + move).max(initial=0.0) for move in (0.0, moves.reshape(shape)))


def _randn(generator: torch.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return torch.randn(shape, generator=generator, dtype=torch.float32).numpy()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_draw_equals_torch(seed: int, shape: tuple[int, ...]) -> None:
    assert _distance(NoiseStream(seed), _torch(seed), shape) <= TOLERANCE


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", [1, 15, 16, 17, 4096])
def test_uniforms_are_torchs_bit_for_bit(seed: int, count: int) -> None:
    """Integers, and one exact product: no processor rounds them."""
    theirs = torch.rand(count, generator=_torch(seed)).numpy()
    assert np.array_equal(NoiseStream(seed).uniform((count,)), theirs)


def test_a_wrong_angle_is_seen() -> None:
    """One that is not rounded, as a formula in double precision would have it."""
    uniforms = torch.rand(65536, generator=_torch(3)).numpy().astype(np.float64)
    near, turn = np.moveaxis(uniforms.reshape(-1, 2, 8), 1, 0)
    radius, angle = np.sqrt(-2 * np.log(1 - near)), 2 * np.pi * turn
    exact = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    moves = _other_angles(_torch(3), 65536)
    apart = exact - _randn(_torch(3), (65536,))
    assert min(np.abs(apart + move).max() for move in (0.0, moves)) > TOLERANCE


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("count", range(1, 16))
def test_fewer_than_16_values_take_the_double_path(seed: int, count: int) -> None:
    ours = NoiseStream(seed).normal((count,))
    assert np.abs(ours - _randn(_torch(seed), (count,))).max() <= SMALL_TOLERANCE


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    counts=st.lists(st.one_of(st.integers(0, 40), st.integers(300, 330)), min_size=1, max_size=9),
)
def test_draws_follow_each_other_as_in_torch(seed: int, counts: list[int]) -> None:
    """Small draws keep a spare value that survives large draws between them."""
    ours, theirs = NoiseStream(seed), _torch(seed)
    for count in counts:
        assert _distance(ours, theirs, (count,)) <= TOLERANCE, counts


def test_the_spare_value_survives_a_large_draw() -> None:
    ours, theirs = NoiseStream(3), _torch(3)
    for count in (3, 100, 1, 7, 16, 1, 2):
        assert _distance(ours, theirs, (count,)) <= TOLERANCE


def test_the_spare_value_belongs_to_its_stream() -> None:
    NoiseStream(5).normal((1,))
    assert np.array_equal(NoiseStream(5).normal((3,)), NoiseStream(5).normal((3,)))


def test_a_stream_leaves_numpys_global_state_alone() -> None:
    before = np.random.get_state()[1].copy()
    NoiseStream(11).normal((64,))
    assert np.array_equal(before, np.random.get_state()[1])


def test_a_draw_of_sdxl_size_takes_milliseconds() -> None:
    stream = NoiseStream(0)
    timings = []
    for _ in range(5):
        start = time.perf_counter()
        stream.normal((1, 4, 128, 128))
        timings.append(time.perf_counter() - start)
    assert min(timings) < 0.05  # measured 1.7 ms


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None, "7"])
def test_seeds_outside_torchs_range_are_refused(seed: object) -> None:
    with pytest.raises(RequestError, match="seed"):
        NoiseStream(seed)  # type: ignore[arg-type]


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(RequestError, match="shape"):
        NoiseStream(0).normal((2, -1))
    assert NoiseStream(0).normal((0, 4)).shape == (0, 4)
