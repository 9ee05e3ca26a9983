"""The small parts that every network here is made of. Pictures are (B, H, W, C)."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ipa.backend.text import Sizes
from ipa.model.clip import Activation
from ipa.model.unet import Addition

from ..device import COMPILED_KERNEL, device, evaluate, tracer
from .unfolding import convolved, is_unfolded

# Numbers in the matrix that a convolution on a CPU makes of its input: more than the first go in
# strips, each of about the second (measured at 256² pixels: 1.5 times faster).
_MOST_NEIGHBOURS = 1 << 25
_STRIP_NEIGHBOURS = 5 << 20

F = TypeVar("F", bound=Callable[..., mx.array])


def fused(function: F) -> F:
    """Compile an elementwise function where kernels are fused on a GPU.

    On the CPU, MLX would start a C++ compiler for each of them, for no gain in speed.
    """
    compiled = mx.compile(function, shapeless=True)

    @functools.wraps(function)
    def call(*arrays: mx.array) -> mx.array:
        if not device().is_gpu:
            return function(*arrays)
        traced = tracer()
        return (compiled if traced is None else traced.kernel(COMPILED_KERNEL, function))(*arrays)

    return cast("F", call)


def has_fast_exp(x: mx.array) -> bool:
    """Whether MLX's exp is vectorised here: not in its Linux CPU wheel (14 ns a number)."""
    is_wheel = sys.platform == "linux" and not device().is_gpu
    return not (is_wheel and x.dtype == mx.float32)


def exp(x: mx.array) -> mx.array:
    """The exponential eˣ; where exp is slow, a power of 2: as exact, in a third of the time."""
    return mx.exp(x) if has_fast_exp(x) else mx.power(2.0, x * math.log2(math.e))


def sigmoid(x: mx.array) -> mx.array:
    """The sigmoid 1 / (1 + e⁻ˣ)."""
    return mx.sigmoid(x) if has_fast_exp(x) else 1 / (1 + exp(-x))


@fused
def silu(x: mx.array) -> mx.array:
    """The SiLU activation x · sigmoid(x)."""
    return x * sigmoid(x)


@fused
def quick_gelu(x: mx.array) -> mx.array:
    """OpenAI CLIP's activation, x · sigmoid(1.702 x)."""
    return x * sigmoid(1.702 * x)


@fused
def gelu(x: mx.array) -> mx.array:
    """The exact GELU x Φ(x): OpenCLIP's, GEGLU's and the projectors'."""
    if has_fast_exp(x):
        return x * (1 + mx.erf(x * (1 / math.sqrt(2)))) * 0.5
    size = mx.abs(x)
    return mx.maximum(x, 0) - size * _normal_tail(size)


def _normal_tail(x: mx.array) -> mx.array:
    """The tail Φ(−x) for x ≥ 0, by Abramowitz and Stegun 7.1.26.

    GELU is 7.6e-8 from float64 with it and 8.0e-8 with MLX's erf, which takes three times as long.
    """
    t = 1 / (1 + (0.3275911 / math.sqrt(2)) * x)
    series = mx.array(1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = series * t + factor
    return 0.5 * series * t * exp(-0.5 * x * x)


ACTIVATIONS: dict[Activation, Callable[[mx.array], mx.array]] = {
    "quick_gelu": quick_gelu,
    "gelu": gelu,
}


@fused
def geglu(value: mx.array, gate: mx.array) -> mx.array:
    """value · gelu(gate)."""
    return value * gelu(gate)


class Convolution(nn.Conv2d):
    """A 3×3 convolution with a border of zeros, size kept.

    On a CPU, MLX writes every pixel's nine neighbours out, nine times the picture. Large pictures
    go in strips of rows: the same sums, and a strip stays in the cache. Each is evaluated at once:
    MLX would give all of them their memory before it computes the first (measured: nine pictures
    instead of two and a half).
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, H, W, inputs) to (B, H, W, outputs)."""
        return self.of_rows(x)

    def of_rows(self, x: mx.array, *, above: int = 1, below: int = 1) -> mx.array:
        """Some rows of a picture, with a border of zeros at its sides.

        Args:
            x: The rows, and the neighbours above and below that the picture has.
            above: 1 where the picture begins with these rows, else 0.
            below: 1 where it ends with them.
        """
        batch, height, width, channels = x.shape
        row = batch * width * 9 * channels
        if device().is_gpu or height * row <= _MOST_NEIGHBOURS:
            if above and below:
                if is_unfolded(x, len(self.weight)):
                    return convolved(x, self.weight, self.bias if "bias" in self else None)
                return super().__call__(x)
            x = mx.pad(x, [(0, 0), (above, below), (0, 0), (0, 0)])
            return self._biased(mx.conv2d(x, self.weight, padding=(0, 1)))
        rows, made = max(1, _STRIP_NEIGHBOURS // row), height + above + below - 2
        strips = [
            self._strip(x, top - above, min(top + rows, made) - above + 2)
            for top in range(0, made, rows)
        ]
        return mx.concatenate(strips, axis=1)

    def _strip(self, x: mx.array, top: int, end: int) -> mx.array:
        """What is made of some rows of the input, evaluated; rows beyond it are zeros."""
        above, below = max(-top, 0), max(end - x.shape[1], 0)
        rows = x[:, top + above : end - below]
        strip = mx.conv2d(mx.pad(rows, [(0, 0), (above, below), (1, 1), (0, 0)]), self.weight)
        strip = self._biased(strip)
        evaluate(strip)
        return strip

    def _biased(self, x: mx.array) -> mx.array:
        return x + self.bias if "bias" in self else x


class FeedForward(nn.Module):
    """GEGLU: W₂ (value · gelu(gate)); the first half of proj_in's rows gives the values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, 8 * width)
        self.proj_out = nn.Linear(4 * width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, L, C) to the same."""
        value, gate = mx.split(self.proj_in(x), 2, axis=-1)
        return self.proj_out(geglu(value, gate))


class Sinusoid(nn.Module):
    """Diffusers' `Timesteps`: a number as sines and cosines, a module so that it can be watched."""

    def __init__(self, width: int, *, flip_sin_to_cos: bool, freq_shift: float) -> None:
        super().__init__()
        self.width, self.flip, self.shift = width, flip_sin_to_cos, freq_shift

    def __call__(self, number: float | mx.array) -> mx.array:
        """(1, width) in float32; an array is taken for that already."""
        if isinstance(number, mx.array):
            return number
        row = sinusoid(number, self.width, flip_sin_to_cos=self.flip, freq_shift=self.shift)
        return mx.array(row)


class TimestepEmbedding(nn.Module):
    """The timestep's sinusoid through two linear layers."""

    def __init__(
        self,
        width: int,
        time_width: int,
        guidance_width: int | None = None,
        *,
        flip_sin_to_cos: bool,
        freq_shift: float,
    ) -> None:
        super().__init__()
        self.time_proj = Sinusoid(width, flip_sin_to_cos=flip_sin_to_cos, freq_shift=freq_shift)
        self.linear_1 = nn.Linear(width, time_width)
        self.linear_2 = nn.Linear(time_width, time_width)
        if guidance_width is not None:
            self.cond_proj = nn.Linear(guidance_width, width, bias=False)

    def __call__(self, timestep: float | mx.array, guidance: mx.array | None = None) -> mx.array:
        """A timestep in [0, 1000), and what `cond_proj` made of guidance, to (1, time_width).

        An array is the timestep's sinusoid, (1, width) in float32.
        """
        x = self.time_proj(timestep).astype(self.linear_1.weight.dtype)
        if guidance is not None:
            x = x + guidance
        return self.linear_2(silu(self.linear_1(x)))


class AddedEmbedding(nn.Module):
    """SDXL's pooled text and sinusoids of six numbers through two linear layers."""

    def __init__(
        self, spec: Addition, time_width: int, *, flip_sin_to_cos: bool, freq_shift: float
    ) -> None:
        super().__init__()
        self.width, self.flip, self.shift = spec.time_width, flip_sin_to_cos, freq_shift
        self.linear_1 = nn.Linear(spec.width, time_width)
        self.linear_2 = nn.Linear(time_width, time_width)

    def __call__(self, pooled: mx.array, sizes: Sequence[Sizes]) -> mx.array:
        """Pooled text (R, P) and R sizes to (R, time_width)."""
        x = mx.concatenate([pooled, mx.concatenate([self._row(entry) for entry in sizes])], axis=1)
        return self.linear_2(silu(self.linear_1(x)))

    def _row(self, sizes: Sizes) -> mx.array:
        parts = [
            sinusoid(number, self.width, flip_sin_to_cos=self.flip, freq_shift=self.shift)
            for number in sizes.numbers
        ]
        return mx.array(np.concatenate(parts, axis=1)).astype(self.linear_1.weight.dtype)


def sinusoid(
    timestep: float, width: int, *, flip_sin_to_cos: bool, freq_shift: float
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Diffusers' `get_timestep_embedding` for one timestep, in numpy: (1, width).

    Rounded to float32 where diffusers rounds, each function exact before its rounding: at 1000, one
    bit of a frequency moves an angle by 6e-5. MLX's own encoding is 2e-4 away from diffusers',
    which would be most of the error of a whole UNet.
    """
    half = width // 2
    exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32)
    frequencies = np.exp(np.float64(exponent / np.float32(half - freq_shift))).astype(np.float32)
    angles = np.float64(frequencies * np.float32(timestep))
    parts = (
        [np.cos(angles), np.sin(angles)] if flip_sin_to_cos else [np.sin(angles), np.cos(angles)]
    )
    row = np.concatenate(parts).astype(np.float32)
    return np.pad(row, (0, width % 2))[None]


def upsample_nearest(x: mx.array) -> mx.array:
    """Upsample (B, H, W, C) to (B, 2H, 2W, C), each pixel four times."""
    batch, height, width, channels = x.shape
    x = mx.broadcast_to(x[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)
