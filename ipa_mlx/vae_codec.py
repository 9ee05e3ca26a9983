"""The VAE as a run uses it: one picture at a time, in strips or tiles where that is asked for, in
float32 where half precision overflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeAlias

import mlx.core as mx
import numpy as np

from ipa.arrays import Floats
from ipa.backend.tiling import Tile, in_tiles
from ipa.backend.vae_memory import StripSize, VaeUse
from ipa.errors import NumericalError

from .networks.vae import Vae
from .vae_strips import StripWalk

_FRUGAL_CACHE = 128 << 20  # bytes

Parts: TypeAlias = Tile | StripSize | None


def decode(vae: Vae, latents: mx.array, warnings: list[str], *, wide: bool, use: VaeUse) -> Floats:
    """Latents (N, h, w, C) to pictures (N, H, W, 3) in [0, 1].

    Args:
        vae: The autoencoder, whose weights' precision is that of the computation.
        latents: As the UNet sees them.
        warnings: Is told where a picture overflowed in half precision and was decoded again.
        wide: Decode in float32 at once.
        use: Which pictures to decode in strips or in tiles.

    Raises:
        NumericalError: A picture has NaN or infinite pixels in float32 too.
    """
    parts = use.of_latents(*latents.shape[1:3])
    with frugal() if parts else nullcontext(), widened(vae) if wide else nullcontext():
        pictures = [
            _decode_one(vae, latents[i : i + 1], warnings, parts) for i in range(len(latents))
        ]
    return np.concatenate(pictures)


def encode(
    vae: Vae, pixels: mx.array, warnings: list[str], *, wide: bool, use: VaeUse
) -> tuple[Floats, Floats]:
    """Pictures (N, H, W, 3) in [-1, 1] to mean and deviation (N, C, h, w); see `decode`."""
    parts = use.of_pixels(*pixels.shape[1:3])
    with frugal() if parts else nullcontext(), widened(vae) if wide else nullcontext():
        pairs = [_encode_one(vae, pixels[i : i + 1], warnings, parts) for i in range(len(pixels))]
    mean, deviation = (
        np.concatenate(rows).transpose(0, 3, 1, 2) for rows in zip(*pairs, strict=True)
    )
    return np.ascontiguousarray(mean), np.ascontiguousarray(deviation)


@contextmanager
def frugal() -> Iterator[None]:
    """A context that keeps few freed buffers: parts are for memory, not for the last of speed."""
    mx.clear_cache()
    before = mx.set_cache_limit(_FRUGAL_CACHE)
    mx.set_cache_limit(min(before, _FRUGAL_CACHE))
    try:
        yield
    finally:
        mx.set_cache_limit(before)


@contextmanager
def widened(vae: Vae) -> Iterator[None]:
    """A context for float32; afterwards the weights are the very same arrays as before."""
    parameters = vae.parameters()
    vae.set_dtype(mx.float32)
    try:
        yield
    finally:
        vae.update(parameters)


def _decode_one(vae: Vae, latents: mx.array, warnings: list[str], parts: Parts) -> Floats:
    precision = _precision(vae)
    name = str(precision).removeprefix("mlx.core.")
    picture = _decoded(vae, latents, parts)
    if precision != mx.float32 and not np.isfinite(picture).all():
        warnings.append(f"the VAE overflowed in {name}: decoded again in float32")
        with widened(vae):
            picture = _decoded(vae, latents, parts)
    if not np.isfinite(picture).all():  # before the clip, which hides infinity
        raise NumericalError(
            "the decoded picture has NaN or infinite pixels",
            found=f"dtype {name}",
            remedy='check the VAE\'s weights, or load with dtype="float32"',
        )
    return np.clip(picture * 0.5 + 0.5, 0.0, 1.0)


def _decoded(vae: Vae, latents: mx.array, parts: Parts = None) -> Floats:
    if isinstance(parts, Tile):
        sides = (*latents.shape[1:3], parts.latents, parts.pixels)
        return in_tiles(*sides, lambda y, x: _decoded(vae, latents[:, y, x]))
    latents = latents.astype(_precision(vae))
    walk = None if parts is None else StripWalk(parts.numbers)
    picture = vae.decode(latents) if walk is None else walk.decode(vae, latents)
    return np.array(picture.astype(mx.float32))


def _encode_one(
    vae: Vae, pixels: mx.array, warnings: list[str], parts: Parts
) -> tuple[Floats, Floats]:
    precision = _precision(vae)
    name = str(precision).removeprefix("mlx.core.")
    pair = _encoded(vae, pixels, parts)
    if precision != mx.float32 and not np.isfinite(pair).all():
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


def _encoded(vae: Vae, pixels: mx.array, parts: Parts) -> tuple[Floats, Floats]:
    """Mean and deviation of a picture."""
    mean, deviation = vae.posterior(mx.array(_moments(vae, pixels, parts)))
    return np.array(mean), np.array(deviation)


def _moments(vae: Vae, pixels: mx.array, parts: Parts = None) -> Floats:
    """The moments of a picture; tiles are blended as moments, as diffusers does."""
    if isinstance(parts, Tile):
        sides = (*pixels.shape[1:3], parts.pixels, parts.latents)
        return in_tiles(*sides, lambda y, x: _moments(vae, pixels[:, y, x]))
    pixels = pixels.astype(_precision(vae))
    walk = None if parts is None else StripWalk(parts.numbers)
    return np.array(vae.moments(pixels) if walk is None else walk.moments(vae, pixels))


def _precision(vae: Vae) -> mx.Dtype:
    return vae.decoder.conv_in.weight.dtype
