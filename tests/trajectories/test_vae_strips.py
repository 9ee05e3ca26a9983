"""Decoding and encoding in strips: the whole picture's result, and diffusers', on both backends."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from copy import copy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

import ipa
import ipa_mlx.vae_strips
import ipa_torch.vae_strips
from ipa.backend.strips import Strips
from ipa_torch.files.weights import quiet
from oracle import models
from oracle.measure import relative
from oracle.sealed import once

Runtime = Any
Result = tuple[np.ndarray, ...]
WALKS: dict[str, ModuleType] = {"mlx": ipa_mlx.vae_strips, "torch": ipa_torch.vae_strips}
_SHAPE = {"block_out_channels": (6, 12, 24, 24), "layers_per_block": 2, "norm_num_groups": 6}
VAES: dict[str, dict[str, Any]] = {
    "sd": _SHAPE | {"scaling_factor": 0.18215},
    "sdxl": _SHAPE | {"scaling_factor": 0.13025, "force_upcast": True},
    "bare": {
        **{"block_out_channels": (6, 12, 18), "layers_per_block": 1, "norm_num_groups": 3},
        **{"mid_block_add_attention": False, "use_quant_conv": False},
        **{"use_post_quant_conv": False, "scaling_factor": 0.5},
    },
}
SIZES = ((1, 1), (2, 5), (7, 3), (8, 8))  # latents: a single one, flat, odd, even
NUMBERS = (1, 700, 1 << 30)  # of a strip: one row, some rows of an uneven number, all
# Distance to diffusers in float64, in units of diffusers' own in float32: measured 1.10 to 1.45.
ROUNDINGS = 2.0
MOST = 2e-6  # relative distance of strips to the whole in float32: measured up to 9.7e-7
LEAST = 63.0  # dB of strips to the whole in float16: measured 67.0 and more


@pytest.fixture(scope="module")
def vaes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("vaes")
    for number, (name, config) in enumerate(VAES.items()):
        count = len(config["block_out_channels"])
        config = config | {"down_block_types": ("DownEncoderBlock2D",) * count}
        config |= {"up_block_types": ("UpDecoderBlock2D",) * count}
        vae = AutoencoderKL(**(models.VAE | config))
        models.randomize(vae, seed=41 + number).save_pretrained(root / name)
    return {name: root / name for name in VAES}


@pytest.fixture(scope="module")
def opened(tiny: Path, vaes: dict[str, Path]) -> Callable[..., ipa.Pipeline]:
    """A pipeline by name of its VAE, backend and precision."""

    def load(name: str, backend: str, dtype: str) -> ipa.Pipeline:
        device = {"device": "cpu"} if backend == "torch" else {}
        return ipa.load(tiny, backend=backend, dtype=dtype, vae=vaes[name], **device)

    return once(load)


@pytest.fixture
def runtime(
    opened: Callable[..., ipa.Pipeline], backend: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Runtime]:
    """A backend whose pictures go in strips of so many numbers, or (None) as a whole."""

    def make(name: str, dtype: str, numbers: int | None) -> Runtime:
        made = copy(opened(name, backend, dtype)._loaded.backend)
        made.vae_memory = "whole" if numbers is None else "strips"
        monkeypatch.setattr("ipa.backend.vae_memory.STRIP_NUMBERS", numbers)
        return made

    return make


@functools.cache
def judge(folder: Path, *, exact: bool) -> AutoencoderKL:
    """diffusers' VAE; exact is without its rounding."""
    with quiet():
        vae = AutoencoderKL.from_pretrained(folder).eval()
        return vae.double() if exact else vae


def given(name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Latents of a size, and a picture that gives as many."""
    draw, factor = np.random.default_rng(7), 2 ** (len(VAES[name]["block_out_channels"]) - 1)
    pixels = draw.uniform(-1, 1, (2, 3, *(side * factor for side in size)))
    return draw.standard_normal((2, 4, *size), np.float32), pixels.astype(np.float32)


def made(runtime: Runtime, name: str, size: tuple[int, int]) -> Result:
    """The picture of latents, then mean and deviation of a picture."""
    latents, pixels = given(name, size)
    return (runtime.decode(runtime.from_numpy(latents)), *runtime.encode(pixels))


@torch.no_grad()
def of_diffusers(vae: AutoencoderKL, name: str, size: tuple[int, int]) -> Result:
    """The same by diffusers, one picture at a time."""
    latents, pixels = (torch.from_numpy(array).to(vae.dtype) for array in given(name, size))
    factor = vae.config.scaling_factor
    pictures = torch.cat([vae.decode(latent[None] / factor).sample for latent in latents])
    found = [vae.encode(picture[None]).latent_dist for picture in pixels]
    mean, deviation = (torch.cat([getattr(x, part) for x in found]) for part in ("mean", "std"))
    shown = (pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return tuple(x.numpy() for x in (shown, mean * factor, deviation * factor))


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    """The peak of the signal over what differs; of pictures the peak is 1."""
    peak = 1.0 if expected.shape[-1] == 3 else float(np.ptp(expected))
    error = np.mean(np.square(found.astype(np.float64) - expected))
    return float(-10 * np.log10(max(error, 1e-30) / peak**2))


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("name", VAES)
def test_strips_are_the_whole_picture(
    runtime: Callable[..., Runtime], vaes: dict[str, Path], name: str, numbers: int
) -> None:
    for size in SIZES:
        found = made(runtime(name, "float32", numbers), name, size)
        whole = made(runtime(name, "float32", None), name, size)
        exact, theirs = (
            of_diffusers(judge(vaes[name], exact=is_exact), name, size)
            for is_exact in (True, False)
        )
        for strips, alone, wanted, rounded in zip(found, whole, exact, theirs, strict=True):
            assert relative(strips, alone) < MOST
            # Of a single pixel both may be lucky: one rounding of float32 (6e-8) is allowed.
            assert relative(strips, wanted) < max(ROUNDINGS * relative(rounded, wanted), 6e-8)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("name", VAES)
def test_in_half_precision(runtime: Callable[..., Runtime], name: str, numbers: int) -> None:
    for size in SIZES:
        found = made(runtime(name, "float16", numbers), name, size)
        whole = made(runtime(name, "float16", None), name, size)
        for strips, alone in zip(found, whole, strict=True):
            assert decibels(strips, alone) > LEAST


def of_a_strip(norm: Any, _: Any) -> Callable[[Any], Any]:
    """A fault: each strip has its own statistics."""
    return lambda rows: norm(rows)


def without_neighbours(layer: Any, x: Any, top: int, end: int, before: Any) -> Any:
    """A fault: zeros above and below each strip."""
    rows = x.rows(top, end)
    return layer(rows if before is None else before(rows))


@pytest.mark.parametrize(
    ("place", "fault"), [("_normed", of_a_strip), ("_rows_of", without_neighbours)]
)
def test_a_fault_is_seen(
    runtime: Callable[..., Runtime],
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    fault: Callable[..., Any],
) -> None:
    whole = made(runtime("sd", "float32", None), "sd", (7, 3))
    monkeypatch.setattr(WALKS[backend], place, fault)
    found = made(runtime("sd", "float32", 700), "sd", (7, 3))
    assert all(relative(*pair) > 1000 * MOST for pair in zip(found, whole, strict=True))
    alone = made(runtime("sd", "float32", 1 << 30), "sd", (7, 3))  # one strip has no neighbours
    assert all(relative(*pair) < MOST for pair in zip(alone, whole, strict=True))


def test_strips_are_given_back(
    runtime: Callable[..., Runtime], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Little more is kept than the largest picture inside the network."""
    walk = WALKS[backend]
    living: weakref.WeakSet[Strips] = weakref.WeakSet()
    most = [0]

    class Counted(Strips):
        def add(self, part: Any) -> None:
            super().add(part)
            living.add(self)
            most.append(sum(np.prod(piece.shape) for x in living for piece in x))

        def like(self, parts: Any = ()) -> Strips:
            return Counted(self._axis, self._join, parts)

    monkeypatch.setattr(walk, "Strips", Counted)
    made(runtime("sd", "float32", 700), "sd", (8, 8))
    largest = 64 * 64 * 12  # what the last upsampling makes
    assert largest < max(most) < 1.2 * largest
