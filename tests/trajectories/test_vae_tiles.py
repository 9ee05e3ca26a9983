"""Decoding and encoding in tiles, against diffusers' enable_tiling on the same random VAE."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

import ipa
from ipa_torch.files.weights import quiet
from oracle.measure import relative

# Latents of 32 pixels' tiles are 4 × 4: one row of tiles and a rest, a rest of one latent, uneven.
SIZES = ((4, 9), (7, 7), (13, 6))


def tiled_vae(folder: Path) -> AutoencoderKL:
    with quiet():
        vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    vae.enable_tiling()
    return vae


@pytest.fixture(scope="module")
def tiled(tiny: Path, open_pipeline: Any) -> dict[str, ipa.Pipeline]:
    pipes = {name: open_pipeline(tiny, name) for name in ("mlx", "torch")}
    for pipe in pipes.values():
        pipe.vae_tiling = True
    return pipes


def double(vae: AutoencoderKL) -> AutoencoderKL:
    """The judge without its rounding."""
    with quiet():
        return copy.deepcopy(vae).double()


# Distance to diffusers in float64, in units of diffusers' own in float32 on the same machine:
# measured 0.68 to 1.25 with and without AVX. Nothing else is left: see `array_equal`.
ROUNDINGS = 2.0


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_decoding(
    tiled: dict[str, ipa.Pipeline], tiny: Path, size: tuple[int, int], draw: np.random.Generator
) -> None:
    latents = draw.standard_normal((2, 4, *size), dtype=np.float32)
    vae = tiled_vae(tiny)

    def decoded(vae: AutoencoderKL, latents: torch.Tensor) -> np.ndarray:
        pictures = vae.decode(latents / vae.config.scaling_factor).sample
        return (pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()

    given = torch.from_numpy(latents)
    expected, exact = decoded(vae, given), decoded(double(vae), given.double())
    limit = ROUNDINGS * relative(expected, exact)
    alone = np.concatenate([decoded(vae, latent[None]) for latent in given])
    vae.disable_tiling()
    assert relative(decoded(vae, given), expected) > 0.01 and limit < 2e-6
    found = {
        name: pipe._loaded.backend.decode(pipe._loaded.backend.from_numpy(latents))
        for name, pipe in tiled.items()
    }
    assert all(relative(pictures, exact) < limit for pictures in found.values())
    assert np.array_equal(found["torch"], alone)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 56), (72, 40)])
def test_encoding(
    tiled: dict[str, ipa.Pipeline], tiny: Path, size: tuple[int, int], draw: np.random.Generator
) -> None:
    pixels = draw.uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    vae = tiled_vae(tiny)

    def encoded(vae: AutoencoderKL, pixels: torch.Tensor) -> list[np.ndarray]:
        posterior = vae.encode(pixels).latent_dist
        return [(x * vae.config.scaling_factor).numpy() for x in (posterior.mean, posterior.std)]

    given = torch.from_numpy(pixels)
    expected, exact = encoded(vae, given), encoded(double(vae), given.double())
    limits = [ROUNDINGS * relative(*pair) for pair in zip(expected, exact, strict=True)]
    assert max(limits) < 3e-6
    found = {name: pipe._loaded.backend.encode(pixels) for name, pipe in tiled.items()}
    for pair in found.values():
        for values, wanted, limit in zip(pair, exact, limits, strict=True):
            assert relative(values, wanted) < limit
    alone = zip(*(encoded(vae, picture[None]) for picture in given), strict=True)
    for values, rows in zip(found["torch"], alone, strict=True):
        assert np.array_equal(values, np.concatenate(rows))
