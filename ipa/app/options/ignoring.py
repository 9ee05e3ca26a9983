"""--ignore: which file's surplus tensors are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ipa.errors import RequestError


def named_source(text: str) -> tuple[str | None, str]:
    """Split [NAME=]SOURCE; a path that is there is one, whatever its name looks like."""
    name, equals, source = text.partition("=")
    return (None, text) if not equals or Path(text).exists() else (name, source)


@dataclass(frozen=True, slots=True)
class Ignored:
    """The patterns of --ignore: the model's own, and by file those of what is loaded beside it."""

    of_model: tuple[str, ...]
    by_file: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(
        cls, texts: Sequence[str] | None, beside: Sequence[tuple[str | None, str]] = ()
    ) -> Ignored:
        """Parse [FILE=]NAME each, FILE being a name or a file's name without its ending.

        Args:
            texts: As typed.
            beside: Names and sources of what is loaded beside the model.

        Raises:
            RequestError: Nothing of that name is loaded.
        """
        known = [one for name, source in beside for one in _names(name, source)]
        own, others = list[str](), dict[str, tuple[str, ...]]()
        for text in texts or ():
            file, equals, pattern = text.partition("=")
            if not equals:
                own.append(text)
                continue
            if file not in known:
                raise RequestError(
                    "--ignore FILE=NAME is about a file that is loaded beside the model",
                    found=f"{file}; there is {', '.join(dict.fromkeys(known)) or 'none'}",
                    remedy="name one of --lora, --adapter or --controlnet, without its ending; "
                    "NAME alone is of the model",
                )
            others[file] = (*others.get(file, ()), pattern)
        return cls(tuple(own), others)

    def of_file(self, name: str | None, source: str) -> tuple[str, ...]:
        """The patterns for a file that is loaded under a name."""
        names = dict.fromkeys(_names(name, source))
        return tuple(pattern for one in names for pattern in self.by_file.get(one, ()))


def _names(name: str | None, source: str) -> list[str]:
    return [*([name] if name else []), Path(source).stem]
