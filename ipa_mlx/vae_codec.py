"""The VAE as a run uses it: one picture at a time, large ones in tiles, in float32 where half
precision overflows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import mlx.core as mx
import numpy as np

from ipa.arrays import Floats
from ipa.backend.tiling import Tile, Tiling, in_tiles
from ipa.errors import NumericalError

from .networks.vae import Vae

_FRUGAL_CACHE = 128 << 20  # bytes


def decode(
    vae: Vae, latents: mx.array, warnings: list[str], *, wide: bool, tiling: Tiling
) -> Floats:
    """Latents (N, h, w, C) to pictures (N, H, W, 3) in [0, 1].

    Args:
        vae: The autoencoder, whose weights' precision is that of the computation.
        latents: As the UNet sees them.
        warnings: Is told where a picture overflowed in half precision and was decoded again.
        wide: Decode in float32 at once.
        tiling: Which pictures to decode in tiles.

    Raises:
        NumericalError: A picture has NaN or infinite pixels in float32 too.
    """
    tile = tiling.of_latents(*latents.shape[1:3], warnings)
    with frugal() if tile else nullcontext(), widened(vae) if wide else nullcontext():
        pictures = [
            _decode_one(vae, latents[i : i + 1], warnings, tile) for i in range(len(latents))
        ]
    return np.concatenate(pictures)


def encode(
    vae: Vae, pixels: mx.array, warnings: list[str], *, wide: bool, tiling: Tiling
) -> tuple[Floats, Floats]:
    """Pictures (N, H, W, 3) in [-1, 1] to mean and deviation (N, C, h, w); see `decode`."""
    tile = tiling.of_pixels(*pixels.shape[1:3])
    with frugal() if tile else nullcontext(), widened(vae) if wide else nullcontext():
        pairs = [_encode_one(vae, pixels[i : i + 1], warnings, tile) for i in range(len(pixels))]
    mean, deviation = (
        np.concatenate(rows).transpose(0, 3, 1, 2) for rows in zip(*pairs, strict=True)
    )
    return np.ascontiguousarray(mean), np.ascontiguousarray(deviation)


@contextmanager
def frugal() -> Iterator[None]:
    """A context that keeps few freed buffers: tiles are for memory, not for the last of speed."""
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


def _decode_one(vae: Vae, latents: mx.array, warnings: list[str], tile: Tile | None) -> Floats:
    precision = _precision(vae)
    name = str(precision).removeprefix("mlx.core.")
    picture = _decoded(vae, latents, tile)
    if precision != mx.float32 and not np.isfinite(picture).all():
        warnings.append(f"the VAE overflowed in {name}: decoded again in float32")
        with widened(vae):
            picture = _decoded(vae, latents, tile)
    if not np.isfinite(picture).all():  # before the clip, which hides infinity
        raise NumericalError(
            "the decoded picture has NaN or infinite pixels",
            found=f"dtype {name}",
            remedy='check the VAE\'s weights, or load with dtype="float32"',
        )
    return np.clip(picture * 0.5 + 0.5, 0.0, 1.0)


def _decoded(vae: Vae, latents: mx.array, tile: Tile | None = None) -> Floats:
    if tile is None:
        return np.array(vae.decode(latents.astype(_precision(vae))).astype(mx.float32))
    _, height, width, _ = latents.shape
    return in_tiles(
        height, width, tile.latents, tile.pixels, lambda y, x: _decoded(vae, latents[:, y, x])
    )


def _encode_one(
    vae: Vae, pixels: mx.array, warnings: list[str], tile: Tile | None
) -> tuple[Floats, Floats]:
    precision = _precision(vae)
    name = str(precision).removeprefix("mlx.core.")
    pair = _encoded(vae, pixels, tile)
    if precision != mx.float32 and not np.isfinite(pair).all():
        warnings.append(f"the VAE overflowed in {name}: encoded again in float32")
        with widened(vae):
            pair = _encoded(vae, pixels, tile)
    if not np.isfinite(pair).all():
        raise NumericalError(
            "the encoded picture has NaN or infinite latents",
            found=f"dtype {name}",
            remedy='check the VAE\'s weights, or load with dtype="float32"',
        )
    return pair


def _encoded(vae: Vae, pixels: mx.array, tile: Tile | None) -> tuple[Floats, Floats]:
    """Moments of a picture; tiles are blended as moments, as diffusers does."""
    _, height, width, _ = pixels.shape
    moments = (
        _moments(vae, pixels)
        if tile is None
        else in_tiles(
            height, width, tile.pixels, tile.latents, lambda y, x: _moments(vae, pixels[:, y, x])
        )
    )
    mean, deviation = vae.posterior(mx.array(moments))
    return np.array(mean), np.array(deviation)


def _moments(vae: Vae, pixels: mx.array) -> Floats:
    return np.array(vae.moments(pixels.astype(_precision(vae))))


def _precision(vae: Vae) -> mx.Dtype:
    return vae.decoder.conv_in.weight.dtype
