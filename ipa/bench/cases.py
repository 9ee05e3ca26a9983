"""What is measured: a program, a stage, and what it is run on."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ipa.errors import BackendError, RequestError, shown

from .public import ADAPTERS

STAGES = ("text", "image", "condition", "step", "decode", "encode", "generation")
"""The stages of a run, and all of them together."""

VARIANTS = ("torch-channels-last", "torch-compiled")
"""The torch backend with its networks otherwise in memory, or compiled: to be measured alone."""

OURS = ("mlx", "torch", *VARIANTS)
"""The backends of this project."""

THEIRS = ("diffusers",)
"""Other programs that need no path."""

_NAME = re.compile(r"[\w.-]+")
_WITH_ADAPTERS = ("condition", "step", "generation")
_DONE_BY_DIFFUSERS = ("text", "image", "step", "decode", "encode", "generation")
_DONE_BY_PEERS = ("step", "decode", "encode")
_USUAL = {"mlx": "mlx", "torch": "torch", "diffusers": "diffusers"}
_NEEDS = _USUAL | dict.fromkeys(VARIANTS, "torch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One arm of a measurement.

    Attributes:
        program: One of `OURS` or `THEIRS`, or the name of a peer, whose `path` is given.
        stage: One of `STAGES`.
        base: A base model of `public.BASES`, with random weights of its true size.
        model: A model of one's own instead: a folder, a file, a name on the hub.
        width: Of the picture, in pixels; and so on.
        batch: Pictures at once.
        adapters: Image prompts, each with an adapter of its own.
        adapter: Their kind, "base" or "plus".
        steps: Of a generation.
        dtype: As `ipa.load` takes it.
        device: Likewise.
        path: Of a peer: a folder with its package, or a Python file.
        settings: Environment variables of its process.
    """

    program: str
    stage: str
    base: str = "sd15"
    model: str | None = None
    width: int = 512
    height: int = 512
    batch: int = 1
    adapters: int = 0
    adapter: str = "base"
    steps: int = 1
    dtype: str | None = None
    device: str | None = None
    path: str | None = None
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def framework(self) -> str:
        """The framework that computes it: "mlx" or "torch"."""
        return "torch" if self.program in ("torch", *VARIANTS, *THEIRS) else "mlx"

    @property
    def name(self) -> str:
        """The arm in words: "mlx sd15 step 512², 1 base adapter"."""
        size = f"{self.width}²" if self.width == self.height else f"{self.width} × {self.height}"
        model = self.base if self.model is None else Path(self.model).name
        words = [f"{self.program} {model} {self.stage} {size}"]
        words += [f"{self.steps} steps"] if self.stage == "generation" else []
        words += [f"batch {self.batch}"] if self.batch > 1 else []
        words += [self.dtype] if self.dtype else []
        if self.stage == "image":
            words.append(f"for a {self.adapter} adapter")
        elif self.adapters:
            words.append(f"{self.adapters} {self.adapter} adapter{'s' * (self.adapters > 1)}")
        words += [f"{name}={value}" for name, value in self.settings]
        return ", ".join(words)

    def plain(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self) | {"settings": dict(self.settings)}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Case:
        """The case that `plain` described."""
        known = {field.name: plain[field.name] for field in fields(cls)}
        return cls(**known | {"settings": tuple(known["settings"].items())})


Group = tuple[Case, ...]
"""Cases that one process measures in turn."""


def grouped(cases: Iterable[Case]) -> list[Group]:
    """Cases by the processes that measure them.

    Ours that differ in adapters alone share one, since processes differ by more than an adapter
    costs; any other has its own, or what one leaves in memory would be the other's time.
    """
    groups: dict[object, list[Case]] = {}
    for case in dict.fromkeys(cases):
        shares = case.program in OURS and case.stage in ("condition", "step")
        key = replace(case, adapters=0, adapter=ADAPTERS[0]) if shares else case
        groups.setdefault((shares, key), []).append(case)
    return [tuple(group) for group in groups.values()]


def baseline(case: Case, cases: Sequence[Case]) -> Case | None:
    """The case that another one's time is told by, if there is one.

    Without adapters, where it has some; else the same of the first program.
    """
    if case.adapters and case.stage in _WITH_ADAPTERS:
        plain = replace(case, adapters=0, adapter=ADAPTERS[0])
        return next((c for c in cases if replace(c, adapter=ADAPTERS[0]) == plain), None)
    same = (c for c in cases if _apart_from_program(c) == _apart_from_program(case))
    first = next(same, case)
    return None if first == case else first


def _apart_from_program(case: Case) -> Case:
    return replace(case, program="", path=None, adapter=case.adapter if case.adapters else "")


def known_programs(peers: Mapping[str, Path]) -> list[str]:
    """The programs that can be measured here: installed ones, and the peers that were given."""
    installed = [name for name, module in _USUAL.items() if importlib.util.find_spec(module)]
    return [*installed, *peers]


def check_program(name: str, peers: Mapping[str, Path]) -> None:
    """Raise an error that says why a program cannot be measured here.

    Raises:
        RequestError: It is unknown.
        BackendError: What it needs is not installed.
    """
    if name in peers:
        return
    if name not in _NEEDS:
        raise RequestError(
            "there is no such arm",
            found=shown(name),
            remedy=f"one of {', '.join(_NEEDS)}, or a program of your own: --peer {name}=PATH",
        )
    if importlib.util.find_spec(_NEEDS[name]) is None:
        raise BackendError(
            f"the arm {name} needs {_NEEDS[name]}", remedy="install it, or leave the arm out"
        )


def check_peer(name: str, path: Path) -> None:
    """Raise RequestError for a peer's name that is taken, or a path where nothing is."""
    if name in _NEEDS or not _NAME.fullmatch(name):
        raise RequestError(
            "a peer needs a name of its own",
            found=shown(name),
            remedy=f"letters, digits, . and -; {', '.join(_NEEDS)} are taken",
        )
    if not path.exists():
        raise RequestError(f"the peer {name} is not there", found=f"nothing at {path}")
    known = (path / "diffuse_mlx", path / "stable_diffusion")
    if path.suffix != ".py" and not any(folder.is_dir() for folder in known):
        raise RequestError(
            f"{path} has no program that is known here",
            found="neither a folder diffuse_mlx nor stable_diffusion in it",
            remedy="name the folder that has the package, or a Python file with open_stage(…)",
        )


def does(case: Case) -> bool:
    """Whether a program does a stage by itself, with so many adapters."""
    if case.program in OURS:
        return True
    if case.program in THEIRS:
        done = case.stage in _DONE_BY_DIFFUSERS
        return done and (not case.adapters or case.stage == "step")
    is_own = Path(str(case.path)).suffix == ".py"
    known = is_own or (case.base != "demo" and case.model is None)
    return known and case.stage in _DONE_BY_PEERS and not case.adapters
