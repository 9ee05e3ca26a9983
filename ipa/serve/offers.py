"""What a server offers: the models, adapters and LoRAs that a client may name, and nothing else.

A client says a name; where that lies is said on the command line, or by a folder given there. So no
request makes the server read a path.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa.engine.needs import KINDS, Needs, Part
from ipa.errors import RequestError, shown
from ipa.sources.catalogue import ADAPTERS

from .faults import Fault

MODELS = "models"
FOLDERS: Mapping[str, tuple[str, ...]] = {
    MODELS: ("models", "checkpoints", "Stable-diffusion"),
    "adapters": ("adapters", "ipadapter"),
    "controlnets": ("controlnets", "controlnet", "ControlNet"),
    "t2i_adapters": ("t2i_adapters",),
    "loras": ("loras", "Lora"),
    "textual_inversions": ("textual_inversions", "embeddings"),
}
"""By kind, the folders inside a given one that hold it, ours and those of ComfyUI and A1111."""

DEFAULT_MODELS = ("dall-e-2", "dall-e-3", "gpt-image", "chatgpt-image")
"""Beginnings of OpenAI's names of models, which clients write by themselves: the first one here."""

_WEIGHTS = frozenset({".safetensors", ".ckpt", ".bin", ".pt", ".pth"})
_HASH = re.compile(r"\s*\[[0-9a-fA-F]+\]\s*$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Offers:
    """What may be named. The first of each kind is the one that is meant where none is.

    Attributes:
        models: By name, what is to be loaded for it.
        parts: By kind, then by name, what may stand beside it.
    """

    models: Mapping[str, Needs]
    parts: Mapping[str, Mapping[str, Part]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )

    @classmethod
    def of(
        cls,
        models: Sequence[str] = ("demo",),
        parts: Mapping[str, Sequence[str]] | None = None,
        folder: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Offers:
        """Offers from what a command line says.

        Args:
            models: "SOURCE" or "NAME=SOURCE", as for `ipa.load`.
            parts: By kind, the same.
            folder: Its sub-folders (`FOLDERS`) are offered too.
            options: Keywords of `ipa.load` for every model.

        Raises:
            RequestError: The folder is none, or two things of a kind have one name.
        """
        told = {MODELS: list(models), **{kind: list((parts or {}).get(kind, ())) for kind in KINDS}}
        found = {} if folder is None else _in_folder(folder)
        named = {
            kind: _named(kind, [*map(_split, entries), *found.get(kind, ())])
            for kind, entries in told.items()
        }
        if not named[MODELS]:
            raise RequestError("a server needs a model to offer", remedy="--model demo")
        return cls(
            models={
                name: Needs(model=source, options=dict(options or {}))
                for name, source in named.pop(MODELS).items()
            },
            parts={
                kind: {name: Part(source, name) for name, source in entries.items()}
                for kind, entries in named.items()
            },
        )

    def model(self, name: str | None) -> str:
        """The name of the model that is meant. Raises Fault if there is none such."""
        first = next(iter(self.models))
        if not name or name.startswith(DEFAULT_MODELS):
            return first
        return self._found("model", name, self.models, code="model_not_found")

    def part(self, kind: str, name: str | None) -> str:
        """The name of the part of a kind that is meant. Raises Fault if there is none such."""
        offered = self.parts[kind]
        if not name and offered:
            return next(iter(offered))
        return self._found(kind, name or "", offered, code="not_offered")

    def has(self, kind: str, name: str) -> bool:
        """Whether a name, however it is spelled, is one of a kind."""
        return _match(name, self.parts[kind], _spellings(self.parts[kind])) is not None

    def needs(self, model: str, parts: Mapping[str, Sequence[Part]]) -> Needs:
        """What a job needs loaded that has these parts."""
        chosen = self.models[model]
        return Needs(
            model=chosen.model,
            options=chosen.options,
            **{kind: tuple(parts.get(kind, ())) for kind in KINDS},
        )

    def _found(self, kind: str, name: str, offered: Mapping[str, Any], code: str) -> str:
        spelled = _spellings(offered) if kind != "model" else {}
        found = _match(name, offered, spelled)
        if found is not None:
            return found
        near = difflib.get_close_matches(name, offered, 1, 0.4)
        known = ", ".join(offered) or "none"
        raise Fault(
            404 if kind == "model" else 422,
            f"this server offers no {kind.replace('_', ' ').rstrip('s')} of that name",
            field=kind,
            found=shown(name),
            remedy=(f"did you mean {near[0]}? " if near else "") + f"Offered: {known}",
            code=code,
        )


def _match(name: str, offered: Mapping[str, Any], spelled: Mapping[str, str]) -> str | None:
    """The offered name that a text means: A1111's hash behind it and its case do not count."""
    bare = _HASH.sub("", name)
    if bare in offered:
        return bare
    plain = {one.lower(): one for one in offered}
    return plain.get(bare.lower()) or spelled.get(bare.lower())


def _spellings(offered: Mapping[str, Part]) -> dict[str, str]:
    """The stems of files, and of those that a short name stands for, with offered names."""
    return {
        _stem(source).lower(): name
        for name, part in reversed([*offered.items()])
        for source in (part.source, getattr(ADAPTERS.get(part.source), "path", part.source))
    }


def _split(text: str) -> tuple[str, str]:
    """The name and the source of "SOURCE" or "NAME=SOURCE"."""
    name, equals, source = text.partition("=")
    if equals and not Path(text).exists():
        return name, source
    return _stem(text), text


def _stem(source: str) -> str:
    """What a source is called: of a path its last part without ending, of "demo:base" "base"."""
    last = Path(source.rpartition(":")[2] or source)
    return last.stem if last.suffix.lower() in _WEIGHTS else last.name


def _in_folder(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """What lies in the sub-folders of a folder, by kind: files of weights, and folders."""
    if not folder.is_dir():
        raise RequestError("there is no such folder of models", found=str(folder))
    found: dict[str, dict[Path, str]] = {kind: {} for kind in FOLDERS}
    for kind, names in FOLDERS.items():
        for path in (p for name in names for p in sorted((folder / name).glob("*"))):
            is_model = path.is_dir() and kind in (MODELS, "controlnets", "t2i_adapters")
            if is_model or path.suffix.lower() in _WEIGHTS:
                found[kind][path.resolve()] = _stem(path.name)
    return {kind: [(name, str(path)) for path, name in one.items()] for kind, one in found.items()}


def _named(kind: str, entries: Sequence[tuple[str, str]]) -> dict[str, str]:
    made: dict[str, str] = {}
    for name, source in entries:
        if not name or made.setdefault(name, source) != source:
            raise RequestError(
                f"two of the {kind.replace('_', ' ')} that are offered have one name",
                found=f"{name}: {made.get(name)} and {source}",
                remedy="name them apart: NAME=SOURCE",
            )
    return made
