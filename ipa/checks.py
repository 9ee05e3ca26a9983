"""Checks of arguments: types, numbers and names, told before anything is done with them."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeGuard, TypeVar

import numpy as np

from .errors import RequestError, shown

P = ParamSpec("P")


R = TypeVar("R")


MOST_CHARACTERS, MOST_BYTES = 4096, 255
"""The longest path, and name in it, in characters and bytes."""


# An annotation as it is written: what may be given, and how it is called.
_PLAIN: Mapping[str, tuple[type, str]] = {
    "str": (str, "a text"),
    "Path": (Path, "a path"),
    "os.PathLike[str]": (os.PathLike, "a path"),
    "bool": (bool, "True or False"),
    "None": (type(None), "None"),
}


_WORDS = dict(_PLAIN.values())


_WORDS_END = "prompt"  # how arguments are called that are texts of any length, not names or paths


_SEVERAL = (list, tuple, set, frozenset, Mapping)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: the function raises RequestError for what its annotations do not allow.

    A keyword that it does not have is Python's TypeError, as ever; one of a TypedDict, which Python
    does not look at, is a RequestError here.
    """
    signature = inspect.signature(function)
    written = {name: _plain_kinds(text) for name, text in inspect.get_annotations(function).items()}

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                names = keywords(function, name)
                _check_names(value, names)
                for key, entry in value.items():
                    check_plain(key, entry, _plain_kinds(names[key]))
            else:
                check_plain(name, value, written.get(name))
        return function(*args, **kwargs)

    return called


def keywords(function: Callable[..., Any], name: str) -> Mapping[str, str]:
    """The keys of the TypedDict that an argument `**name` is, with their annotations as written."""
    text: str = inspect.get_annotations(function)[name]
    kind = function.__globals__[text.removeprefix("Unpack[").removesuffix("]")]
    return {key: getattr(a, "__forward_arg__", str(a)) for key, a in kind.__annotations__.items()}


def check_plain(name: str, value: object, kinds: tuple[type, ...] | None) -> None:
    """Raise RequestError unless a value is of one of these kinds; None checks nothing."""
    if kinds is None:
        return
    if isinstance(value, Mapping) and Path in kinds:
        raise RequestError(
            f"{name} must be a file: tensors in memory are not taken",
            found=f"a dict of {len(value)}",
            remedy='write them first, under flat names such as "image_proj.proj.weight": '
            'safetensors.torch.save_file(tensors, "weights.safetensors"), and pass the path',
        )
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        words = [_WORDS[kind] for kind in kinds if kind is not type(None)]
        raise RequestError(
            f"{name} must be {' or '.join(words)}",
            found=f"{type(value).__name__}, {shown(value)}",
            remedy="one at a time" if isinstance(value, _SEVERAL) else "",
        )
    if isinstance(value, (str, os.PathLike)):
        _check_text(name, os.fspath(value), is_words=name.endswith(_WORDS_END))


def check_callback(name: str, given: object) -> None:
    """Raise RequestError unless a value is a function, or None."""
    if given is not None and not callable(given):
        raise RequestError(f"{name} must be a function, or None", found=type(given).__name__)


def _check_text(name: str, text: str, *, is_words: bool) -> None:
    odd = {"a NUL character": "\0" in text, "half a character": not _is_unicode(text)}
    longest = max(len(part.encode(errors="replace")) for part in text.split("/"))
    is_long = len(text) > MOST_CHARACTERS or longest > MOST_BYTES
    odd[f"{len(text)} characters"] = is_long and not is_words
    found = [words for words, is_so in odd.items() if is_so]
    if found:
        raise RequestError(f"{name} cannot be read", found=found[0])


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_names(given: Mapping[str, object], names: Mapping[str, Any]) -> None:
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            raise RequestError(
                "there is no such argument",
                found=f"{name}=",
                remedy=f"did you mean {near[0]}=?" if near else f"known: {', '.join(names)}",
            )


def _plain_kinds(annotation: str) -> tuple[type, ...] | None:
    """The types of an annotation, if all of them are plain."""
    parts = annotation.split(" | ")
    return tuple(_PLAIN[part][0] for part in parts) if _PLAIN.keys() >= {*parts} else None


def plain_number(value: object, name: str) -> float:
    """A finite number as a float. Raises RequestError for anything else."""
    if not is_finite(value):
        raise RequestError(
            f"{name} must be a finite number", found=shown(value), remedy="0 to 1 is usual"
        )
    return float(value)


def is_finite(value: object) -> TypeGuard[float]:
    """Whether it is a finite real number that float64 holds; a bool is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def _check_name(name: str, value: object, names: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in names:
        raise RequestError(f"{name} must be one of {', '.join(names)}", found=shown(value))


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # type: ignore[operator]
        raise RequestError(f"{name} must be an integer from {low} to {high}", found=shown(value))
