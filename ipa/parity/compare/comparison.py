"""The result of comparing two runs; reports are made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ipa.parity.capture.capture import Side

from .measures import Difference
from .verdict import Verdict, verdict_of

Mode: TypeAlias = Literal["free-running", "teacher-forced"]


@dataclass(frozen=True, slots=True)
class Pictures:
    """The final pictures, (H, W, 3) uint8 each, and how alike they are.

    `ssim` is 1 for equal ones; `clip_cosine` is of their embeddings by the run's own image encoder,
    None where there is none.
    """

    a: npt.NDArray[np.uint8]
    b: npt.NDArray[np.uint8]
    psnr_db: float
    ssim: float
    clip_cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Swap:
    """b's run with one component of a's: `relative_l2` is how far its picture is from a's."""

    component: str
    relative_l2: float


@dataclass(frozen=True)
class Comparison:
    """A comparison of b with a: `differences` are in the order of computation.

    `only_a` and `only_b` are stages that the other run does not have. `unswapped` is the relative
    L2 of the pictures that each of `swaps` is to be held against. `notes` are what a reader of the
    numbers must know: what could not be seen, and why.
    """

    a: Side
    b: Side
    mode: Mode
    request: Mapping[str, Any]
    differences: tuple[Difference, ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    pictures: Pictures | None = None
    swaps: tuple[Swap, ...] = ()
    unswapped: float | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict on b."""
        return verdict_of(
            self.a.name, self.b.name, self.differences, len(self.only_a) + len(self.only_b)
        )

    @property
    def first_bad(self) -> Difference | None:
        """The first stage beyond its limit; None where all is well."""
        return self.verdict.first

    @property
    def ok(self) -> bool:
        """Whether something was compared, and nothing is bad."""
        return self.verdict.ok
