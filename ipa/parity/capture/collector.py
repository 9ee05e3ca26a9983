"""A tap that keeps stages, whole or as sketches, within a budget of bytes."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from ipa.arrays import Floats
from ipa.errors import CaptureError

from .choice import ALWAYS, Choice, begins_second_step
from .sketch import WIDTH, Kept, Sketch, as_sketch

HALF_BIT = 2.0**-11
"""Half of the last bit of a float16: what rounding changes of a number at most, relatively."""

_HEADER_BYTES = 1 << 14
"""Bytes of a file that are not about single stages."""

_STAGE_BYTES = 320
"""For what a file's header says of a stage, but for its name, which stands there twice: shape,
moments, checksum, floors in one precision."""


class Collector:
    """A tap (`ipa.backend.tap.Tap`) that keeps stages in `stages`, in their order.

    Changes nothing of the run. Memory, and the file, stay within the budget, if there is one. Of
    equal rows one is kept: backends differ in whether they compute such rows once.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.stages: dict[str, Kept] = {}
        self._seen: dict[str, None] = {}
        self._whole: list[tuple[int, int, str]] = []  # a heap: the largest first, then the earliest
        self._bytes, self._is_checked = _HEADER_BYTES, False

    def wants(self, stage: str) -> bool:
        """See `Tap`. Raises RequestError once a pattern is known to match nothing."""
        bare = stage.partition("@")[0]
        if not self._is_checked and begins_second_step(bare):
            self.choice.check_begun(self._seen)
            self._is_checked = True
        self._seen[bare] = None
        return self.choice.wants(bare)

    def __call__(self, stage: str, array: Floats) -> None:
        """See `Tap`. Raises CaptureError where not even sketches are within the budget."""
        if len(array) > 1 and (array == array[:1]).all():
            array = array[:1]
        values = Sketch.of(array) if self._sketches(stage, array) else stored(array, self.choice)
        self.stages[stage] = values
        self._bytes += values.nbytes + 2 * len(stage) + _STAGE_BYTES
        if stage not in ALWAYS and not isinstance(values, Sketch) and array.size > WIDTH:
            heapq.heappush(self._whole, (-values.nbytes, len(self.stages), stage))
        self._keep_within()

    def check(self) -> None:
        """Raise RequestError, after the run, for a pattern or a step that nothing was of."""
        self.choice.check_ended(self._seen)

    @property
    def sketched(self) -> int:
        """How many stages are sketches."""
        return sum(isinstance(values, Sketch) for values in self.stages.values())

    def _sketches(self, stage: str, array: Floats) -> bool:
        return self.choice.sketched and stage not in ALWAYS and array.size > WIDTH

    def _keep_within(self) -> None:
        limit = self.choice.max_bytes
        while limit is not None and self._bytes > limit:
            if not self._whole:
                raise CaptureError(
                    "max_bytes has no room even for sketches",
                    found=f"{limit} bytes for {len(self.stages)} stages and more to come",
                    remedy="choose fewer stages or steps, or allow more",
                )
            *_, stage = heapq.heappop(self._whole)
            self._bytes -= self.stages[stage].nbytes
            self.stages[stage] = as_sketch(self.stages[stage])
            self._bytes += self.stages[stage].nbytes


def stored(array: Floats, choice: Choice) -> npt.NDArray[np.floating]:
    """An array as a capture stores it, contiguous."""
    if choice.dtype == "float16":
        with np.errstate(over="ignore", invalid="ignore"):
            half = array.astype(np.float16)
            lost = np.linalg.norm((half.astype(np.float32) - array).reshape(-1))
            if lost <= HALF_BIT * np.linalg.norm(array.reshape(-1)):  # False for NaN, infinity
                return np.ascontiguousarray(half)
    return np.ascontiguousarray(array, np.float32)
