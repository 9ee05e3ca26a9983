"""Pickles of torch.save that torch's own restricted reader does not know: read, never run.

torch.load(weights_only=True) reads protocol 2 and a short list of names; people also have files of
protocols 3 to 5, and of trainings that keep numbers and settings beside the weights. Here a name is
a row of a table: of what makes a tensor, or of what is inert. Nothing is imported or called that is
not in the table, and what is inert holds nothing.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pickle import UnpicklingError
from typing import Any, BinaryIO, TypeAlias

import torch

Storages: TypeAlias = Callable[[tuple[Any, ...]], torch.Tensor]
"""A function from a persistent id to the values of a storage, (N,)."""

_STORAGES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_PATHS = "PosixPath WindowsPath PurePosixPath PureWindowsPath"
_PLAIN = "bool bytes complex dict float frozenset int list long set str tuple unicode"
# What lies beside weights: numbers of numpy, settings, how far a training came.
_INERT: Mapping[str, str] = {
    "_codecs": "encode",
    "__builtin__": _PLAIN,
    "builtins": _PLAIN,
    "argparse": "Namespace",
    "collections": "Counter defaultdict deque",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "omegaconf.base": "ContainerMetadata Metadata",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode BytesNode FloatNode IntegerNode "
    "InterpolationResultNode PathNode StringNode",
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
    "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
    "pytorch_lightning.callbacks.timer": "Timer",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "lightning_fabric.utilities.data": "AttributeDict",
    "lightning.fabric.utilities.data": "AttributeDict",
    "torch": "bfloat16 device float16 float32 float64",
    "typing": "Any Dict List Optional Tuple Union",
}
_MOST_STEPS = 5_000_000
_MOST_MARKS = 200


@dataclass(frozen=True, slots=True)
class Inert:
    """An object that a file keeps beside its weights: its name and nothing else."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """The class of a storage."""

    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Function:
    """A function that makes a tensor, or a container of several."""

    call: Callable[..., Any]


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """A tensor as torch._utils._rebuild_tensor_v2 makes it, inside the storage's bounds."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, torch.Tensor) or not all(type(n) is int for n in numbers):
        raise UnpicklingError("a tensor that is made of no storage")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    reaches = 0 not in size and (last >= len(storage) or prod(size) > len(storage))
    if min(numbers) < 0 or reaches:
        raise UnpicklingError("a tensor that reaches beyond its storage")
    return storage.as_strided(size, stride, offset)


_NAMES: Mapping[tuple[str, str], object] = {
    **{("torch", name): _Storage(dtype) for name, dtype in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _Storage(torch.uint8),
    ("collections", "OrderedDict"): _Function(lambda *pairs: OrderedDict(*pairs)),
    ("torch._utils", "_rebuild_tensor"): _Function(_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Function(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Function(lambda data, *_: data),
    ("torch._utils", "_rebuild_parameter_with_state"): _Function(lambda data, *_: data),
    ("torch", "Size"): _Function(lambda sizes: tuple(sizes)),
    **{
        (module, name): Inert(f"{module}.{name}")
        for module, names in _INERT.items()
        for name in names.split()
    },
}


def read_pickle(file: BinaryIO, storages: Storages) -> Any:
    """The object of one pickle, up to its end.

    Args:
        file: From the pickle's first byte on.
        storages: What holds the values of tensors.

    Raises:
        UnpicklingError: It holds what is neither weights nor known to lie beside them.
        ValueError: It is damaged.
    """
    machine = _Machine(storages)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count > _MOST_STEPS or len(machine.marks) > _MOST_MARKS:
            raise UnpicklingError("a pickle of too many steps")
        machine.step(opcode.name, argument)
    if len(machine.stack) != 1 or machine.marks:
        raise UnpicklingError("a pickle that leaves more than one object")
    return machine.stack[0]


class _Machine:
    """A stack, a memo and a closed table of operations."""

    def __init__(self, storages: Storages) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._storages = storages

    def step(self, name: str, argument: Any) -> None:
        """Run one opcode."""
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _KEPT:
            self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]
        elif name in _TAKEN:
            self.stack.append(self._memo[argument])
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in _IDLE:
            raise UnpicklingError(f"the operation {name}")

    def since_mark(self) -> list[Any]:
        """The values that were pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: object) -> None:
        """Begin a group."""
        self.marks.append(self.stack)
        self.stack = []

    def forget(self, _: object) -> None:
        """Pop one value off the stack."""
        self.stack.pop()

    def forget_group(self, _: object) -> None:
        """Pop a group with its mark."""
        self.since_mark()

    def group(self, make: Callable[[list[Any]], Any]) -> None:
        """Push the group since the mark as one object."""
        items = self.since_mark()
        self.stack.append(make(items))

    def tuple_of(self, count: int) -> None:
        """Push the last few values as a tuple."""
        if len(self.stack) < count:
            raise UnpicklingError("a tuple of nothing")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def look_up(self, module: object, name: object) -> None:
        """Look a global up in the table, or refuse it."""
        if (module, name) not in _NAMES:
            raise UnpicklingError(f"the name {module}.{name}")
        self.stack.append(_NAMES[str(module), str(name)])

    def stack_global(self, _: object) -> None:
        """Look up a global whose parts are on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        self.look_up(module, name)

    def call(self, count: int) -> None:
        """Call a function that makes tensors; a call of an inert object stays inert."""
        *_, given, function = (self.stack.pop() for _ in range(count))
        if isinstance(function, Inert) and isinstance(given, tuple):
            self.stack.append(function)
        elif isinstance(function, _Function) and isinstance(given, tuple) and count == _CALL:
            self.stack.append(function.call(*given))
        else:
            raise UnpicklingError(f"a call of {type(function).__name__}")

    def build(self, _: object) -> None:
        """Skip an object's state: of no use to weights."""
        self.stack.pop()
        if not isinstance(self.stack[-1], (Inert, OrderedDict)):
            raise UnpicklingError(f"a state for {type(self.stack[-1]).__name__}")

    def put(self, pairs: list[Any]) -> None:
        """Set entries in a dict."""
        target = self.stack[-1]
        if isinstance(target, Inert):
            return
        if not isinstance(target, dict) or len(pairs) % 2:
            raise UnpicklingError(f"entries in {type(target).__name__}")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def add(self, items: list[Any]) -> None:
        """Add items to a list or set."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(items)
        elif not isinstance(target, Inert):
            raise UnpicklingError(f"items in {type(target).__name__}")

    def storage(self, _: object) -> None:
        """Push the storage of a persistent id."""
        identity = self.stack.pop()
        is_storage = isinstance(identity, tuple) and identity and identity[0] == "storage"
        if not is_storage or not isinstance(identity[1], _Storage):
            raise UnpicklingError("a persistent id that names no storage")
        self.stack.append(self._storages((identity[1].dtype, *identity[2:])))

    def two(self) -> list[Any]:
        """Pop the last two values."""
        value, key = self.stack.pop(), self.stack.pop()
        return [key, value]


_CALL = 2  # things on the stack for a call: what is called, and a tuple
_PUSHED = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
    )
)
_CONSTANTS: Mapping[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_KEPT = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_TAKEN = frozenset({"GET", "BINGET", "LONG_BINGET"})
_IDLE = frozenset({"PROTO", "FRAME", "STOP"})
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP_MARK": _Machine.forget_group,
    "POP": _Machine.forget,
    "TUPLE": lambda m, _: m.group(tuple),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "LIST": lambda m, _: m.group(list),
    "FROZENSET": lambda m, _: m.group(frozenset),
    "APPEND": lambda m, _: m.add([m.stack.pop()]),
    "APPENDS": lambda m, _: m.add(m.since_mark()),
    "ADDITEMS": lambda m, _: m.add(m.since_mark()),
    "SETITEM": lambda m, _: m.put(m.two()),
    "SETITEMS": lambda m, _: m.put(m.since_mark()),
    "GLOBAL": lambda m, names: m.look_up(*names.split(" ", 1)),
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": lambda m, _: m.call(_CALL),
    "NEWOBJ": lambda m, _: m.call(_CALL),
    "NEWOBJ_EX": lambda m, _: m.call(_CALL + 1),
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}
