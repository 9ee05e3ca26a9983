"""What a picture keeps of the command that made it, and the way back from there to a command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa.errors import RequestError
from ipa.metadata.reading import Told, read_told
from ipa.request.pictures import picture_sha256

from .session import HASHES, Session, session

# What says where results go and how a run is watched, and not what is made.
NOT_KEPT = frozenset(
    {
        *("output", "overwrite", "as_json", "preview", "preview_decoder", "show_reference"),
        *("influence", "from_", "picture", "offline", "seed", "num_images", "memory_budget"),
        *("embed_references", "metadata", "no_metadata", "quality"),
    }
)
COMMAND, PICTURES = "command", "made_with"
WORDS, _PROMPT = "text", "--prompt"  # a prompt that stands alone, and its option


@dataclass(frozen=True, slots=True)
class Line:
    """A command as it was typed.

    Attributes:
        name: Of the command.
        options: Each option with its text, or alone if it has none.
    """

    name: str
    options: tuple[tuple[str, ...], ...]

    def shell(self) -> str:
        """The command quoted for a shell: `~` stays the home folder, which names nobody."""
        words = [self._word(option) for option in self.options]
        return " ".join(["ipa-mlx", self.name, *words])

    def _word(self, option: tuple[str, ...]) -> str:
        return " ".join([option[0], *map(shlex.quote, option[1:])])


def provenance(request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON-able: the command that runs, and the names of its pictures with their hashes.

    Args:
        request: As it is described, for what was drawn or counted: its seed. None is of a sweep.
    """
    current = session()
    if current.context is None:
        return {}
    options = [list(option) for option in _typed(current)]
    if request is not None:
        options += [["--seed", str(request["seed"])]]
        if request["num_images"] > 1:
            options += [["--num-images", str(request["num_images"])]]
    pictures = {_portable(str(path)): picture_sha256(image) for path, image in current.pictures}
    return {
        COMMAND: {"name": current.context.info_name, "options": options},
        PICTURES: {**current.context.meta.get(HASHES, {}), **pictures},
    }


def _typed(current: Session) -> Iterator[tuple[str, ...]]:
    for option in current.context.command.params:
        if option.name in NOT_KEPT or not current.typed(option.name):
            continue
        name = max(option.opts, key=len)
        value = current.context.params[option.name]
        if option.name == WORDS:
            yield _PROMPT, " ".join(value)
            continue
        if value is True or value is False:
            yield (name if value else max(option.secondary_opts, key=len),)
            continue
        for entry in value if isinstance(value, (list, tuple)) else (value,):
            yield name, _portable(str(entry))


def _portable(text: str) -> str:
    """A word with `~` for the home folder, at the beginning and after NAME=."""
    home = f"{Path.home()}/"
    for head in ("", text.partition("=")[0] + "="):
        if text.startswith(head + home):
            return f"{head}~/{text[len(head + home) :]}"
    return text


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a picture that we made.

    Raises:
        RequestError: It is none, or says nothing.
    """
    return our_metadata(path, read_told(path))


def our_metadata(path: Path, told: Told) -> dict[str, Any]:
    """What a picture says that we made. Raises RequestError if it says nothing."""
    if told.ours is None or not {"request", COMMAND, "axes"} & told.ours.keys():
        raise RequestError(
            f"{path} does not say how it was made",
            found="no text of ipa-mlx" if told.ours is None else "other text",
            remedy="give one that ipa-mlx generate or sweep wrote, and no program saved since",
        )
    return dict(told.ours)


def line_of(metadata: Mapping[str, Any]) -> Line | None:
    """The command in a picture's metadata. None for one of an older version.

    Raises:
        RequestError: It is damaged.
    """
    command = metadata.get(COMMAND)
    if command is None:
        return None
    try:
        options = _with_prompt(tuple(option) for option in command["options"])
        words = [command["name"], *(word for option in options for word in option)]
    except (LookupError, TypeError) as error:
        raise RequestError("the command in a picture is damaged", found=repr(error)[:80]) from error
    if not all(isinstance(w, str) for w in words) or not all(1 <= len(o) <= 2 for o in options):
        raise RequestError("the command in a picture is damaged", found=repr(options)[:80])
    return Line(command["name"], options)


def _with_prompt(options: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Options with --prompt for a prompt that stood alone: older pictures keep its words apart."""
    given = list(options)
    words = [option[1] for option in given if option[0] == WORDS]
    prompt = [(_PROMPT, " ".join(words))] if words else []
    return (*prompt, *(option for option in given if option[0] != WORDS))
