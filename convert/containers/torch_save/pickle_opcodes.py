"""The opcodes that a pickle of weights may use, and a pickle run with them.

A pickle that is not weights is refused at its first opcode or name that is not listed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .pickle_machine import TRUST, Buffer, Machine
from .pickle_values import Opaque, RefusedError, Storage

MAX_BYTES = 64 << 20
"""The longest pickle that is read; a large model's with training state has some MiB."""

_MAX_STEPS = 1_000_000  # a tensor takes about 45
_MAX_LONG = 16


@dataclass(frozen=True, slots=True)
class Unpickled:
    """What a pickle holds, the storages that it names, and where it ends."""

    value: object
    storages: Mapping[str, Storage]
    end: int


def unpickle(buffer: Buffer, begin: int, end: int, *, identity_items: int) -> Unpickled:
    """Run the pickle that begins at a place of a buffer.

    Args:
        buffer: The file.
        begin: Where the pickle begins.
        end: Where it must have ended.
        identity_items: Length of a persistent id, see `pickle_values.storage`; 0 refuses them.

    Raises:
        RefusedError: It is damaged, or does what weights do not need.
    """
    machine = Machine(buffer, begin, min(end, begin + MAX_BYTES), identity_items)
    for _ in range(_MAX_STEPS):
        code = machine.take(1)[0]
        opcode = OPCODES.get(code)
        if opcode is None:
            raise RefusedError(f"the pickle opcode {bytes([code])!r}", TRUST)
        machine.charge(opcode.cost)
        opcode.act(machine, opcode.argument(machine))
        if machine.stopped:
            return Unpickled(machine.result(), machine.storages, machine.position)
    raise RefusedError(f"a pickle of more than {_MAX_STEPS} steps")


@dataclass(frozen=True, slots=True)
class Opcode:
    """How an opcode's argument is read, what it does, and the memory that it may take."""

    argument: Callable[[Machine], Any]
    act: Callable[[Machine, Any], None]
    cost: int = 8


def _nothing(_: Machine) -> None:
    return None


def _constant(make: Callable[[], object]) -> Callable[[Machine], object]:
    return lambda _: make()


def _number(form: str) -> Callable[[Machine], Any]:
    layout = struct.Struct(form)
    return lambda machine: layout.unpack(machine.take(layout.size))[0]


_U1, _U2, _U4, _U8 = (_number(form) for form in ("<B", "<H", "<I", "<Q"))


def _text(length: Callable[[Machine], int], encoding: str) -> Callable[[Machine], str]:
    return lambda machine: machine.text(length(machine), encoding)


def _bytes(length: Callable[[Machine], int]) -> Callable[[Machine], bytes]:
    return lambda machine: machine.raw(length(machine))


def _long(machine: Machine) -> int:
    count = _U1(machine)
    if count > _MAX_LONG:
        raise RefusedError(f"an integer of {count} bytes")
    return int.from_bytes(machine.take(count), "little", signed=True)


def _two_lines(machine: Machine) -> tuple[object, object]:
    return machine.line(), machine.line()


def _two_values(machine: Machine) -> tuple[object, object]:
    name, module = machine.pop(), machine.pop()
    return module, name


def _frozen(machine: Machine, _: list[object]) -> None:
    machine.push(Opaque("builtins.frozenset"))


def _last(count: int) -> Callable[[Machine], list[object]]:
    return lambda machine: [machine.pop() for _ in range(count)][::-1]


_PUSH, _VALUE = Machine.push, 64  # a small value with its place on the stack
OPCODES: Mapping[int, Opcode] = {
    0x80: Opcode(_U1, Machine.protocol),
    0x95: Opcode(_U8, Machine.frame),
    ord("."): Opcode(_nothing, Machine.stop),
    ord("("): Opcode(_nothing, Machine.mark, 2 * _VALUE),
    ord("}"): Opcode(_constant(dict), _PUSH, 2 * _VALUE),
    ord("]"): Opcode(_constant(list), _PUSH, 2 * _VALUE),
    ord(")"): Opcode(_constant(tuple), _PUSH),
    ord("t"): Opcode(_nothing, Machine.tuple_of_group, _VALUE),
    0x85: Opcode(_constant(lambda: 1), Machine.tuple_of, _VALUE),
    0x86: Opcode(_constant(lambda: 2), Machine.tuple_of, _VALUE),
    0x87: Opcode(_constant(lambda: 3), Machine.tuple_of, _VALUE),
    ord("N"): Opcode(_nothing, _PUSH),
    0x88: Opcode(_constant(lambda: True), _PUSH),
    0x89: Opcode(_constant(lambda: False), _PUSH),
    ord("J"): Opcode(_number("<i"), _PUSH, _VALUE),
    ord("K"): Opcode(_U1, _PUSH),
    ord("M"): Opcode(_U2, _PUSH, _VALUE),
    0x8A: Opcode(_long, _PUSH, _VALUE),
    ord("G"): Opcode(_number(">d"), _PUSH, _VALUE),
    ord("X"): Opcode(_text(_U4, "utf-8"), _PUSH, 2 * _VALUE),
    0x8C: Opcode(_text(_U1, "utf-8"), _PUSH, 2 * _VALUE),
    ord("U"): Opcode(_text(_U1, "ascii"), _PUSH, 2 * _VALUE),  # of Python 2
    ord("T"): Opcode(_text(_U4, "ascii"), _PUSH, 2 * _VALUE),
    ord("C"): Opcode(_bytes(_U1), _PUSH, _VALUE),
    ord("B"): Opcode(_bytes(_U4), _PUSH, _VALUE),
    0x96: Opcode(_bytes(_U8), _PUSH, _VALUE),
    # Sets of protocols 4 and 5, which lie beside weights: as opaque as those of 2 and 3.
    0x8F: Opcode(_constant(lambda: Opaque("builtins.set")), _PUSH, _VALUE),
    0x90: Opcode(Machine.group, Machine.append),
    0x91: Opcode(Machine.group, _frozen, _VALUE),
    ord("s"): Opcode(_last(2), Machine.set_items),
    ord("u"): Opcode(Machine.group, Machine.set_items),
    ord("a"): Opcode(_last(1), Machine.append),
    ord("e"): Opcode(Machine.group, Machine.append),
    ord("q"): Opcode(_U1, Machine.memoize),
    ord("r"): Opcode(_U4, Machine.memoize),
    0x94: Opcode(_nothing, Machine.memoize),
    ord("h"): Opcode(_U1, Machine.recall),
    ord("j"): Opcode(_U4, Machine.recall),
    ord("c"): Opcode(_two_lines, Machine.name),
    0x93: Opcode(_two_values, Machine.name),
    ord("R"): Opcode(_nothing, Machine.call),
    0x81: Opcode(_nothing, Machine.make),
    ord("b"): Opcode(_nothing, Machine.build),
    ord("Q"): Opcode(_nothing, Machine.storage, _VALUE),
}
"""The opcodes by code. Not in it: extensions, text forms, and all that reorders a stack."""
