"""What outlives a test is closed to changes, so that no test leaves anything loaded for the next.

A test that loads, unloads or sets something takes a copy of its own (the fixture `own`), which is
gone with it, whether it passed or not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_CHANGES = ("load_", "unload_", "set_", "close")
_READS = {"load_image_embeds"}  # from a file, into nothing


class SealedError(Exception):
    """A test changes what other tests use; never one of the errors that tests expect."""


def once(make: Callable[..., Any]) -> Callable[..., Any]:
    """Remembers what it makes, sealed: `functools.cache` of fixtures that outlive a test."""
    made = functools.cache(lambda *arguments: seal(make(*arguments)))

    def remembered(*arguments: Any) -> Any:
        return made(*arguments)

    remembered.cache_clear = made.cache_clear  # type: ignore[attr-defined]
    return remembered


def seal(made: Any) -> Any:
    """The same, and every pipeline and runtime in it, which now refuse to be changed."""
    for thing in _inside(made):
        kind = type(thing)
        if not hasattr(kind, "unsealed"):
            thing.__class__ = _sealed(kind)
    return made


def unseal(thing: Any) -> Any:
    """A copy of something sealed is a test's own."""
    thing.__class__ = getattr(type(thing), "unsealed", type(thing))
    return thing


def _inside(made: Any) -> Iterator[Any]:
    if type(made).__name__ in {"Pipeline", "MlxBackend", "TorchBackend"}:
        yield made
    elif isinstance(made, Mapping):
        for value in made.values():
            yield from _inside(value)
    elif isinstance(made, type(functools.cache(id))):
        raise SealedError("what it remembers would be open to changes: take `sealed.once`")
    elif isinstance(made, (list, tuple)):
        for value in made:
            yield from _inside(value)
    elif dataclasses.is_dataclass(made) and not isinstance(made, type):
        for field in dataclasses.fields(made):
            yield from _inside(getattr(made, field.name, None))


def _refusal(name: str) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise SealedError(f"{name} on what other tests use, too: take `own`, a copy")

    return refuse


@functools.cache
def _sealed(kind: type) -> type:
    names = [name for name in dir(kind) if name.startswith(_CHANGES) and name not in _READS]
    body: dict[str, Any] = {name: _refusal(name) for name in names}
    for name in dir(kind):
        found = getattr(kind, name)
        if not name.startswith("_") and isinstance(found, property) and found.fset is not None:
            body[name] = found.setter(_refusal(name))
    return type(kind.__name__, (kind,), body | {"unsealed": kind, "__module__": kind.__module__})
