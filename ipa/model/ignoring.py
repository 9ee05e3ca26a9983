"""Tensors that a caller lets go of by name: patterns, which must name some, and never needed ones.

What a network does not know is refused, since a weight that is left out in silence is a picture
that is wrong in silence. Who knows better says so by name.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ipa.errors import RequestError, shown

REASON = "left out, as ignore asks"
REMEDY = "ipa.load, every load_ of a file and convert leave out what `ignore` names"


@dataclass(frozen=True, slots=True)
class Contents:
    """The names of tensors in a file: all that are used, and all that were left out."""

    names: tuple[str, ...]
    left_out: tuple[str, ...]

    def ignored(self, ignore: Ignore) -> list[str]:
        """Those that were left out and that patterns name."""
        return [name for name in self.left_out if ignore.matches(name)]


@dataclass(frozen=True, slots=True)
class Ignore:
    """Patterns on the names of tensors as a file spells them; `*` stands for anything, dots too."""

    patterns: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: object) -> Ignore:
        """Read an argument `ignore=`: nothing, or names. Raises RequestError for anything else."""
        entries = (given,) if isinstance(given, str) else () if given is None else given
        if (
            not isinstance(entries, (list, tuple))
            or not all(isinstance(entry, str) and entry for entry in entries)
            or not all(entry.strip("*?.") for entry in entries)
        ):
            raise RequestError(
                "ignore takes names of tensors",
                found=shown(given),
                remedy='a list such as ["control_model.*"], in which * stands for any characters, '
                "but not for everything",
            )
        return cls(tuple(entries))

    def matches(self, name: str) -> bool:
        """Whether one of the patterns names this tensor."""
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)

    def check_all(self, where: str, *files: Contents) -> None:
        """Raise RequestError for a pattern that matches nothing in any of some files."""
        gone = [name for file in files for name in file.left_out]
        self.check(gone, [name for file in files for name in file.names], where)

    def check(self, left_out: Iterable[str], names: Iterable[str], where: str) -> None:
        """Raise RequestError for a pattern that matches nothing.

        Args:
            left_out: Names of the tensors that were left out.
            names: Those of all others.
            where: The file or folder, for messages.
        """
        if not self.patterns:
            return
        gone = tuple(left_out)
        present = tuple(dict.fromkeys((*names, *gone)))
        for pattern in self.patterns:
            if any(fnmatchcase(name, pattern) for name in gone):
                continue
            needed = [name for name in present if fnmatchcase(name, pattern)]
            if needed:
                raise RequestError(
                    f"ignore={pattern!r} names tensors that the model needs, and no other",
                    found=f"{len(needed)} in {where}, such as {min(needed)}",
                    remedy="leave the pattern out: nothing that is needed can be ignored",
                )
            near = _near(pattern, present)
            raise RequestError(
                f"ignore={pattern!r} names no tensor of {where}",
                found=f"{len(present)} tensors, none of which it fits",
                remedy=f"did you mean {near}?" if near else "see the names with ipa-mlx inspect",
            )


def _near(pattern: str, names: Collection[str]) -> str:
    """The names, or their beginnings, that are most like a pattern."""
    beginnings = {f"{name[:place]}.*" for name in names for place in _dots(name)}
    found = get_close_matches(pattern, [*names, *sorted(beginnings)], n=3, cutoff=0.6)
    return " or ".join(dict.fromkeys(found))


def _dots(name: str) -> list[int]:
    """The ends of a name's first components."""
    places = [place for place, letter in enumerate(name) if letter == "."]
    return places[:3]


NOTHING = Ignore()
