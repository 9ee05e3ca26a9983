"""A VAE that overflows in half precision is decoded again in float32, and says so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import ipa
from ipa.sources.model_folder import open_model_folder
from ipa_mlx import backend as mlx_backend
from oracle.measure import relative


@pytest.mark.parametrize("memory", ["whole", "strips", 32])
def test_overflow_is_retried_in_float32(tiny: Path, memory: str | int) -> None:
    """Latents of 1e4 give activations beyond 65504."""
    model = open_model_folder(tiny, name="tiny")
    half, single = (mlx_backend.load(model, dtype=dtype) for dtype in ("float16", "float32"))
    latents = np.full((1, 4, 3, 4), 2e4, dtype=np.float32)
    latents[:, :, 1] *= -1
    for runtime in (half, single):
        runtime.vae_memory = memory
        runtime.vae.decoder.conv_in.weight = runtime.vae.decoder.conv_in.weight * 8
    found = half.decode(half.from_numpy(latents))
    assert half.describe()["warnings"] == [
        "the VAE overflowed in float16: decoded again in float32"
    ]
    expected = single.decode(single.from_numpy(latents))
    assert relative(found, expected) < 1e-2  # the weights themselves were rounded to float16
    half.reset()
    half.decode(half.from_numpy(latents * 0))
    assert half.describe()["warnings"] == []


def test_other_threads_decode_after_a_retry(tiny: Path) -> None:
    """Lazy arrays may not cross threads in MLX: the weights must be what they were before."""
    runtime = mlx_backend.load(open_model_folder(tiny, name="tiny"), dtype="float16")
    latents = np.full((1, 4, 3, 4), 2e4, dtype=np.float32)
    latents[:, :, 1] *= -1
    runtime.vae.decoder.conv_in.weight = runtime.vae.decoder.conv_in.weight * 8
    mx.eval(runtime.vae.parameters())
    runtime.decode(runtime.from_numpy(latents))
    assert runtime.describe()["warnings"]
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: runtime.decode(runtime.from_numpy(latents * 0))).result()


@pytest.mark.parametrize("memory", ["whole", "strips"])
def test_infinity_is_not_clipped_away(tiny: Path, memory: str) -> None:
    runtime = mlx_backend.load(open_model_folder(tiny, name="tiny"), dtype="float32")
    runtime.vae_memory = memory
    latents = np.full((1, 4, 3, 4), 3e38, dtype=np.float32)
    with pytest.raises(ipa.NumericalError, match="NaN or infinite"):
        runtime.decode(runtime.from_numpy(latents))
