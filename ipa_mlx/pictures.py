"""The VAE as a run uses it: one picture at a time, in float32 where half precision overflows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import mlx.core as mx
import numpy as np

from ipa.contract.backend import Floats
from ipa.contract.errors import NumericalError

from .vae import Vae


def decode(vae: Vae, latents: mx.array, warnings: list[str], *, wide: bool) -> Floats:
    """Latents (N, h, w, C) to pictures (N, H, W, 3) in [0, 1].

    Args:
        vae: The autoencoder, whose weights' precision is that of the computation.
        latents: As the UNet sees them.
        warnings: Is told where a picture overflowed in half precision and was decoded again.
        wide: Decode in float32 at once.

    Raises:
        NumericalError: A picture has NaN or infinite pixels in float32 too.
    """
    with widened(vae) if wide else nullcontext():
        pictures = [_decode_one(vae, latents[i : i + 1], warnings) for i in range(len(latents))]
    return np.concatenate(pictures)


def encode(vae: Vae, pixels: mx.array, *, wide: bool) -> mx.array:
    """Pictures (N, H, W, 3) in [-1, 1] to latents (N, h, w, C) in float32, evaluated."""
    with widened(vae) if wide else nullcontext():
        latents = vae.encode(pixels.astype(_precision(vae))).astype(mx.float32)
        mx.eval(latents)
    return latents


@contextmanager
def widened(vae: Vae) -> Iterator[None]:
    """Compute in float32 inside; afterwards the weights are the very same arrays as before."""
    kept = vae.parameters()
    vae.set_dtype(mx.float32)
    try:
        yield
    finally:
        vae.update(kept)


def _decode_one(vae: Vae, latents: mx.array, warnings: list[str]) -> Floats:
    precision = _precision(vae)
    name = str(precision).removeprefix("mlx.core.")
    picture = _decoded(vae, latents)
    if precision != mx.float32 and not np.isfinite(picture).all():
        warnings.append(f"the VAE overflowed in {name}: decoded again in float32")
        with widened(vae):
            picture = _decoded(vae, latents)
    if not np.isfinite(picture).all():  # before the clip, which hides infinity
        raise NumericalError(
            "the decoded picture has NaN or infinite pixels",
            found=f"dtype {name}",
            remedy='check the VAE\'s weights, or load with dtype="float32"',
        )
    return np.clip(picture * 0.5 + 0.5, 0.0, 1.0)


def _decoded(vae: Vae, latents: mx.array) -> Floats:
    return np.array(vae.decode(latents.astype(_precision(vae))).astype(mx.float32))


def _precision(vae: Vae) -> mx.Dtype:
    return vae.decoder.conv_in.weight.dtype
