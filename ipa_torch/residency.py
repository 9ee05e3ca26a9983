"""The memory of the reference: everything that is loaded stays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ipa.backend.residency import Part
from ipa.memory.machine import MachineMemory, system_memory


@dataclass(frozen=True)
class TorchResidency:
    """`ipa.backend.residency.Residency` of a backend that keeps everything."""

    device: str
    sizes: Mapping[str, int]
    seen_by: Mapping[str, str]
    can_release: bool = False

    def parts(self) -> dict[str, Part]:
        """See `Residency.parts`."""
        return {name: Part(nbytes, is_here=True) for name, nbytes in self.sizes.items()}

    def encoders(self) -> Mapping[str, str]:
        """See `Residency.encoders`."""
        return self.seen_by

    def in_bits(self, bits: int) -> dict[str, int]:
        """See `Residency.in_bits`: never."""
        return {}

    def release(self, names: Collection[str]) -> None:
        """Keep everything, as `can_release` says."""

    def clear(self) -> None:
        """See `Residency.clear`."""
        _CLEARING.get(torch.device(self.device).type, _nothing)()

    def end_thread(self) -> None:
        """See `Residency.end_thread`: nothing that a thread would leave behind."""

    @contextmanager
    def limited(self, cache: int | None) -> Iterator[None]:
        """See `Residency.limited`; torch is left as it is."""
        yield

    def machine(self) -> MachineMemory:
        """See `Residency.machine`."""
        if not self.device.startswith("cuda"):
            return system_memory()
        free, total = torch.cuda.mem_get_info(self.device)
        return MachineMemory(total, free + torch.cuda.memory_reserved(self.device))

    def ran_out(self, error: BaseException) -> bool:
        """See `Residency.ran_out`."""
        return ran_out(error)


def _nothing() -> None:
    """A CPU's memory goes back by itself."""


# What empties the framework's own cache, by the kind of device.
_CLEARING: Mapping[str, Callable[[], None]] = {
    "cuda": torch.cuda.empty_cache,
    "mps": torch.mps.empty_cache,
}


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out: torch has one for CUDA, and words for a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
