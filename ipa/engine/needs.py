"""What a job needs loaded: a model, and what stands beside it, as values that can be compared."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from ipa.errors import RequestError, shown
from ipa.memory.budget import Budget
from ipa.pipeline.adapter_lists import LoadOptions as AdapterOptions
from ipa.pipeline.loading import LoadOptions
from ipa.sources.controls import ControlNetOptions, T2IAdapterOptions
from ipa.sources.hub import FileOptions

Given: TypeAlias = "str | Path | Part | Mapping[str, Any]"
"""A part as people write it: "SOURCE", "NAME=SOURCE", or an object."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing that is loaded beside a model.

    Attributes:
        verb: The end of the pipeline's methods that load and unload it.
        options: The keywords that loading it takes.
        has_scale: Whether it has a scale of its own.
    """

    verb: str
    options: frozenset[str]
    has_scale: bool = False


_FILE = frozenset(FileOptions.__annotations__)
KINDS: Mapping[str, Kind] = {
    "adapters": Kind(
        "ip_adapter", _FILE | frozenset(AdapterOptions.__annotations__), has_scale=True
    ),
    "controlnets": Kind("controlnet", frozenset({*ControlNetOptions.__annotations__, "ignore"})),
    "t2i_adapters": Kind("t2i_adapter", frozenset(T2IAdapterOptions.__annotations__)),
    "loras": Kind("lora", _FILE | {"fuse", "ignore"}, has_scale=True),
    "textual_inversions": Kind("textual_inversion", _FILE),
}
"""The kinds by the name of the field that lists them."""

MODEL_OPTIONS = frozenset({"backend", "dtype", "device", "quantize", *LoadOptions.__annotations__})
"""The keywords of `ipa.load`."""


@dataclass(frozen=True, slots=True)
class Part:
    """A thing to load beside a model.

    Attributes:
        source: Where it is: a file, a folder, a name on the hub, a short name.
        name: What requests call it; None takes its own. Of a learned word: the word.
        scale: Of an adapter or a LoRA: how strongly it acts where a request does not say; 1.
        options: The other keywords with which it is loaded, as of `Pipeline.load_…`.
    """

    source: str
    name: str | None = None
    scale: Any = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def is_same(self, other: Part) -> bool:
        """Whether it is loaded from one place in one way under one name, at whatever scale."""
        mine, its = ((part.source, part.name, dict(part.options)) for part in (self, other))
        return mine == its


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a job needs loaded.

    Attributes:
        model: As for `ipa.load`.
        options: The other keywords of `ipa.load`.
        adapters: IP-Adapters.
        controlnets: ControlNets.
        t2i_adapters: T2I-Adapters.
        loras: LoRAs.
        textual_inversions: Learned words.
    """

    model: str = "demo"
    options: Mapping[str, Any] = field(default_factory=dict)
    adapters: tuple[Part, ...] = ()
    controlnets: tuple[Part, ...] = ()
    t2i_adapters: tuple[Part, ...] = ()
    loras: tuple[Part, ...] = ()
    textual_inversions: tuple[Part, ...] = ()

    @classmethod
    def of(cls, given: str | Path | Needs | Mapping[str, Any]) -> Needs:
        """Needs as people write them: a model's name, or an object with what else is needed.

        Raises:
            RequestError: A name in it is not known, or a value is of the wrong kind.
        """
        if isinstance(given, Needs):
            return given
        if isinstance(given, (str, Path)):
            return cls(model=_text("model", given))
        if not isinstance(given, Mapping):
            raise RequestError(
                "what a job needs is a model's name or an object",
                found=shown(given),
                remedy='write "demo", or {"model": "demo", "adapters": ["demo:base"]}',
            )
        _check_names("what a job needs", given, {"model", *KINDS, *MODEL_OPTIONS})
        parts = {name: _parts(name, given.get(name, ()), kind) for name, kind in KINDS.items()}
        options = {name: value for name, value in given.items() if name in MODEL_OPTIONS}
        return cls(model=_text("model", given.get("model", "demo")), options=options, **parts)

    @property
    def key(self) -> tuple[str, str]:
        """What tells one loaded model from another."""
        told = {name: value for name, value in self.options.items() if value is not None}
        return self.model, repr(sorted(told.items()))

    def parts(self) -> Mapping[str, tuple[Part, ...]]:
        """The parts by their kind."""
        return {name: getattr(self, name) for name in KINDS}

    def to_json(self) -> dict[str, Any]:
        """The object that `of` takes."""
        return {
            "model": self.model,
            **self.options,
            **{
                name: [_part_to_json(part) for part in parts]
                for name, parts in self.parts().items()
            },
        }


def _part_to_json(part: Part) -> dict[str, Any]:
    told = {"source": part.source, "name": part.name, "scale": part.scale}
    bare = {item.name: item.default for item in fields(Part)}
    return {k: v for k, v in told.items() if v != bare[k]} | dict(part.options)


def _parts(name: str, given: Any, kind: Kind) -> tuple[Part, ...]:
    if isinstance(given, (str, Path, Mapping, Part)):
        given = (given,)
    if not isinstance(given, Sequence):
        raise RequestError(
            f"{name} must be a list",
            found=shown(given),
            remedy=f'such as {{"{name}": ["NAME=SOURCE"]}}',
        )
    return tuple(_part(name, one, kind) for one in given)


def _part(name: str, given: Any, kind: Kind) -> Part:
    if isinstance(given, Part):
        return given
    if isinstance(given, Path):
        return Part(str(given))
    if isinstance(given, str) and given:
        called, equals, source = given.partition("=")
        return Part(source, called) if equals and not Path(given).exists() else Part(given)
    if not isinstance(given, Mapping) or "source" not in given:
        raise RequestError(
            f"an entry of {name} says what to load",
            found=shown(given),
            remedy='"SOURCE", "NAME=SOURCE", or {"source": …, "name": …}',
        )
    known = {"source", "name", *(("scale",) if kind.has_scale else ()), *kind.options}
    _check_names(f"an entry of {name}", given, known)
    label = given.get("name")
    options = {key: value for key, value in given.items() if key in kind.options}
    return Part(
        _text(f"source in {name}", given["source"]),
        None if label is None else _text(f"name in {name}", label),
        given.get("scale", 1.0),
        options,
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, (str, Path)) or not str(value):
        raise RequestError(f"{name} must be a text", found=shown(value))
    return str(value)


def _check_names(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), sorted(known), 1)
            raise RequestError(
                f"{where} has no {shown(name)}",
                found=shown(name),
                remedy=f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}",
            )


def load_model(needs: Needs, budget: Budget = None, *, lazy: bool = False) -> Any:
    """Load the model of some needs, alone; see `ipa.load`.

    Args:
        needs: With a budget of their own, or without.
        budget: The `memory_budget` where they have none.
        lazy: Whether weights are read when they are first used, where needs say nothing of it.
    """
    beside = {"memory_budget": budget, "lazy": lazy or None}
    options = {k: v for k, v in beside.items() if v is not None} | dict(needs.options)
    return importlib.import_module("ipa.pipeline.loading").load(needs.model, **options)
