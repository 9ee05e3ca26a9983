"""What a pickle of weights may hold: inert descriptions of tensors, and what describes them.

A call is what a name in a pickle stands for in Python. Here it makes a description of a tensor, or
something opaque. Which name is what says `pickle_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

from ..dtypes import MAX_ELEMENTS, NUMPY

MAX_DIMENSIONS = 8
_MAX_SIDE = 2**31 - 1  # of one dimension: MLX counts in 32 bits
_MAX_KEY = 2**63  # larger integers can be chosen to share one hash, which makes dicts crawl
_SHOWN = 80


class RefusedError(Exception):
    """A file that is not accepted; `open_torch` makes a CheckpointError of it."""

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage: numbers in the file. Without a dtype, `count` counts bytes."""

    key: str
    dtype: str | None
    count: int

    @property
    def nbytes(self) -> int:
        """The storage's size in the file, in bytes."""
        return self.count * (NUMPY[self.dtype].itemsize if self.dtype else 1)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A tensor: part of a storage, inside its bounds. Offset and strides count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """Something of a training run that no network needs. It cannot be called, and it keeps nothing:
    neither what it was made of nor its state.
    """

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Inert:
    """A class or function of a training run. A call of it gives something opaque."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A name that may be called, and what the call gives."""

    name: str
    call: Callable[[tuple[object, ...]], object]


@dataclass(frozen=True, slots=True, eq=False)
class StorageType:
    """One of torch's storage classes; a dtype of None is bytes."""

    dtype: str | None


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One of torch's dtypes."""

    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Holder:
    """A class of torch whose objects are a dict of parameters, and nothing else that is used."""

    name: str


class Parameters(dict[object, object]):
    """An object of a `Holder`: empty until its state is set, then the parameters in it."""

    def restore(self, state: object) -> int:
        """Take the parameters out of a module's state, once; returns how many there are.

        What else is in it (hooks, buffers, other modules) must be empty, or is never asked for.
        """
        found = state.get("_parameters") if isinstance(state, dict) else None
        if self or not isinstance(found, dict):
            raise RefusedError(f"a ParameterDict whose state is a {kind(state)}")
        for key, value in found.items():
            if not isinstance(value, View):
                raise RefusedError(f"a parameter that is a {kind(value)}")
            put(self, key, value)
        return len(self)


Known: TypeAlias = Function | Inert | Holder | StorageType | DType


def kind(value: object) -> str:
    """What kind of object a value is, for a message."""
    if isinstance(value, (Inert, Opaque, Function, Holder)):
        return value.name
    return type(value).__name__


def put(target: dict[object, object], key: object, value: object) -> None:
    """Set an entry of a dict; a key that is there already is refused."""
    # What is opaque is its own key only: its hash is its place in memory, which no file chooses.
    if not (
        type(key) is str
        or (type(key) is int and abs(key) < _MAX_KEY)
        or isinstance(key, (Inert, Opaque))
    ):
        raise RefusedError(f"a dict with a key of type {kind(key)}")
    if key in target:
        raise RefusedError(f"the key {str(key)[:_SHOWN]!r} twice in one dict")
    target[key] = value


def storage(identity: object, items: int) -> Storage:
    """The storage that a persistent id names.

    Args:
        identity: ("storage", class, key, device, count), in streams with view metadata after it.
        items: How many of these there must be.
    """
    if not (
        isinstance(identity, tuple)
        and len(identity) == items
        and type(identity[0]) is str
        and identity[0] == "storage"
        and isinstance(identity[1], StorageType)
        and isinstance(identity[2], str)
        and isinstance(identity[3], str)
        and _natural(identity[4])
    ):
        raise RefusedError("a persistent id that names no storage")
    if any(item is not None for item in identity[5:]):
        raise RefusedError("a storage that is part of another one")
    return Storage(identity[2], identity[1].dtype, identity[4])


def _natural(value: object) -> bool:
    return type(value) is int and value >= 0


def _naturals(values: object) -> bool:
    return isinstance(values, tuple) and all(map(_natural, values))


def _view(where: object, dtype: str | None, offset: object, *axes: object) -> View:
    """A tensor after every check: inside its storage, and no element twice."""
    if not isinstance(where, Storage) or dtype is None:
        raise RefusedError("a tensor without a typed storage")
    shape, strides = axes
    if not (isinstance(offset, int) and _natural(offset)):
        raise RefusedError(f"a tensor with an offset that is {_show(offset)}")
    if not (
        isinstance(shape, tuple)
        and isinstance(strides, tuple)
        and len(shape) == len(strides) <= MAX_DIMENSIONS
        and _naturals(shape + strides)
        and max(shape, default=0) <= _MAX_SIDE
        and prod(side or 1 for side in shape) <= MAX_ELEMENTS
    ):
        raise RefusedError(f"a tensor with the shape {_show(shape)} and strides {_show(strides)}")
    count, reach = where.nbytes // NUMPY[dtype].itemsize, 0
    # By rising stride, every step must leave behind all that the smaller ones can reach.
    for stride, side in sorted((t, s) for s, t in zip(shape, strides, strict=True) if s > 1):
        if stride <= reach and 0 not in shape:
            raise RefusedError(f"a tensor whose elements overlap: {shape}, strides {strides}")
        reach += (side - 1) * stride
    needed = offset + (reach + 1 if prod(shape) else 0)
    if needed > count:
        raise RefusedError(f"a tensor that ends at element {needed} of a storage with {count}")
    # torch ignores the stride of a side of one; numpy wants a number that it can hold.
    steps = (t if s > 1 else 1 for s, t in zip(shape, strides, strict=True))
    return View(where, dtype, offset, shape, tuple(steps))


def _show(value: object) -> str:
    """A value shown in a message, cut: what it contains could be endless."""
    if isinstance(value, tuple) and len(value) <= 2 * MAX_DIMENSIONS:
        return (
            "(" + ", ".join(_show(v) if type(v) is int else type(v).__name__ for v in value) + ")"
        )
    return str(value)[:_SHOWN] if type(value) is int else type(value).__name__


def _arguments(args: tuple[object, ...], low: int, high: int) -> None:
    if not low <= len(args) <= high:
        raise RefusedError(f"a call with {len(args)} arguments where {low} are needed")


def _no_hooks(values: Iterable[object]) -> None:
    """Refuse hooks, which are code, and metadata that says to change values on reading."""
    for value in values:
        if value is not None and not (isinstance(value, dict) and not value):
            raise RefusedError("a tensor with hooks or metadata")


def rebuild(args: tuple[object, ...]) -> View:
    """torch's `_rebuild_tensor`: storage, offset, size, stride; v2 adds grad, hooks, metadata."""
    _arguments(args, 4, 7)
    _no_hooks(args[5:])
    where = args[0]
    return _view(where, where.dtype if isinstance(where, Storage) else None, *args[1:4])


def rebuild_typed(args: tuple[object, ...]) -> View:
    """torch's `_rebuild_tensor_v3`: as v2, with a dtype and a storage of bytes."""
    _arguments(args, 7, 8)
    kind = args[6]
    if not isinstance(kind, DType):
        raise RefusedError("a tensor of a dtype that is none")
    _no_hooks((args[5], *args[7:]))
    if isinstance(args[0], Storage) and args[0].dtype is not None:
        raise RefusedError("a tensor with two dtypes")
    return _view(args[0], kind.dtype, *args[1:4])


def parameter(args: tuple[object, ...]) -> View:
    """torch's `_rebuild_parameter`: data, requires_grad, hooks; another variant adds a state."""
    _arguments(args, 3, 4)
    if not isinstance(args[0], View):
        raise RefusedError("a parameter without a tensor")
    _no_hooks(args[2:3])
    return args[0]


def ordered_dict(args: tuple[object, ...]) -> dict[object, object]:
    """Python's `OrderedDict()`, or of one list of pairs."""
    _arguments(args, 0, 1)
    pairs = args[0] if args else []
    if not isinstance(pairs, list):
        raise RefusedError("an OrderedDict that is not made of pairs")
    result: dict[object, object] = {}
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise RefusedError("an OrderedDict that is not made of pairs")
        put(result, *pair)
    return result


def size(args: tuple[object, ...]) -> tuple[object, ...]:
    """torch's `torch.Size`: a tuple."""
    _arguments(args, 1, 1)
    if not isinstance(args[0], tuple):
        raise RefusedError("a torch.Size that is no tuple")
    return args[0]
