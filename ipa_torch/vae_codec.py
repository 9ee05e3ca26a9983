"""The VAE as a run uses it: one picture at a time, in strips or tiles where that is asked for, in
float32 where half precision overflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from ipa.arrays import Floats
from ipa.backend.tiling import Tile
from ipa.backend.vae_memory import StripSize, VaeUse
from ipa.errors import NumericalError

from .files.weights import quiet
from .vae_strips import StripWalk

Parts: TypeAlias = Tile | StripSize | None


def decode(
    vae: AutoencoderKL,
    latents: torch.Tensor,
    warnings: list[str],
    *,
    wide: bool,
    use: VaeUse,
) -> Floats:
    """Latents (N, C, h, w) to pictures (N, H, W, 3) in [0, 1].

    Args:
        vae: The autoencoder, whose weights' precision is that of the computation.
        latents: As the UNet sees them.
        warnings: Is told where a picture overflowed in half precision and was decoded again.
        wide: Decode in float32 at once.
        use: Which pictures to decode in strips or in tiles.

    Raises:
        NumericalError: A picture has NaN or infinite pixels in float32 too.
    """
    scaled = latents / vae.config.scaling_factor
    parts = use.of_latents(*latents.shape[2:])
    with tiled(vae, parts), widened(vae) if wide else nullcontext():
        pictures = [_decode_one(vae, latent[None], warnings, parts) for latent in scaled]
    return np.concatenate(pictures)


def encode(
    vae: AutoencoderKL, pixels: torch.Tensor, warnings: list[str], *, wide: bool, use: VaeUse
) -> tuple[Floats, Floats]:
    """Pictures (N, 3, H, W) in [-1, 1] to mean and deviation (N, C, h, w); see `decode`."""
    parts = use.of_pixels(*pixels.shape[2:])
    with tiled(vae, parts), widened(vae) if wide else nullcontext():
        pairs = [_encode_one(vae, picture[None], warnings, parts) for picture in pixels]
    mean, deviation = (np.concatenate(rows) for rows in zip(*pairs, strict=True))
    return mean, deviation


@contextmanager
def tiled(vae: AutoencoderKL, parts: Parts) -> Iterator[None]:
    """A context in which diffusers' VAE works in tiles, if there are any."""
    if isinstance(parts, Tile):
        vae.enable_tiling()
        vae.tile_latent_min_size, vae.tile_sample_min_size = parts.latents, parts.pixels
    try:
        yield
    finally:
        vae.disable_tiling()


@contextmanager
def widened(vae: AutoencoderKL) -> Iterator[None]:
    """A context for float32; going back loses nothing."""
    before = vae.dtype
    with quiet():
        vae.float()
        try:
            yield
        finally:
            vae.to(before)


def _encode_one(
    vae: AutoencoderKL, pixels: torch.Tensor, warnings: list[str], parts: Parts
) -> tuple[Floats, Floats]:
    name = str(vae.dtype).removeprefix("torch.")
    pair = _encoded(vae, pixels, parts)
    if vae.dtype != torch.float32 and not np.isfinite(pair).all():
        warnings.append(f"the VAE overflowed in {name}: encoded again in float32")
        with widened(vae):
            pair = _encoded(vae, pixels, parts)
    if not np.isfinite(pair).all():
        raise NumericalError(
            "the encoded picture has NaN or infinite latents",
            found=f"dtype {name}",
            remedy='check the VAE\'s weights, or load with dtype="float32"',
        )
    return pair


def _encoded(vae: AutoencoderKL, pixels: torch.Tensor, parts: Parts) -> tuple[Floats, Floats]:
    pixels, factor = pixels.to(vae.dtype), vae.config.scaling_factor
    if isinstance(parts, StripSize):
        posterior = DiagonalGaussianDistribution(StripWalk(parts.numbers).moments(vae, pixels))
    else:
        posterior = vae.encode(pixels).latent_dist
    mean, deviation = (rows.float() * factor for rows in (posterior.mean, posterior.std))
    return mean.cpu().numpy(), deviation.cpu().numpy()


def _decode_one(
    vae: AutoencoderKL, scaled: torch.Tensor, warnings: list[str], parts: Parts
) -> Floats:
    name = str(vae.dtype).removeprefix("torch.")
    picture = _decoded(vae, scaled, parts)
    if vae.dtype != torch.float32 and not torch.isfinite(picture).all():
        warnings.append(f"the VAE overflowed in {name}: decoded again in float32")
        with widened(vae):
            picture = _decoded(vae, scaled, parts)
    if not torch.isfinite(picture).all():  # before the clamp, which hides infinity
        raise NumericalError(
            "the decoded picture has NaN or infinite pixels",
            found=f"dtype {name}",
            remedy='check the VAE\'s weights, or load with dtype="float32"',
        )
    shown: Floats = (
        (picture.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    )
    return shown


def _decoded(vae: AutoencoderKL, scaled: torch.Tensor, parts: Parts) -> torch.Tensor:
    scaled = scaled.to(vae.dtype)
    if isinstance(parts, StripSize):
        return StripWalk(parts.numbers).decode(vae, scaled)
    picture: torch.Tensor = vae.decode(scaled).sample
    return picture
