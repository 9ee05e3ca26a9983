"""What of a loaded model is in memory: its parts, which may leave and come back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ipa.memory.machine import MachineMemory


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a loaded model.

    Attributes:
        nbytes: What its weights hold while it is in memory.
        is_here: Whether it is in memory now.
        reading: The most that it takes beside that while it is read.
    """

    nbytes: int
    is_here: bool
    reading: int = 0


class Residency(Protocol):
    """The parts of a backend that take memory, by the names of `ipa.memory.plan.StageMemory`.

    "unet", "vae", "text_encoder", "text_encoder_2", "adapter NAME", "controlnet NAME" (T2I-Adapters
    too), and the image encoders in the order of the adapters that use them: "image_encoder", then
    "image_encoder 2" and so on.
    """

    @property
    def can_release(self) -> bool:
        """Whether parts can leave; a backend that keeps everything says no."""

    def parts(self) -> Mapping[str, Part]:
        """All parts, in memory or not."""

    def encoders(self) -> Mapping[str, str]:
        """The part that is each adapter's image encoder, by the adapter's name."""

    def in_bits(self, bits: int) -> dict[str, int]:
        """The bytes of all parts if their matrices had so few bits; {} where that cannot be."""

    def release(self, names: Collection[str]) -> None:
        """Let parts go. One that is used again is read again from its files, the same bits."""

    def clear(self) -> None:
        """Give buffers that were freed, and that the framework keeps, back to the system."""

    def end_thread(self) -> None:
        """Give back what the framework keeps for the calling thread, which is about to end."""

    def limited(self, cache: int | None) -> AbstractContextManager[None]:
        """A context that keeps at most so many bytes of freed buffers; None: what suits here."""

    def machine(self) -> MachineMemory:
        """The memory that the machine can give, with what is in use here already."""

    def ran_out(self, error: BaseException) -> bool:
        """Whether an error of the framework says that memory ran out."""


def encoder_part(number: int) -> str:
    """The name of an image encoder, by its rank from 0 among those of the adapters."""
    return "image_encoder" if number == 0 else f"image_encoder {number + 1}"
