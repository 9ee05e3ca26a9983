"""`ipa-mlx doctor`: does this machine compute what was recorded, and how fast?"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TypeVar

from ipa.app.terminal import ProgressBar
from ipa.errors import Cancelled, IpaError
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.environment import environment
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.limits import FACTOR, Limits
from ipa.parity.recorded import Recorded, arguments, hold, open_demo, recorded
from ipa.pipeline.loading import choose_backend
from ipa.pipeline.loading import environment as environment_of
from ipa.pipeline.pipeline import Pipeline
from ipa.watching import CancelSignal

from .bench import Wish, measured
from .diagnosis import Check, Diagnosis, Speed
from .notes import has_tf32, notes

T = TypeVar("T")

STEPS = 2
"""The steps of a run whose speed is measured."""

TOTAL = 2 * (8 + STEPS)
"""The steps of a whole examination, for its progress bar."""

_TF32 = "MLX_ENABLE_TF32"
_FAILURES = (IpaError, RuntimeError, OSError, ImportError)
"""Exceptions that a faulty machine causes; any other is a bug, and keeps its trace."""


class Sick(Exception):  # noqa: N818 - the machine is, not the program
    """Raised when a check failed after which others mean nothing; that check is recorded."""


@dataclass(frozen=True, slots=True)
class Examination:
    """The checks of a machine, one after another, with their outcomes and speeds."""

    backend: str
    device: str | None
    bar: ProgressBar
    cancel: CancelSignal | None
    checks: list[Check] = field(default_factory=list)
    speeds: list[Speed] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Run all checks. Raises Sick."""
        self._checked("backend", self._backend)
        record = self._checked("recorded run", self._recorded)
        made = self._precision("float32", record, record.capture)
        self._precision("float16", record, made)

    def _checked(self, name: str, found: Callable[[], tuple[str, T]]) -> T:
        """Run one check, record it, and return what it made."""
        self.bar.describe(name)
        try:
            sentence, made = found()
        except Cancelled:
            raise
        except _FAILURES as error:
            self.checks.append(Check(name, False, str(error) or type(error).__name__))
            raise Sick from error
        self.checks.append(Check(name, True, sentence))
        return made

    def _backend(self) -> tuple[str, None]:
        chosen = choose_backend(self.backend)
        facts = environment_of(chosen)  # loads its framework, which then has facts to tell
        self.facts.update(environment({}) | facts)
        if self.device is not None:
            self.facts["device"] = self.device
        return f"{chosen} on {self.facts['device']}", None

    def _recorded(self) -> tuple[str, Recorded]:
        record = recorded()
        return f"{len(record.capture.stages)} stages of {record.capture.header.side.name}", record

    def _precision(self, dtype: str, record: Recorded, reference: Capture) -> Capture:
        """Compare a run in this precision with a reference, and measure its speed."""
        name = f"demo in {dtype}"
        pipe = self._checked(f"{name} loads", lambda: _opened(self.backend, dtype, self._device))
        found, made = self._checked(name, lambda: ("", self._held(pipe, record, reference)))
        self.checks[-1] = Check(name, _good(found), found.verdict.sentence, found)
        self.bar.describe(f"speed in {dtype}")
        self.speeds.append(Speed("demo, 64²", dtype, self._seconds(pipe)))
        return made

    def _held(
        self, pipe: Pipeline, record: Recorded, reference: Capture
    ) -> tuple[Comparison, Capture]:
        limits = self._limits(str(pipe.info()["dtype"]), record)
        return hold(
            pipe,
            reference,
            limits,
            inputs=record.capture,
            on_progress=self.bar,
            cancel=self.cancel,
        )

    def _limits(self, dtype: str, record: Recorded) -> Limits:
        """The limits on stages; with TF32 products they are float16's."""
        if dtype == "float32" and self.backend == "mlx" and has_tf32(self.facts):
            return Limits("float16", record.floors["float16"], FACTOR)
        return record.limits(dtype)

    @property
    def _device(self) -> str | None:
        """The device argument; MLX takes none."""
        return self.device if self.backend == "torch" else None

    def _seconds(self, pipe: Pipeline) -> float:
        call = arguments() | {"num_inference_steps": STEPS}
        result = pipe(**call, on_progress=self.bar, cancel=self.cancel)
        return float(result.info["timings_s"]["denoise"]) / STEPS


def examine(
    backend: str | None,
    device: str | None,
    bar: ProgressBar,
    cancel: Event | None = None,
    *,
    bench: Wish | None = None,
) -> Diagnosis:
    """Run all checks of a backend; with `bench` also measure the speed of models of true size.

    Raises:
        BackendError: None is installed, or there is none of that name.
        Cancelled: `cancel` was set.
    """
    began = time.perf_counter()
    chosen = choose_backend(backend)
    is_set_off = _exact(chosen)
    of = Examination(chosen, device, bar, cancel)
    try:
        of.run()
    except Sick:
        bar.describe("ended early")
    if is_set_off:
        del os.environ[_TF32]  # what is timed runs as it usually does
    found = None
    if bench is not None and "device" in of.facts:
        left = bench.limit - (time.perf_counter() - began)
        found = measured(replace(bench, limit=max(left, 0.0)), chosen, of.facts, bar, cancel)
    return Diagnosis(
        backend=chosen,
        facts=of.facts,
        checks=tuple(of.checks),
        notes=tuple(notes(chosen, of.facts, tf32_set_off=is_set_off)),
        speeds=tuple(of.speeds),
        bench=found,
        seconds=time.perf_counter() - began,
    )


def _opened(backend: str, dtype: str, device: str | None) -> tuple[str, Pipeline]:
    began = time.perf_counter()
    pipe = open_demo(backend, dtype, device)
    return f"in {time.perf_counter() - began:.1f} s", pipe


def _good(found: Comparison) -> bool:
    """Whether a comparison has nothing bad, and nothing left out."""
    return found.ok and not found.only_a


def _exact(backend: str) -> bool:
    """Switch MLX's TF32 off for this program unless the user chose; returns whether it did."""
    if backend != "mlx" or _TF32 in os.environ or "mlx.core" in sys.modules:
        return False
    os.environ[_TF32] = "0"
    return True
