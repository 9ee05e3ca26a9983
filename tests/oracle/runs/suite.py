"""Runs of one kind."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oracle import models, trajectories
from oracle.judged import Judged, judged
from oracle.scipy_stand_in import scipy_or_stand_in
from oracle.workshop import Workshop

Array = np.ndarray[Any, np.dtype[np.float32]]
Limits = Mapping[str, float]

LIMITS: Limits = {"torch": 1e-5, "mlx": 1e-4}
"""Relative L2 from diffusers that no evaluation of any suite may have, by backend."""


@dataclass(frozen=True)
class Suite:
    """A table of cases, with what diffusers makes of one and what a backend does.

    Attributes:
        title: What they show.
        cases: By name; of any type that both sides know.
        theirs: The final latents of diffusers' own pipeline.
        ours: The same of ours, on the backend of that name.
        files: The model of a case and all that is loaded beside it: what `theirs` reads.
        more: Cases for the parity table alone: the tests have no time for them.
        limits: Relative L2 that the final latents may have, by backend; what was measured over all
            cases is said beside them.
    """

    title: str
    cases: Mapping[str, Any]
    theirs: Callable[[Any, Workshop], Array]
    ours: Callable[[Any, Workshop, str], Array]
    files: Callable[[Any, Workshop], Sequence[Path]]
    more: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=lambda: LIMITS)

    @property
    def all(self) -> dict[str, Any]:
        """Every case."""
        return {**self.cases, **self.more}

    def expected(self, case: Any, workshop: Workshop, known: Judged | None = None) -> Array:
        """The same as `theirs`, which may have run some days ago: see `oracle.judged`."""
        files = self.files(case, workshop)

        def judge() -> Array:
            with workshop.asked() as read:
                found = self.theirs(case, workshop)
            assert all(
                any(path.is_relative_to(file) or file.is_relative_to(path) for file in files)
                for path in read
            ), f"{self.title}: `files` names not all of {sorted(read)}"
            return found

        return (known or judged()).get(judge, (self.title, self.theirs, case), files)


def folder_of(title: str, tinies: Mapping[str, models.Tiny], name: str, workshop: Workshop) -> Any:
    """A suite's model by name; each has weights of its own."""
    return workshop.model(f"{title}/{name}", tinies[name], seed=list(tinies).index(name))


def parts(place: Path, nets: Container[str], own: Sequence[str]) -> list[Path]:
    """A model that has others' nets beside its own in the same folder, without those."""
    inside = sorted(place.iterdir())
    return [path for path in inside if path.name in own or path.name not in nets]


def of_trajectories(
    title: str,
    tinies: Mapping[str, models.Tiny],
    cases: Mapping[str, trajectories.Case],
    shared: Mapping[str, Any],
    more: Mapping[str, trajectories.Case] | None = None,
    limits: Limits = LIMITS,
) -> Suite:
    """A suite of text and image prompts over some models; `shared` are arguments of all cases."""

    def theirs(case: trajectories.Case, workshop: Workshop) -> Array:
        folder = folder_of(title, tinies, case.model, workshop)
        with scipy_or_stand_in():
            return trajectories.theirs(case, folder, workshop.references, shared)

    def ours(case: trajectories.Case, workshop: Workshop, backend: str) -> Array:
        folder = folder_of(title, tinies, case.model, workshop)
        pipe = workshop.pipeline(folder, backend, *case.adapters)
        return trajectories.ours(case, pipe, workshop.references, shared)

    def files(case: trajectories.Case, workshop: Workshop) -> list[Path]:
        return [folder_of(title, tinies, case.model, workshop)]

    return Suite(title, cases, theirs, ours, files, more or {}, limits)
