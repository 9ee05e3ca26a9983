"""What a network's file must look like: its table of tensors and names."""

from __future__ import annotations

from dataclasses import dataclass

from ..containers.stored import Stored
from .layout import Tensor
from .rules import Drop, Rename, rename
from .spelling import Alias, Named, respell


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Everything that a conversion knows of one network: its tensors, names and layouts.

    Attributes:
        title: The network in words, as `families` calls it.
        tensors: What the original checkpoint must hold, in its canonical spelling.
        renames: From there to the names in our MLX modules.
        aliases: From other spellings in use to the canonical one.
        drops: What may be left out: a closed list.
        repeats: Whether a tensor may stand in a file in several places, if all have its values.
    """

    title: str
    tensors: tuple[Tensor, ...]
    renames: tuple[Rename, ...]
    aliases: tuple[Alias, ...] = ()
    drops: tuple[Drop, ...] = ()
    repeats: bool = False

    def target(self, tensor: Tensor) -> str:
        """The tensor's name in our MLX module."""
        return rename(tensor.name, self.renames)

    def canonical(self, name: str, stored: Stored) -> list[Named]:
        """What a tensor of a file is, under its canonical name; several where it holds several."""
        return respell(name, stored, self.aliases)
