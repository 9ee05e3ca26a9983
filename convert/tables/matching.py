"""From a checkpoint to a network: a plan that is total, or an error that lists everything wrong.

Every tensor of the checkpoint is used exactly once or dropped for a written reason; every tensor of
the network is filled exactly once, with exactly its shape. Only headers are looked at.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ipa.errors import CheckpointError
from ipa.model.ignoring import NOTHING, REASON, REMEDY, Ignore

from ..containers.checkpoint import Checkpoint
from ..containers.decoding import decoded
from ..containers.dtypes import WEIGHTS
from ..containers.stored import Stored
from .converted import Converted, ConvertedTensor
from .families import family
from .layout import Layout, Tensor
from .quantized_layers import is_quantized, parts
from .spelling import Named
from .table import Table

_SHOWN = 3  # names of each kind of problem in a message


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A place to fill: the name and shape to look for, and where it goes."""

    tensor: Tensor
    target: str
    layout: Layout  # what to do on the way: AS_IS if the file is converted already
    dtypes: tuple[str, ...] = WEIGHTS

    @property
    def shape(self) -> tuple[int, ...]:
        """The stored shape that is expected."""
        return self.tensor.target_shape if self.layout is Layout.AS_IS else self.tensor.shape


def convert(checkpoint: Checkpoint, table: Table, ignore: Ignore = NOTHING) -> Converted:
    """Match a checkpoint with a network; `ignore` names what may be left over.

    Raises:
        CheckpointError: One tensor is missing, left over, doubled, misshapen or of another type.
    """
    targets = [table.target(tensor) for tensor in table.tensors]
    slots = _slots(checkpoint, table, targets)
    sources, spare = _sources(checkpoint, table, slots)
    dropped, surplus = _dropped(spare, table, converted=checkpoint.converted)
    dropped |= {name: REASON for name in surplus if ignore.matches(name)}
    dropped |= _repeated(sources) if table.repeats else {}
    problems = {
        "missing": [name for name in slots if name not in sources],
        "left over": [name for name in surplus if name not in dropped],
        "given twice": [
            " and ".join(s.name for s in group)
            for group in sources.values()
            if any(stored.name not in dropped for stored in group[1:])
        ],
        "of another shape": list(_misshapen(slots, sources)),
        "of an unsupported type": [
            f"{stored.name} ({stored.dtype})"
            for name, group in sources.items()
            for stored in group
            if stored.dtype not in slots[name].dtypes
        ],
        "landing on one name": [name for name, count in Counter(targets).items() if count > 1],
    }
    if any(problems.values()):
        raise _error(checkpoint, table, problems)
    return Converted(
        checkpoint.where,
        {
            slot.target: ConvertedTensor(
                name=slot.target,
                tensor=slot.tensor,
                layout=slot.layout,
                stored=sources[name][0],
            )
            for name, slot in slots.items()
        },
        dropped,
        checkpoint.quantization,
    )


def _slots(checkpoint: Checkpoint, table: Table, targets: Sequence[str]) -> dict[str, Slot]:
    """Slots by the name to look for: MLX's own in a converted file, else the canonical one."""
    pairs = zip(table.tensors, targets, strict=True)
    if checkpoint.converted:
        return {s.target: s for x, t in pairs for s in _converted_slots(x, t, checkpoint)}
    return {x.name: Slot(tensor=x, target=t, layout=x.layout) for x, t in pairs}


def _converted_slots(tensor: Tensor, target: str, checkpoint: Checkpoint) -> Iterator[Slot]:
    """A tensor's slots in a converted file: one; three where it is quantised."""
    how = checkpoint.quantization
    if how is None or not is_quantized(target, tensor.target_shape, how):
        yield Slot(tensor=tensor, target=target, layout=Layout.AS_IS)
        return
    for part in parts(target, tensor.target_shape, how):
        yield Slot(
            tensor=Tensor(part.name, part.shape),
            target=part.name,
            layout=Layout.AS_IS,
            dtypes=WEIGHTS if part.dtype is None else (part.dtype,),
        )


def _sources(
    checkpoint: Checkpoint, table: Table, slots: Mapping[str, Slot]
) -> tuple[Mapping[str, Sequence[Stored]], list[Named]]:
    """Stored tensors by canonical name, and those that nothing asks for."""
    sources: dict[str, list[Stored]] = defaultdict(list)
    spare = []
    for name, stored in checkpoint.items():
        views = [(name, stored)] if checkpoint.converted else table.canonical(name, stored)
        for canonical, view in views:
            if canonical in slots:
                sources[canonical].append(decoded(view))
            else:
                spare.append((canonical, view))
    return sources, spare


def _repeated(sources: Mapping[str, Sequence[Stored]]) -> dict[str, str]:
    """Copies of a tensor that stands before them with the same values; they are let go."""
    return {
        copy.name: f"it repeats {first.name}"
        for first, *copies in sources.values()
        for copy in copies
        if _equal(first, copy)
    }


def _equal(a: Stored, b: Stored) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    first, second = (t.array().reshape(-1).view(np.uint8) for t in (a, b))
    found = np.array_equal(first, second)
    a.release()
    b.release()
    return found


def _dropped(
    spare: Sequence[Named], table: Table, *, converted: bool
) -> tuple[dict[str, str], list[str]]:
    """The spare tensors that may be left out, with the reason, and those that may not."""
    dropped, surplus = {}, []
    for canonical, stored in spare:
        reason = next((drop.reason for drop in table.drops if drop.matches(canonical)), None)
        if reason is None or converted:
            surplus.append(stored.name)
        else:
            dropped[stored.name] = reason
    return dropped, list(dict.fromkeys(surplus))


def _misshapen(slots: Mapping[str, Slot], sources: Mapping[str, Sequence[Stored]]) -> Iterator[str]:
    for name, group in sources.items():
        slot = slots[name]
        for stored in group:
            if not slot.layout.accepts(slot.shape, stored.shape):
                yield f"{stored.name} {stored.shape}, needed {slot.shape}"


def _error(
    checkpoint: Checkpoint, table: Table, problems: Mapping[str, Sequence[str]]
) -> CheckpointError:
    parts = listed(problems)
    kind = family(checkpoint)
    if kind != table.title:
        parts.insert(0, f"tensors of this kind: {kind}")
    return CheckpointError(
        f"{checkpoint.where} does not fit this {table.title}",
        found=". ".join(parts),
        remedy="weights and config.json must belong to one model: check the file, "
        "or download both again" + (f"; {REMEDY}" if problems["left over"] else ""),
    )


def listed(problems: Mapping[str, Sequence[str]]) -> list[str]:
    """Problems by kind, in words: how many, and the first names."""
    parts = []
    for kind, names in problems.items():
        if names:
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"{len(names)} {kind}: {'; '.join(names[:_SHOWN])}{rest}")
    return parts
