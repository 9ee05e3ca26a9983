"""The names of the stages of a run that can be watched; each kind has a row in `stage_table`.

A name is "<phase>/<path>". Phases, in the order of a run: "encode" (a picture to start from),
"start", "text.positive", "text.negative", "image.N" (image prompt N), "condition" (what all steps
share), "step.NNN" (one evaluation of the UNet and what is made of it), "decode". A path is a result
of the phase ("latents"), or a module of a network by diffusers' or transformers' own name for it,
less "text_model.", "vision_model." and "encoder." of CLIP's. Where a module runs more than once in
a phase, "@2" and so on tell its later runs: of the picture that stands for none, for one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from types import MappingProxyType

from ipa.errors import RequestError

from .stage_table import BLOCK, LISTS, MODULES, NETWORKS, RESULTS, Level, StageKind

START = "start/latents"
PICTURE = "decode/image"

PHASES = (
    (r"encode", "while the starting picture is encoded"),
    (r"start", "before the first step"),
    (r"text\.(\w+)", "while the {0} text is encoded"),
    (r"image\.(\d+)", "while image prompt {0} is encoded"),
    (r"condition", "while what all steps share is computed"),
    (r"step\.0*(\d+)", "at step {0}"),
    (r"decode", "while the picture is decoded"),
)
"""Patterns of the phases, in the order of a run, and when a stage of each is computed."""

INPUTS: Mapping[str, str] = MappingProxyType(dict(k.input_of for k in MODULES if k.input_of))
"""Names of the inputs that are stages of their own, by the end of the module's name."""

PLACE = re.compile(rf"\.(?:{BLOCK}(?:\.(?=[a-z])|$)|(?:{'|'.join(LISTS)})\.\d+(?:\.(?=[a-z])|$))+")
"""A pattern for a module's place in a network."""


def kind_of(name: str) -> StageKind | None:
    """The row of a stage ("step.000/latents@2") or a module ("unet.conv_in"), None without."""
    whole = name.partition("@")[0]
    return _module_kind(whole.rpartition("/")[2]) or _result_kind(whole)


@cache  # of a module's path, which has no step: there are few, and each is asked for often
def _module_kind(path: str) -> StageKind | None:
    return next((kind for kind in MODULES if kind.explain(path) is not None), None)


@cache
def _result_kind(name: str) -> StageKind | None:
    return next((kind for kind in RESULTS if kind.explain(name) is not None), None)


def explain_stage(name: str) -> str:
    """A stage in words: "image prompt 0's branch of cross-attention, in the UNet".

    Of a name that nobody knows, that it is a stage; a later run of a module in the same phase is
    told by its number. The phase is `explain_phase`'s part.
    """
    whole, _, run = name.partition("@")
    again = f" (run {run} in its phase)" if run else ""
    kind = kind_of(whole)
    return f"{_words(whole) if kind is None else kind.explain(whole)}{again}"


def _words(stage: str) -> str:
    """What can be said of a stage that the table does not have."""
    for network in NETWORKS:
        found = re.match(rf"{network.pattern}\.", split(stage)[1])
        if found is not None and network.words:
            return f"a part, {network.words.format(*found.groups())}"
    return "a stage of the run"


def explain_phase(name: str) -> str:
    """A phase in words: "at step 12"; "in <phase>" for one that is not known."""
    phase = name.partition("/")[0]
    for pattern, words in PHASES:
        found = re.fullmatch(pattern, phase)
        if found is not None:
            return words.format(*found.groups())
    return f"in {phase}"


def ancestry(stage: str) -> tuple[str, str, str]:
    """The phase, block and layer of a stage, each whole; "" where it belongs to none."""
    phase, path = split(stage)
    for network in NETWORKS:
        if network.block is None:
            continue
        block = re.match(rf"{network.pattern}{network.block}(?=[.@]|$)", path)
        if block is not None:
            layer = re.compile(rf"\.(?:{network.layer})(?=[.@]|$)").match(path, block.end())
            return phase, block[0], path[: layer.end()] if layer else ""
    return phase, "", ""


def input_of(path: str, inputs: Mapping[str, str] = INPUTS) -> str | None:
    """The name of a module's input; None where that is no stage."""
    for end, name in inputs.items():
        head = path.removesuffix(end)
        if head != path and head[-1:] in {"", "."}:
            return head + name if kind_of(head + name) else None
    return None


def is_sequence(path: str) -> bool:
    """Whether a map is told as a sequence (B, H·W, C): diffusers' modules differ in that."""
    kind = kind_of(path)
    return kind is not None and kind.is_sequence


def split(stage: str) -> tuple[str, str]:
    """A stage's phase and path."""
    phase, _, path = stage.partition("/")
    return phase, path


def step_of(stage: str) -> int | None:
    """The number of a stage's step, None outside of steps."""
    found = re.match(r"step\.(\d+)/", stage)
    return int(found[1]) if found else None


def level_of(stage: str) -> Level:
    """The level of a stage: how deep it is."""
    kind = kind_of(stage)
    return "operation" if kind is None else kind.level


def chosen(patterns: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """The known stages that a pattern matches ("*" and "?" are any characters, "/" too).

    Raises:
        RequestError: A pattern matches nothing; the nearest names are told.
    """
    names = list(known)
    found: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            near = difflib.get_close_matches(pattern, names, 3, 0.3)
            raise RequestError(
                f"no stage is called {pattern!r}",
                found=f"{len(names)} stages",
                remedy=f"the nearest: {', '.join(near)}"
                if near
                else "see ipa/backend/stage_table.py",
            )
        found.update(matched)
    return frozenset(found)
