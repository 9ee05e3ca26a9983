"""Which stages of a run are kept, and how."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from ipa.backend.stages import PICTURE, START, chosen, split, step_of
from ipa.errors import RequestError

StoredDtype: TypeAlias = Literal["float32", "float16"]

DTYPES: tuple[StoredDtype, ...] = ("float32", "float16")

ALWAYS = (START, PICTURE)
"""Kept whatever is chosen, and whole: the noise, without which no run can be made again, and the
picture."""

MIN_BYTES = 1 << 16
_LAST_PHASE = "decode/"
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Which stages a capture is to hold, and how.

    Attributes:
        patterns: Of whole names of stages ("step.*/unet.mid_block"); "*" and "?" are any
            characters, "/" too. Runs that are told apart by "@2" go together.
        steps: Numbers of steps, from 0; None is all.
        sketched: Whether stages are kept as sketches (`ipa.parity.capture.sketch`).
        dtype: How arrays are kept, float32 or float16. What float16 would change by more than half
            of its last bit (in L2) is kept in float32.
        max_bytes: What the file may take; the largest stages become sketches first. None is no
            limit.

    Raises:
        RequestError: One of them cannot be.
    """

    patterns: tuple[str, ...] = ("*",)
    steps: frozenset[int] | None = None
    sketched: bool = False
    dtype: StoredDtype = "float32"
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.patterns or not all(self.patterns):
            raise RequestError("no stage is chosen", remedy='a pattern such as "*", or none at all')
        if self.dtype not in DTYPES:
            raise RequestError(
                "captures are kept in float32 or float16", found=repr(self.dtype)[:80]
            )
        if self.max_bytes is not None and self.max_bytes < MIN_BYTES:
            raise RequestError(
                "max_bytes leaves no room for a stage",
                found=f"{self.max_bytes} bytes",
                remedy=f"at least {MIN_BYTES}",
            )
        if self.steps is not None and (not self.steps or min(self.steps) < 0):
            raise RequestError(
                "steps are numbers from 0",
                found=", ".join(map(str, sorted(self.steps))) or "none",
                remedy="such as 0,10,19",
            )

    def wants(self, stage: str) -> bool:
        """Whether a stage is kept; its "@2" does not matter."""
        bare = stage.partition("@")[0]
        if bare in ALWAYS:
            return True
        step = step_of(bare)
        if step is not None and self.steps is not None and step not in self.steps:
            return False
        return any(fnmatchcase(bare, pattern) for pattern in self.patterns)

    def check_begun(self, seen: Collection[str]) -> None:
        """Raise RequestError, after the first step, for a pattern that no later stage can match."""
        for pattern in self.patterns:
            fixed = _WILD.split(pattern)[0]
            if _LAST_PHASE.startswith(fixed) or fixed.startswith(_LAST_PHASE):
                continue
            first = re.sub(r"^step\.[^/]*/", "step.000/", pattern)
            if not any(fnmatchcase(name, first) for name in seen):
                chosen([pattern], seen)

    def check_ended(self, seen: Collection[str]) -> None:
        """Raise RequestError for a pattern or a step that nothing was of."""
        chosen(self.patterns, seen)
        steps = {step for name in seen if (step := step_of(name)) is not None}
        beyond = sorted((self.steps or frozenset()) - steps)
        if beyond:
            raise RequestError(
                "the run has no such step",
                found=", ".join(map(str, beyond)),
                remedy=f"steps 0 to {max(steps, default=0)}",
            )


def begins_second_step(stage: str) -> bool:
    """Whether the first step is over."""
    return split(stage)[0] in {"step.001", "decode"}
