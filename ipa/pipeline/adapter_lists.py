"""diffusers' form of `load_ip_adapter`: several adapters at once, as lists beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa.checks import check_plain
from ipa.errors import RequestError
from ipa.request.scales import Scale
from ipa.sources.hub import HubOptions

from .adapters import AdapterOptions


class LoadOptions(AdapterOptions, HubOptions, total=False):
    """The keywords of `load_ip_adapter` that are the same for all."""

    image_encoder_folder: str | Path | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedAdapter:
    """An adapter to load: where it lies, its name and its scale."""

    source: str | Path
    weight_name: str | None
    subfolder: str
    name: str | None
    scale: Scale


_KINDS: Mapping[str, tuple[type, ...]] = {
    "source": (str, Path),
    "weight_name": (str, type(None)),
    "subfolder": (str,),
    "name": (str, type(None)),
}


def wanted_adapters(**given: Any) -> Sequence[WantedAdapter]:
    """The adapters to load: a list if an argument is one, or a tuple of the only adapter.

    Raises:
        RequestError: Lists are of different lengths, or an entry is of the wrong type.
    """
    lists = {name: value for name, value in given.items() if isinstance(value, (list, tuple))}
    lengths = {name: len(value) for name, value in lists.items()}
    count = max([1, *lengths.values()])
    if any(length not in (1, count) for length in lengths.values()):
        raise RequestError(
            "lists of several adapters have one entry for all of them, or one for each",
            found=", ".join(f"{name}: {length}" for name, length in lengths.items()),
        )
    wanted = [
        WantedAdapter(**{name: _entry(name, value, number, count) for name, value in given.items()})
        for number in range(count)
    ]
    return wanted if lists else tuple(wanted)


def _entry(name: str, value: Any, number: int, count: int) -> Any:
    if isinstance(value, (list, tuple)):
        value = value[number if len(value) == count else 0]
    check_plain(name, value, _KINDS.get(name))
    return value
