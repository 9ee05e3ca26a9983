"""Tensors that were left out of a file: for records and warnings, the same on every backend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

_COUNTING = "position_ids"  # 0, 1, 2, … beside CLIP's weights in every older file: not worth a word
_SHOWN = 6
_ADAPTER = (
    "an IP-Adapter was loaded when this model was saved; it is left out: load its own file with "
    "load_ip_adapter"
)
SAVED_ADAPTER: Mapping[str, str] = {
    "encoder_hid_proj.**": _ADAPTER,
    "**.processor.to_k_ip.**": _ADAPTER,
    "**.processor.to_v_ip.**": _ADAPTER,
}
"""Tensors in the files of UNets that are not the UNet's, and what to say of them; dotted paths in
which `**` stands for one or more parts."""


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
        """Names without those that only count steps or batches."""
        unique = dict.fromkeys(name for name in names if not name.endswith(_COUNTING))
        return cls(where, tuple(sorted(unique)))

    def describe(self) -> dict[str, int]:
        """The names in words: how many, by name, or by a component that several share."""
        heads = Counter(name.partition(".")[0] for name in self.names)
        return dict(
            Counter(
                f"{head}.*" if heads[head] > 1 and head != name else name
                for name in self.names
                for head in (name.partition(".")[0],)
            )
        )

    def record(self) -> dict[str, dict[str, int]]:
        """The names as an entry of a record; none where nothing was left out."""
        return {"left_out": self.describe()} if self.names else {}

    def warnings(self) -> list[str]:
        """A warning that names them, with what is known of them; none if nothing was left out."""
        if not self.names:
            return []
        what = f"{len(self.names)} tensors that are no part of what was loaded"
        reasons = {name: reason for name in self.names if (reason := _known(name))}
        rest = (
            []
            if len(reasons) == len(self.names)
            else [f"left out of {self.where}: {what}: {self.listed()}"]
        )
        return [*rest, *(f"{self.where}: {reason}" for reason in dict.fromkeys(reasons.values()))]

    def listed(self) -> str:
        """The names, counted and shortened, for a line."""
        rows = [f"{name} ({n})" if n > 1 else name for name, n in self.describe().items()]
        rest = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        return ", ".join(rows[:_SHOWN]) + rest


def _known(name: str) -> str | None:
    """A remark on a tensor, if it is a known one."""
    paths = ((pattern.replace("**", "*"), reason) for pattern, reason in SAVED_ADAPTER.items())
    return next((reason for pattern, reason in paths if fnmatchcase(name, pattern)), None)


NOTHING = LeftOut("", ())
