"""The public adapters that share one structure: what only a person can tell apart.

Two files may have the same tensors and want different things. Where that changes what is computed
(a row is `decisive`), somebody must say which it is: FaceID-Plus v2 adds the face's tokens to the
resampler's and v1 does not; a Portrait-unnorm takes ArcFace's raw embedding, InstantID one of
another network, and a ControlNet besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ipa.errors import RequestError

from .adapter import AdapterSpec, Feature, Projector

_SD15, _SDXL, _ANY = 768, 2048, None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinds:
    """The public names of adapters that share one structure.

    Attributes:
        names: They, without their base, which the catalogue's short names add; the plain one first.
        is_decisive: Whether the computation depends on which of them it is.
    """

    names: tuple[str, ...]
    is_decisive: bool = False

    def suggested(self, file: str) -> str:
        """The name that a file's name suggests, or "": the last that is in it."""
        spelled = Path(file).name.lower().replace("_", "-")
        return next((n for n in reversed(self.names) if _HINTS.get(n, n) in spelled), "")

    def choose(self, given: str | None, where: str) -> str:
        """The name that a person gave, checked; "" if none was and none is needed.

        Raises:
            RequestError: It must be told and is not, or it is no name of this structure.
        """
        if given is None:
            only = self.names[0] if len(self.names) == 1 else ""
            if only or not self.is_decisive:
                return only
        elif given in self.names:
            return given
        raise RequestError(
            f"{where}: its tensors do not tell which adapter it is"
            if given is None
            else f"{where} has not the structure of a {given} adapter",
            found=f"the structure of {' and '.join(self.names) or 'no public adapter'}",
            remedy=f"pass kind= with one of {', '.join(self.names)}"
            if self.names
            else "leave kind= out",
        )


@dataclass(frozen=True, slots=True)
class _Row:
    """A structure and the public names of it; a width of None stands for any."""

    projector: Projector
    feature: Feature
    context_width: int | None
    feature_width: int | None
    has_lora: bool
    kinds: Kinds

    def fits(self, spec: AdapterSpec) -> bool:
        return (
            (self.projector, self.feature) == (spec.projector, spec.feature)
            and self.context_width in (None, spec.context_width)
            and self.feature_width in (None, spec.feature_width)
            and self.has_lora == bool(spec.lora_rank)
        )


_PLUS = Kinds(names=("plus", "plus-face", "composition"))
_FACEID_PLUS = Kinds(names=("faceid-plus", "faceid-plusv2"), is_decisive=True)
_FACE_STATES = Kinds(names=("faceid-portrait-unnorm", "instantid"), is_decisive=True)
_PORTRAIT = Kinds(names=("faceid-portrait", "faceid-portrait-v11"))

# The first row that fits counts. Files as published by h94, ostris and InstantX.
_ROWS = (
    _Row("linear", "embedding", _SD15, 1024, False, Kinds(names=("base", "light", "light-v11"))),
    _Row("linear", "embedding", _SD15, 1280, False, Kinds(names=("vit-g",))),
    _Row("linear", "embedding", _SDXL, 1280, False, Kinds(names=("base",))),
    _Row("linear", "embedding", _SDXL, 1024, False, Kinds(names=("vit-h",))),
    _Row("resampler", "states", _ANY, 1280, False, _PLUS),
    _Row("resampler", "face", _ANY, 512, False, _FACE_STATES),
    _Row("mlp", "states", _ANY, 1280, False, Kinds(names=("full-face",))),
    _Row("faceid", "face", _ANY, 512, True, Kinds(names=("faceid",))),
    _Row("faceid", "face", _SDXL, 512, False, Kinds(names=("faceid-portrait",))),
    _Row("faceid", "face", _ANY, 512, False, _PORTRAIT),
    _Row("faceid_plus", "states", _SDXL, _ANY, True, Kinds(names=("faceid-plusv2",))),
    _Row("faceid_plus", "states", _ANY, _ANY, True, _FACEID_PLUS),
    _Row("faceid_plus", "states", _ANY, _ANY, False, _FACEID_PLUS),
)
# What file names say, where that is not the kind's own name.
_HINTS = {
    "light-v11": "light-v11",
    "faceid-plusv2": "plusv2",
    "faceid-portrait-unnorm": "unnorm",
    "faceid-portrait-v11": "portrait-v11",
}


def adapter_kinds(spec: AdapterSpec) -> Kinds:
    """The public adapters of this structure; without names if there is none."""
    return next((row.kinds for row in _ROWS if row.fits(spec)), Kinds(names=()))


def identified(spec: AdapterSpec, given: str | None, where: str) -> AdapterSpec:
    """A structure with its public name, where that matters or a person gave it.

    Raises:
        RequestError: It must be told and is not; or the name is of another structure, or
            contradicts the file.
    """
    if given is None and spec.kind:
        return spec
    chosen = adapter_kinds(spec).choose(given, where)
    if spec.kind not in ("", chosen):
        raise RequestError(
            f"{where} says itself what it is",
            found=f"kind {spec.kind}, {chosen} was asked for",
            remedy="leave kind= out",
        )
    return spec.with_kind(chosen)
