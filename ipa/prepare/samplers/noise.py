"""The noise that `torch.Generator("cpu").manual_seed(seed)` draws, computed without torch.

Facts from ATen: `CPUGeneratorImpl.cpp` (the words of MT19937), `DistributionTemplates.h`
(`normal_fill`, `normal_fill_16`) and `DistributionsHelper.h` (`normal_distribution<double>`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ipa.arrays import Doubles, Floats
from ipa.errors import RequestError, shown

_BLOCK = 16  # values per Box–Muller block of `normal_fill`, and the least count that takes it


_HALF = _BLOCK // 2


class NoiseStream:
    """Standard normal draws in the order and with the values of torch's CPU generator."""

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise RequestError("seed must be an integer", found=shown(seed))
        if not 0 <= seed < 2**64:
            raise RequestError("seed must be from 0 to 2**64 - 1", found=str(seed))
        self._words = np.random.MT19937()
        # torch seeds MT19937 with the low 32 bits, by the same init_genrand as RandomState.
        np.random.RandomState(self._words).seed(int(seed) & 0xFFFFFFFF)
        self._spare: float | None = None

    def normal(self, shape: Sequence[int]) -> Floats:
        """The next `torch.randn(shape, generator=…, dtype=torch.float32)`."""
        sides = tuple(shape)
        if any(isinstance(s, bool) or not isinstance(s, (int, np.integer)) or s < 0 for s in sides):
            raise RequestError("a shape must hold integers that are not negative", found=f"{sides}")
        count = int(np.prod(sides, dtype=np.int64))
        values = self._blocks(count) if count >= _BLOCK else self._pairs(count)
        return values.astype(np.float32).reshape(sides)

    def normal_by_pairs(self, shape: Sequence[int]) -> Floats:
        """The next `torch.randn_like` of a float32 tensor that is not contiguous.

        torch draws its values one after the other, in double precision, in the order in which the
        tensor lies in memory; `shape` is its shape in that order.
        """
        return self._pairs(int(np.prod(shape))).astype(np.float32).reshape(tuple(shape))

    def uniform(self, shape: Sequence[int]) -> Floats:
        """The next `torch.rand(shape, generator=…, dtype=torch.float32)`."""
        return self._uniform24(int(np.prod(shape))).astype(np.float32).reshape(tuple(shape))

    def _blocks(self, count: int) -> Doubles:
        """torch's `normal_fill`: Box–Muller in blocks of 16; the last 16 may be drawn anew."""
        uniforms = self._uniform24(count)
        whole = count - count % _BLOCK
        values = np.empty(count)
        values[:whole] = _box_muller(uniforms[:whole])
        if whole < count:
            values[-_BLOCK:] = _box_muller(self._uniform24(_BLOCK))
        return values

    def _pairs(self, count: int) -> Doubles:
        """torch's `normal_distribution<double>`: cosine first; the sine waits for the next draw."""
        left = [] if self._spare is None else [self._spare]
        angle, radius = self._uniform53(2 * max(0, (count - len(left) + 1) // 2)).reshape(-1, 2).T
        theta = 2.0 * np.pi * angle
        length = np.sqrt(-2.0 * np.log1p(-radius))
        drawn = np.stack([length * np.cos(theta), length * np.sin(theta)], axis=1).reshape(-1)
        values = np.concatenate([left, drawn])
        self._spare = float(values[count]) if len(values) > count else None
        return values[:count]

    def _uniform24(self, count: int) -> Doubles:
        """Float32 uniforms in [0, 1): the low 24 bits of one word each."""
        words = self._words.random_raw(count) & np.uint64(0xFFFFFF)
        return words.astype(np.float64) * 2.0**-24

    def _uniform53(self, count: int) -> Doubles:
        """Double uniforms in [0, 1): the low 53 bits of two words, the high word drawn first."""
        words = self._words.random_raw(2 * count).reshape(count, 2)
        joined = (words[:, 0] << np.uint64(32)) | words[:, 1]
        return (joined & np.uint64(2**53 - 1)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True, slots=True)
class Share:
    """The share of a call's pictures that one run makes, if one generator draws for all.

    Attributes:
        count: The pictures of the whole call.
        first: The number of the run's first one.
        one_source: Whether all start from the same picture, whose posterior is drawn from once.
    """

    count: int
    first: int = 0
    one_source: bool = True


class OwnStreams:
    """A generator for each picture of a run."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [NoiseStream(seed) for seed in seeds]

    def rows(self, shape: Sequence[int]) -> Floats:
        """The next draw of every picture, (N, …)."""
        return np.concatenate([stream.normal((1, *shape)) for stream in self._streams])

    def source_rows(self, shape: Sequence[int]) -> Floats:
        """The next draw for the posteriors of each start picture."""
        return self.rows(shape)


class SharedStream:
    """A generator that draws for all pictures of a call, some of which this run makes.

    As torch draws (N, C, H, W): the values are those of a draw for each picture after the other
    only where a picture has a multiple of 16 of them.
    """

    def __init__(self, seed: int, count: int, share: Share) -> None:
        self._stream, self._count, self._share = NoiseStream(seed), count, share

    def rows(self, shape: Sequence[int]) -> Floats:
        """The run's share, (N, …), of the next draw."""
        drawn = self._stream.normal((self._share.count, *shape))
        return drawn[self._share.first :][: self._count]

    def source_rows(self, shape: Sequence[int]) -> Floats:
        """The run's share of one draw for each start picture."""
        if not self._share.one_source:
            return self.rows(shape)
        return self._stream.normal((1, *shape)).repeat(self._count, axis=0)


Streams: TypeAlias = "SharedStream | OwnStreams"
"""The noise streams of a run's pictures: their own, or a shared one."""


def _box_muller(uniforms: Doubles) -> Doubles:
    """torch's `normal_fill_16`: the first 8 of a block give the radii, its last 8 the angles.

    The angle is rounded to float32 as in torch's code for AVX2 and wider: that alone moves a value
    by up to 1e-6. Its code for other processors rounds another product, up to 2.2e-6 from this.
    """
    blocks = uniforms.reshape(-1, 2, _HALF)
    radius = np.sqrt(-2.0 * np.log(1.0 - blocks[:, 0]))
    theta = (np.float32(2.0 * np.pi) * blocks[:, 1].astype(np.float32)).astype(np.float64)
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1).reshape(-1)
