"""Decoding and encoding in tiles, against diffusers' enable_tiling on the same random VAE."""

from __future__ import annotations

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


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_decoding(
    tiled: dict[str, ipa.Pipeline], tiny: Path, size: tuple[int, int], draw: np.random.Generator
) -> None:
    latents = draw.standard_normal((2, 4, *size), dtype=np.float32)
    vae = tiled_vae(tiny)
    scaled = torch.from_numpy(latents) / vae.config.scaling_factor
    expected = (vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    vae.disable_tiling()
    whole = (vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert relative(whole, expected) > 0.01
    for name, limit in (("mlx", 2e-6), ("torch", 2e-6)):  # measured 4.5e-7, 5e-7
        backend = tiled[name]._loaded.backend
        found = backend.decode(backend.from_numpy(latents))
        assert relative(found, expected) < limit


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 56), (72, 40)])
def test_encoding(
    tiled: dict[str, ipa.Pipeline], tiny: Path, size: tuple[int, int], draw: np.random.Generator
) -> None:
    pixels = draw.uniform(-1, 1, (2, 3, *size)).astype(np.float32)
    vae = tiled_vae(tiny)
    posterior = vae.encode(torch.from_numpy(pixels)).latent_dist
    expected = [x * vae.config.scaling_factor for x in (posterior.mean, posterior.std)]
    for name, limit in (("mlx", 3e-6), ("torch", 1e-6)):  # measured 8e-7, 0
        pair = tiled[name]._loaded.backend.encode(pixels)
        for found, wanted in zip(pair, expected, strict=True):
            assert relative(found, wanted.numpy()) < limit
