"""What of a file is in no network: for records and warnings, the same on every backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

_COUNTING = "position_ids"  # 0, 1, 2, … beside CLIP's weights in every older file: not worth a word
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Names of tensors that a model or an adapter was loaded without.

    Attributes:
        where: The file or folder.
        names: As it spells them.
    """

    where: str
    names: tuple[str, ...]

    @classmethod
    def of(cls, where: str, names: Iterable[str]) -> LeftOut:
        """Without what only counts."""
        kept = dict.fromkeys(name for name in names if not name.endswith(_COUNTING))
        return cls(where, tuple(sorted(kept)))

    def describe(self) -> dict[str, int]:
        """How many, by name, or by the first component that several share."""
        heads = Counter(name.partition(".")[0] for name in self.names)
        return dict(
            Counter(
                f"{head}.*" if heads[head] > 1 and head != name else name
                for name in self.names
                for head in (name.partition(".")[0],)
            )
        )

    def record(self) -> dict[str, dict[str, int]]:
        """The same as an entry of a record; none where nothing was left out."""
        return {"left_out": self.describe()} if self.names else {}

    def warnings(self) -> list[str]:
        """One line that names them; none where nothing was left out."""
        what = f"{len(self.names)} tensors that are no part of what was loaded"
        return [f"left out of {self.where}: {what}: {self.listed()}"] if self.names else []

    def listed(self) -> str:
        """The names, counted and shortened, for a line."""
        rows = [f"{name} ({n})" if n > 1 else name for name, n in self.describe().items()]
        rest = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        return ", ".join(rows[:_SHOWN]) + rest


NOTHING = LeftOut("", ())
