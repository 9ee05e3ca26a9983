"""Networks that leave memory and come back from their files, the same bits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import mlx.core as mx
import mlx.nn as nn

from ipa.backend.residency import Part
from ipa.errors import CheckpointError, RequestError
from ipa.memory.machine import MachineMemory, system_memory
from ipa.model.quantization import GROUP_SIZE, Quantization
from ipa.watching import watch
from ipa_convert import Converted, is_quantized

from . import end_thread
from .networks.weights import arrays, chosen_quantization, place, reading_bytes

N = TypeVar("N")
M = TypeVar("M", bound=nn.Module)

_PACKED = "U32"  # the tag of quantised weights
_WORD = 4  # bytes


@dataclass(frozen=True)
class Measured:
    """A network's bytes in memory, and how it is quantised."""

    nbytes: int
    quantization: Mapping[str, int] | None


@dataclass(frozen=True, eq=False)
class Source:
    """The weights of one network in their files: what they will hold in memory, and they.

    Attributes:
        converted: Their headers; values are read when they are asked for.
        dtype: The precision that they get.
        how: How matrices are quantised on reading; None takes them as they are.
        where: The component, for messages.
        marks: What tells each file from one that was written over since.
    """

    converted: Converted
    dtype: mx.Dtype
    how: Quantization | None
    where: str
    marks: Mapping[Path, tuple[int, ...]]

    @classmethod
    def of(
        cls,
        converted: Converted,
        dtype: mx.Dtype,
        where: str,
        how: Quantization | None = None,
    ) -> Source:
        """A source; see `networks.weights.place`. Raises RequestError as it does."""
        chosen_quantization(converted, how, where)
        files = {Path(tensor.stored.where) for tensor in converted.values()}
        marks = {path: mark for path in sorted(files) if (mark := _mark(path)) is not None}
        return cls(converted, dtype, how, where, marks)

    def __deepcopy__(self, memo: object) -> Source:
        """The same: what is in files is one, however many pipelines read it."""
        return self

    @property
    def _quantization(self) -> Quantization | None:
        return chosen_quantization(self.converted, self.how, self.where)

    @cached_property
    def reading(self) -> int:
        """See `Part.reading`."""
        return reading_bytes(self.converted, self.dtype, self.how)

    @cached_property
    def measured(self) -> Measured:
        """What the network will take, told from the headers."""
        total, layers, how = 0, 0, self._quantization
        for name, tensor in self.converted.items():
            if tensor.dtype == _PACKED:
                total += prod(tensor.shape) * _WORD
                layers += 1
            elif how is not None and not self.converted.quantization and self.is_quantized(name):
                total += how.nbytes(tensor.shape, self.dtype.size)
                layers += 1
            else:
                total += prod(tensor.shape) * self.dtype.size
        if not layers or how is None:
            return Measured(total, None)
        return Measured(total, {"bits": how.bits, "group_size": how.group_size, "layers": layers})

    def in_bits(self, how: Quantization) -> Measured:
        """What it would take, its matrices quantised so, if it is not quantised already."""
        source = self if self.converted.quantization else replace(self, how=how)
        return source.measured

    def is_quantized(self, name: str) -> bool:
        """Whether a weight of the network will be, or is in its file."""
        tensor = self.converted[name]
        if self.converted.quantization is not None:
            return tensor.dtype == _PACKED
        return is_quantized(name, tensor.shape, self.how)

    def nbytes(self, name: str) -> int:
        """The bytes of a weight that is not quantised."""
        return prod(self.converted[name].shape) * self.dtype.size

    def arrays(self, names: Collection[str] | None = None) -> Iterator[tuple[str, mx.array]]:
        """The weights, or some of them, evaluated; see `networks.weights.arrays`."""
        self._check_unchanged()
        wanted = self.converted
        if names is not None:
            wanted = replace(wanted, tensors={name: wanted[name] for name in names})
        yield from arrays(wanted, self.dtype, self.how)

    def fill(self, network: M) -> M:
        """A network with its weights, evaluated; see `networks.weights.place`."""
        self._check_unchanged()
        place(network, self.converted, self.dtype, self.where, self.how)
        return network

    def _check_unchanged(self) -> None:
        for path, mark in self.marks.items():
            now = _mark(path)
            # One that was replaced or deleted is still open here, with the bits that it had.
            if now is not None and now[:2] == mark[:2] and now != mark:
                raise CheckpointError(
                    f"{path} was written over since this model was loaded",
                    found=f"{now[2]} bytes, then {mark[2]}",
                    remedy="load the model again",
                )


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class Guest(Protocol[N]):
    """The protocol of what acts in a network while it is in memory: LoRAs, hooks of a tap."""

    def enter(self, network: N, /) -> None:
        """Act in a network that has come."""

    def leave(self, network: N, /) -> None:
        """Let go of a network, which may be used further without."""


@dataclass(eq=False)
class Resident(Generic[N]):
    """A network that is read from its files when it is used, and may be let go between uses.

    Not thread-safe: who holds the pipeline uses it.
    """

    source: Source
    build: Callable[[], N]
    guests: list[Guest[N]] = field(default_factory=list)
    _network: N | None = None

    @property
    def is_here(self) -> bool:
        """Whether it is in memory."""
        return self._network is not None

    @property
    def measured(self) -> Measured:
        """What it takes in memory, there or not."""
        return self.source.measured

    def get(self) -> N:
        """The network, read if it is not there.

        Raises:
            CheckpointError: Its files are damaged, or were written over.
        """
        if self._network is None:
            network = self.build()
            for guest in self.guests:
                guest.enter(network)
            self._network = network
        return self._network

    def release(self) -> None:
        """Let the network go; what holds it still keeps its memory."""
        network, self._network = self._network, None
        if network is not None:
            for guest in reversed(self.guests):
                guest.leave(network)

    @contextmanager
    def hosting(self, guest: Guest[N]) -> Iterator[None]:
        """A context in which something acts in the network whenever that is in memory."""
        if self._network is not None:
            guest.enter(self._network)
        self.guests.append(guest)
        try:
            yield
        finally:
            self.guests.remove(guest)
            if self._network is not None:
                guest.leave(self._network)


def resident(source: Source, make: Callable[[], M]) -> Resident[M]:
    """A network that `make` builds, with weights from their files; none is read yet."""
    return Resident(source, lambda: source.fill(make()))


def read_all(networks: Collection[Resident[Any]]) -> None:
    """Read networks that are not in memory; whoever watches knows from the start how much it is.

    Raises:
        Cancelled: Whoever watches says so.
        CheckpointError: Files are damaged, or were written over.
    """
    missing = [network for network in networks if not network.is_here]
    watch().expect("load", sum(network.measured.nbytes for network in missing))
    for network in missing:
        network.get()


def require_quantized(networks: Iterable[Measured]) -> None:
    """Raise RequestError if nothing at all is quantised that should be."""
    if not any(network.quantization for network in networks):
        raise RequestError(
            "no layer of this model can be quantised",
            found=f"no width that is a multiple of {GROUP_SIZE}",
            remedy="leave quantize out",
        )


@dataclass(frozen=True)
class MlxResidency:
    """`ipa.backend.residency.Residency` of a backend's networks."""

    networks: Mapping[str, Resident[Any]]
    seen_by: Mapping[str, str] = field(default_factory=dict)
    can_release: bool = True

    def parts(self) -> dict[str, Part]:
        """See `Residency.parts`."""
        return {
            name: Part(each.measured.nbytes, each.is_here, each.source.reading)
            for name, each in self.networks.items()
        }

    def in_bits(self, bits: int) -> dict[str, int]:
        """See `Residency.in_bits`."""
        how = Quantization(bits)
        found = {name: each.source.in_bits(how) for name, each in self.networks.items()}
        is_less = any(one.quantization for one in found.values())
        is_stored = any(each.measured.quantization for each in self.networks.values())
        return {n: one.nbytes for n, one in found.items()} if is_less and not is_stored else {}

    def encoders(self) -> Mapping[str, str]:
        """See `Residency.encoders`."""
        return self.seen_by

    def release(self, names: Collection[str]) -> None:
        """See `Residency.release`. Freed buffers go back to the system, too."""
        for name in names:
            self.networks[name].release()
        mx.clear_cache()

    def clear(self) -> None:
        """See `Residency.clear`."""
        mx.clear_cache()

    def end_thread(self) -> None:
        """See `Residency.end_thread`."""
        end_thread()

    @contextmanager
    def limited(self, cache: int | None) -> Iterator[None]:
        """See `Residency.limited`."""
        wanted = suitable_cache(_total()) if cache is None else cache
        if wanted is None:
            yield
            return
        before = mx.set_cache_limit(wanted)
        mx.set_cache_limit(min(before, wanted))
        try:
            yield
        finally:
            mx.set_cache_limit(before)

    def machine(self) -> MachineMemory:
        """See `Residency.machine`."""
        return machine_memory()

    def ran_out(self, error: BaseException) -> bool:
        """See `Residency.ran_out`."""
        return ran_out(error)


def machine_memory() -> MachineMemory:
    """The machine's memory; what MLX holds here counts as free."""
    found, own = system_memory(), int(mx.get_active_memory() + mx.get_cache_memory())
    available = min(found.total, found.available + own)
    recommended = mx.device_info().get("max_recommended_working_set_size")
    return MachineMemory(_total() or found.total, available, recommended and int(recommended))


def _total() -> int | None:
    """The memory of the GPU's machine; None on a CPU."""
    size = mx.device_info().get("memory_size") if mx.default_device() == mx.gpu else None
    return None if size is None else int(size)


def suitable_cache(total: int | None) -> int | None:
    """The bytes of freed buffers that a run may keep on a GPU's machine of so much memory.

    MLX keeps nearly all of it: on a small machine the rest of the system then has to swap. None is
    MLX's own limit, on larger machines and CPUs (`networks.weights.keep_freed`).
    """
    return next((cache for most, cache in _CACHES if total is not None and total <= most), None)


_CACHES = ((8 << 30, 256 << 20), (16 << 30, 1 << 30))

# What MLX says where an allocation fails (allocator.cpp, metal/allocator.cpp), and Metal where a
# command buffer does (metal/device.cpp).
_RAN_OUT = ("Unable to allocate", "Attempting to allocate", "Insufficient Memory", "bad_alloc")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | ValueError) and any(w in str(error) for w in _RAN_OUT)
