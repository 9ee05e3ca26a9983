"""The files of a repository that are needed: it may hold several precisions, of gigabytes each.

Every function takes the names of all files of a repository, as paths from its root.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase

from ipa.errors import CheckpointError
from ipa.model.files import STEMS, weight_names

MODEL_INDEX, CONFIG = "model_index.json", "config.json"
_CONFIGS = (
    MODEL_INDEX,
    "*/config.json",
    "*/scheduler_config.json",
    "*/preprocessor_config.json",
    "tokenizer/*",
    "tokenizer_2/*",
)
# A model is used without those that it may have been saved with.
_BESIDE = ("controlnet", "t2i_adapter")
_OPTIONAL = "image_encoder"
_SHOWN = 6


def weight_files(
    names: Collection[str], folder: str, stem: str, variant: str | None = None
) -> tuple[str, ...]:
    """The files of one component in one precision: safetensors, or else pickles.

    Args:
        names: All files.
        folder: The component's folder; empty for the root.
        stem: See `ipa.model.files.STEMS`.
        variant: "fp16" and the like; None takes the plain files.

    Returns:
        A file, or an index and its shards; nothing if there are none.
    """
    place = f"{folder}/" if folder else ""
    for single, index in weight_names(stem, variant):
        if place + single in names:
            return (place + single,)
        if place + index in names:
            return (place + index, *_shards(names, place + single, variant))
    return ()


def model_files(names: Collection[str], where: str, variant: str | None = None) -> tuple[str, ...]:
    """The files of a model: configs, tokenizers, each component's weights in one precision.

    A component that has none in that precision is taken plain, as diffusers does.

    Raises:
        CheckpointError: It is no model, a component has no weights, or none has that precision;
            `where` names the repository.
    """
    if MODEL_INDEX not in names:
        raise CheckpointError(
            f"{where} is not a model: it has no {MODEL_INDEX}",
            found=_some(names),
            remedy=f"a single file is named by its path: {where}/FILE.safetensors",
        )
    found = [n for n in names if n.count("/") < 2 and any(fnmatchcase(n, p) for p in _CONFIGS)]
    having = False
    for component, stem in STEMS.items():
        if component in _BESIDE or f"{component}/{CONFIG}" not in names:
            continue
        wanted = weight_files(names, component, stem, variant)
        weights = wanted or weight_files(names, component, stem)
        if not weights and component != _OPTIONAL:
            raise _no_precision(names, where, component, variant)
        having = having or bool(wanted)
        found += weights
    if not having:
        raise _no_precision(names, where, "", variant)
    return tuple(found)


def component_files(
    names: Collection[str], where: str, variant: str | None = None
) -> tuple[str, ...]:
    """The files of a lone network: config.json and the weights in one precision.

    Raises:
        CheckpointError: It is none, or has no weights in that precision.
    """
    if CONFIG not in names:
        raise CheckpointError(
            f"{where} is neither a model nor a component: no {MODEL_INDEX}, no {CONFIG}",
            found=_some(names),
            remedy=f"a file of it is named by its path: {where}/FILE.safetensors",
        )
    for stem in dict.fromkeys(STEMS.values()):
        if weights := weight_files(names, "", stem, variant):
            return (CONFIG, *weights)
    raise _no_precision(names, where, "", variant)


def encoder_files(names: Collection[str], folder: str) -> tuple[str, ...]:
    """The files of an image encoder: configs and weights; none if that folder has no encoder."""
    configs = [n for n in names if n.rpartition("/")[0] == folder and n.endswith("config.json")]
    return (*configs, *weight_files(names, folder, STEMS["image_encoder"])) if configs else ()


def require_file(names: Collection[str], where: str, path: str) -> None:
    """Raise CheckpointError, with the nearest names, if a repository has no such file."""
    if path not in names:
        suffix = path[path.rindex(".") :] if "." in path else ""
        alike = difflib.get_close_matches(path, names, n=3, cutoff=0.5)
        raise CheckpointError(
            f"{where} has no {path} at this revision",
            found=", ".join(alike) or _some([n for n in names if n.endswith(suffix)]),
            remedy="check the path, and revision=",
        )


def _shards(names: Collection[str], single: str, variant: str | None) -> Iterator[str]:
    """The shards of a file, in both spellings: the precision before or after the shard's number."""
    tag = re.escape(f".{variant}") if variant else ""
    stem, _, suffix = single.rpartition(".")
    stem, number = re.escape(stem.removesuffix(f".{variant}")), "-[0-9]{5}-of-[0-9]{5}"
    shard = re.compile(rf"{stem}(?:{tag}{number}|{number}{tag})\.{suffix}")
    return filter(shard.fullmatch, names)


def _no_precision(
    names: Collection[str], where: str, component: str, variant: str | None
) -> CheckpointError:
    folder = f"{component}/" if component else ""
    inside = [n for n in names if n.startswith(folder) and not n.endswith(CONFIG)]
    return CheckpointError(
        f"{where} has no {variant or 'plain'} weights{f' of {component}' if component else ''}",
        found=_some(inside) if inside else "none at all",
        remedy="variant= selects a precision, such as fp16 for *.fp16.safetensors; leave it out "
        "for plain files",
    )


def _some(names: Collection[str]) -> str:
    shown = sorted(names)[:_SHOWN]
    return ", ".join(shown) + (", …" if len(names) > _SHOWN else "") or "no files"
