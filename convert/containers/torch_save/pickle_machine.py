"""A machine for the pickles of weights: few names, a bounded cost, and no imports.

Python's own unpickler runs what a file says. This one makes plain values and the descriptions of
`pickle_values`, and charges every step to a budget before it is taken. Its opcodes are a table,
`pickle_opcodes`, and so are the names that a file may use, `pickle_names`.
"""

from __future__ import annotations

import mmap
from typing import Any, TypeAlias

from .pickle_names import GLOBALS
from .pickle_values import (
    Function,
    Holder,
    Inert,
    Opaque,
    Parameters,
    RefusedError,
    Storage,
    kind,
    put,
    storage,
)

Buffer: TypeAlias = bytes | mmap.mmap

TRUST = (
    "a file of weights has nothing of the kind, and torch would run it: use the .safetensors file "
    "of the same model, from a source that you trust; of a training run of your own, save the "
    "state_dict alone"
)
"""Advice on a file that does more than hold weights."""

_MAX_MARKS = 200  # open containers; weights lie two or three deep
_MAX_TEXT = 1 << 16
_MAX_NAME = 128
_ALLOWANCE = 32 << 20  # bytes of memory, beside as many as the file has
_ENTRY = 120  # bytes of an entry of a dict or of the memo
_PROTOCOLS = range(2, 6)


class Machine:
    """The stack, memo and memory budget of one pickle's run."""

    def __init__(self, buffer: Buffer, begin: int, end: int, identity_items: int) -> None:
        self._buffer, self.position, self._end = buffer, begin, end
        self._stack: list[object] = []
        self._below: list[list[object]] = []  # the stacks under open marks
        self._memo: dict[int, object] = {}
        self._budget = _ALLOWANCE + len(buffer)
        self._identity_items = identity_items
        self.storages: dict[str, Storage] = {}
        self.stopped = False

    def take(self, count: int) -> bytes:
        """Read the next bytes of the pickle."""
        if count > self._end - self.position:
            raise RefusedError("a pickle that is cut off", "download it again")
        self.position += count
        return self._buffer[self.position - count : self.position]

    def charge(self, count: int) -> None:
        """Charge the budget for memory before it is used."""
        self._budget -= count
        if self._budget < 0:
            raise RefusedError("a pickle that grows beyond the size of its file")

    def line(self) -> str:
        """Read text up to the next line break."""
        stop = min(self._end, self.position + _MAX_NAME)
        found = self._buffer.find(b"\n", self.position, stop)
        if found < 0:
            raise RefusedError("a name without an end")
        text = self.take(found - self.position)
        self.take(1)
        return _decoded(text, "ascii")

    def text(self, count: int, encoding: str) -> str:
        """Read a string of so many bytes."""
        return _decoded(self.raw(count), encoding)

    def raw(self, count: int) -> bytes:
        """Read so many bytes, charged as if each were a character of four."""
        if not 0 <= count <= _MAX_TEXT:
            raise RefusedError(f"a string of {count} bytes")
        self.charge(4 * count)
        return self.take(count)

    def push(self, value: object) -> None:
        """Push a value onto the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Pop a value off the stack."""
        if not self._stack:
            raise RefusedError("a pickle that takes what it has not made")
        return self._stack.pop()

    def top(self) -> object:
        """The top of the stack, which stays."""
        self._stack.append(self.pop())
        return self._stack[-1]

    def mark(self, _: None) -> None:
        """Begin a group of values (MARK)."""
        if len(self._below) >= _MAX_MARKS:
            raise RefusedError(f"more than {_MAX_MARKS} containers in one another")
        self._below.append(self._stack)
        self._stack = []

    def group(self) -> list[object]:
        """Pop everything above the last mark."""
        if not self._below:
            raise RefusedError("a pickle that ends a group that it has not begun")
        items, self._stack = self._stack, self._below.pop()
        return items

    def protocol(self, number: int) -> None:
        """Check the first opcode, PROTO, and its version."""
        if number not in _PROTOCOLS:
            raise RefusedError(f"pickle protocol {number}")

    def frame(self, count: int) -> None:
        """Skip FRAME, a hint for readers of streams."""
        if count > self._end - self.position:
            raise RefusedError("a pickle that is cut off", "download it again")

    def tuple_of(self, count: int) -> None:
        """Join the topmost values as a tuple."""
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def tuple_of_group(self, _: None) -> None:
        """Join the values above the last mark as a tuple."""
        self.push(tuple(self.group()))

    def append(self, values: list[object]) -> None:
        """Append to the list below; an opaque object takes items and keeps none."""
        target = self.top()
        if isinstance(target, Opaque):
            return
        if type(target) is not list:
            raise RefusedError(f"an append to a {kind(target)}")
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        """Set entries of the dict below; an opaque object takes them and keeps none."""
        target = self.top()
        if isinstance(target, Opaque) and not len(values) % 2:
            return
        if type(target) is not dict or len(values) % 2:
            raise RefusedError(f"an entry in a {kind(target)}")
        self.charge(_ENTRY * len(values) // 2)
        for key, value in zip(values[::2], values[1::2], strict=True):
            put(target, key, value)

    def memoize(self, index: int | None) -> None:
        """Keep the top of the stack in the memo."""
        self.charge(_ENTRY)
        self._memo[len(self._memo) if index is None else index] = self.top()

    def recall(self, index: int) -> None:
        """Push a value from the memo."""
        if index not in self._memo:
            raise RefusedError(f"a pickle that asks for {index}, which it has not kept")
        self.push(self._memo[index])

    def name(self, pair: tuple[object, object]) -> None:
        """Look a global up in the table of allowed names; nothing is imported."""
        module, name = pair
        if not (isinstance(module, str) and isinstance(name, str)):
            raise RefusedError("a name that is no text")
        found = GLOBALS.get((module, name))
        if found is None:
            raise RefusedError(f"the name {module[:_MAX_NAME]}.{name[:_MAX_NAME]}", TRUST)
        self.push(found)

    def call(self, _: None) -> None:
        """Describe what a listed function would make."""
        arguments, function = self.pop(), self.pop()
        if isinstance(function, Inert):
            self._opaque(function, arguments)
            return
        if not isinstance(function, Function) or type(arguments) is not tuple:
            raise RefusedError(f"a call of a {kind(function)}", TRUST)
        made = function.call(arguments)
        self.charge(_ENTRY * len(made) if isinstance(made, dict) else _ENTRY)
        self.push(made)

    def make(self, _: None) -> None:
        """An object of an allowed class: a dict of parameters, or what only training runs have."""
        arguments, made_of = self.pop(), self.pop()
        if isinstance(made_of, Holder) and arguments == ():
            self.charge(2 * _ENTRY)
            self.push(Parameters())
            return
        if not isinstance(made_of, Inert):
            raise RefusedError(f"an object of a {kind(made_of)}", TRUST)
        self._opaque(made_of, arguments)

    def _opaque(self, made_of: Inert, arguments: object) -> None:
        if type(arguments) is not tuple:
            raise RefusedError(f"a call of {made_of.name} with a {kind(arguments)}", TRUST)
        self.charge(_ENTRY)
        self.push(Opaque(made_of.name))

    def build(self, _: None) -> None:
        """The parameters of a ParameterDict; any other state (`_metadata` of a state dict, that of
        what is ignored) is thrown away.
        """
        state, target = self.pop(), self.top()
        if isinstance(target, Parameters):
            self.charge(_ENTRY * target.restore(state))
            return
        if not isinstance(self.top(), (dict, Opaque)):
            raise RefusedError(f"a state for a {kind(self.top())}", TRUST)

    def storage(self, _: None) -> None:
        """Look up a storage by its persistent id."""
        found = storage(self.pop(), self._identity_items)
        if self.storages.setdefault(found.key, found) != found:
            raise RefusedError(f"the storage {found.key[:_MAX_NAME]!r} in two forms")
        self.push(found)

    def stop(self, _: None) -> None:
        """End the run (STOP)."""
        self.stopped = True

    def result(self) -> object:
        """The pickle's one object, left on the stack."""
        if len(self._stack) != 1 or self._below:
            raise RefusedError("a pickle that leaves more or less than one value")
        return self._stack[0]


def _decoded(text: bytes, encoding: str) -> str:
    try:
        return text.decode(encoding)
    except UnicodeDecodeError as error:
        raise RefusedError(f"text that is not {encoding}") from error
