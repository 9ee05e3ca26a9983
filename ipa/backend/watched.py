"""A backend whose stages are told to a tap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np

from ipa.arrays import Array, Floats
from ipa.errors import ParityError, RequestError

from .protocol import Backend, Branch, ImageTokens
from .schedule import Step
from .stages import kind_of
from .tap import Tap
from .text import Sizes, TextStates

T = TypeVar("T")


class Emitter:
    """An `Emit` that adds the phase to a stage's name, and calls a tap."""

    def __init__(self, tap: Tap) -> None:
        self._tap, self._phase, self._rows = tap, "", 0
        self._counts: Counter[str] = Counter()
        self._shared: dict[str, Floats | None] = {}
        self.is_half = False
        """Whether the conditional half alone is computed now, of a guided run."""

    @contextmanager
    def phase(self, name: str, rows: int = 0) -> Iterator[None]:
        """A context: all stages inside belong to this phase.

        Rows of a module's result after the first `rows` are told as those of another run of it: a
        backend may run it once for pictures and for none, or twice.
        """
        before, self._phase, self._rows = (self._phase, self._rows), name, rows
        try:
            yield
        finally:
            self._phase, self._rows = before

    def wants(self, name: str) -> bool:
        """See `ipa.backend.tap.Emit`."""
        kind = kind_of(f"{self._phase}/{name}")
        if kind is None:
            return False
        phase = "condition" if kind.is_shared else self._phase
        return bool(phase) and self._tap.wants(f"{phase}/{name}")

    def __call__(self, name: str, array: Floats) -> Floats | None:
        """See `ipa.backend.tap.Emit`."""
        kind = kind_of(f"{self._phase}/{name}")
        if kind is not None and kind.is_shared:
            stage = f"condition/{name}"
            if stage not in self._shared:
                if self.is_half:
                    return None  # both halves are told at a guided step
                self._shared[stage] = self._ask(stage, array)
            shared = self._shared[stage]
            return shared if shared is None or not self.is_half else shared[-len(array) :]
        if not self._rows or len(array) <= self._rows:
            return self._ask(self._numbered(name), array)
        parts = [array[: self._rows], array[self._rows :]]
        instead = [self._ask(self._numbered(name), part) for part in parts]
        if all(part is None for part in instead):
            return None
        return np.concatenate(
            [given if new is None else new for given, new in zip(parts, instead, strict=True)]
        )

    def _ask(self, stage: str, array: Floats) -> Floats | None:
        """Call the tap; its answer may have one row for all, as backends differ in that."""
        instead, shape = self._tap(stage, array), array.shape
        if instead is None or instead.shape == shape:
            return instead
        if instead.shape[1:] == shape[1:] and 1 in (len(instead), shape[0]):
            return np.broadcast_to(instead[:1], shape).copy()
        raise ParityError(
            f"{stage}: what is to stand in for it does not fit",
            found=f"{instead.shape}, needed {shape}",
            remedy="take both from runs of the same request",
        )

    def _numbered(self, name: str) -> str:
        stage = f"{self._phase}/{name}"
        self._counts[stage] += 1
        count = self._counts[stage]
        return stage if count == 1 else f"{stage}@{count}"


class Watched:
    """`ipa.backend.protocol.Backend`, one run long: what its methods give is told, too."""

    def __init__(self, backend: Backend, tap: Tap) -> None:
        self._backend, self._emit = backend, Emitter(tap)
        self._texts, self._prompts, self._steps = 0, 0, 0
        self._half: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def hooked(self) -> AbstractContextManager[None]:
        """A context in which every module that runs is watched."""
        return self._backend.taps.hooked(self._emit)

    def encode_text(self, *args: Any) -> TextStates:
        """See `Backend`. The positive text is encoded first."""
        phase = "text.negative" if self._texts else "text.positive"
        self._texts += 1
        with self._emit.phase(phase):
            return self._told(self._backend.encode_text(*args))

    def encode_images(self, adapter: str, pixels: Floats) -> tuple[Floats, Floats]:
        """See `Backend`."""
        with self._emit.phase(f"image.{self._prompts}", len(pixels)):
            pixels = self._array("pixels", pixels)
            conditional, unconditional = self._backend.encode_images(adapter, pixels)
            return (
                self._array("features.conditional", conditional),
                self._array("features.unconditional", unconditional),
            )

    def project(self, adapter: str, conditional: Floats, *args: Any) -> ImageTokens:
        """See `Backend`."""
        with self._emit.phase(f"image.{self._prompts}", len(conditional)):
            tokens = self._backend.project(adapter, conditional, *args)
            self._prompts += 1
            return self._told(tokens, "tokens.")

    def condition(
        self, text: Sequence[TextStates], branches: Sequence[Branch], **options: Any
    ) -> Any:
        """See `Backend`."""
        with self._emit.phase("condition"):
            if options.get("sizes"):
                options["sizes"] = self._sizes(options["sizes"])
            return self._told(self._backend.condition(text, branches, **options))

    def encode(self, pixels: Floats) -> tuple[Floats, Floats]:
        """See `Backend`."""
        with self._emit.phase("encode"):
            mean, deviation = self._backend.encode(pixels)
            return self._array("mean", mean), self._array("deviation", deviation)

    def conditional(self, conditioning: Any) -> Any:
        """See `Backend`."""
        self._half = self._backend.conditional(conditioning)
        return self._half

    def predict(
        self, latents: Array, step: Step, conditioning: Any, *args: Any, **options: Any
    ) -> Array:
        """See `Backend`."""
        self._emit.is_half = conditioning is self._half
        with self._emit.phase(self._step):
            if not self._steps:
                with self._emit.phase("start"):
                    latents = self._told(latents, "latents")
            timestep = self._array("timestep", np.array([[step.timestep]], np.float32))
            if timestep[0, 0] != np.float32(step.timestep):
                step = replace(step, timestep=float(timestep[0, 0]))
            output = self._backend.predict(latents, step, conditioning, *args, **options)
            return self._told(output, "prediction")

    def guide(self, *args: Any) -> Array:
        """See `Backend`."""
        with self._emit.phase(self._step):
            return self._told(self._backend.guide(*args), "guided")

    def advance(self, *args: Any) -> tuple[Array, Array, Array]:
        """See `Backend`."""
        with self._emit.phase(self._step):
            latents, denoised, memory = self._backend.advance(*args)
            denoised, latents = self._told(denoised, "denoised"), self._told(latents, "latents")
        self._steps += 1
        return latents, denoised, memory

    def decode(self, latents: Array) -> Floats:
        """See `Backend`."""
        with self._emit.phase("decode"):
            return self._array(
                "image", self._backend.decode(latents).transpose(0, 3, 1, 2)
            ).transpose(0, 2, 3, 1)

    def _sizes(self, sizes: Sequence[Sizes]) -> Sequence[Sizes]:
        numbers = np.array([one.numbers for one in sizes], np.float32)
        array = self._array("sizes", numbers)
        if np.array_equal(array, numbers):
            return sizes
        rows = [[int(number) for number in row] for row in array]
        return [Sizes.of_numbers(row) for row in rows]

    @property
    def _step(self) -> str:
        return f"step.{self._steps:03d}"

    def _array(self, name: str, array: Floats) -> Floats:
        if not self._emit.wants(name):
            return array
        instead = self._emit(name, array)
        return array if instead is None else instead

    def _told(self, value: T, prefix: str = "") -> T:
        """A method's return value, with stages replaced by the tap's answers."""
        taps = self._backend.taps
        instead: dict[str, Floats] = {}
        for name, array in taps.read(value).items():
            if self._emit.wants(prefix + name):
                other = self._emit(prefix + name, array)
                if other is not None:
                    instead[name] = other
        return cast(T, taps.written(value, instead)) if instead else value


def watched(
    backend: Backend, tap: Tap | None, count: int
) -> tuple[Backend, AbstractContextManager[None]]:
    """The backend of a run of `count` pictures; within the context, its modules tell, too.

    Raises:
        RequestError: More than one picture is to be made: their stages have the same names.
    """
    if tap is None:
        return backend, nullcontext()
    if count != 1:
        raise RequestError(
            "stages are watched of one picture at a time",
            found=f"{count} pictures",
            remedy="one prompt, and num_images=1",
        )
    if backend.vae_memory in ("strips", None):
        backend = copy(backend)
        backend.vae_memory = "whole"  # in strips, a module has no output of its own
    proxy = Watched(backend, tap)
    return cast(Backend, proxy), proxy.hooked()
