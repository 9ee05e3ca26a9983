"""Arguments of the wrong type, told before anything is done with them.

What a function's annotations say of plain values (texts, paths, flags, numbers, None) is checked;
anything richer is the function's own to check, which knows better what to say.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .errors import RequestError, shown

P = ParamSpec("P")
R = TypeVar("R")

MOST_CHARACTERS, MOST_BYTES = 4096, 255
"""Of a path, and of each name in it; no system takes longer ones."""

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
    """A function that raises RequestError for what its annotations do not allow.

    A keyword that it does not have is Python's TypeError, as ever; one of a TypedDict, which Python
    does not look at, is a RequestError here.
    """
    signature = inspect.signature(function)
    written = {name: _plain_kinds(text) for name, text in inspect.get_annotations(function).items()}

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                own = keywords(function, name)
                _check_names(value, own)
                for key, entry in value.items():
                    check_plain(key, entry, _plain_kinds(own[key]))
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
    """Raise RequestError unless it is a function, or None."""
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


def _check_names(given: Mapping[str, object], known: Mapping[str, Any]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise RequestError(
                "there is no such argument",
                found=f"{name}=",
                remedy=f"did you mean {near[0]}=?" if near else f"known: {', '.join(known)}",
            )


def _plain_kinds(annotation: str) -> tuple[type, ...] | None:
    """The types of an annotation, if all of them are plain."""
    parts = annotation.split(" | ")
    return tuple(_PLAIN[part][0] for part in parts) if _PLAIN.keys() >= {*parts} else None
