"""The session of a command: what was typed, which files it reads and writes.

It lasts as long as the command: `ipa.app.command.Command` begins it. Outside of one, as in a test
of a function, nothing is typed and nothing is kept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ipa.errors import RequestError
from ipa.prepare.images.pictures import open_image

from .events import EventLines

RESTORED = "ipa.restored"
"""Where a context keeps such arguments."""

HASHES = "ipa.hashes"
"""Where it keeps the names and hashes of the pictures that those stand for."""

_WRITTEN = ("output", "show_reference", "influence", "preview")


@dataclass(frozen=True, slots=True)
class Session:
    """What one command typed, reads and writes.

    Attributes:
        context: Of typer; None outside of a command.
        pictures: The files that were read as pictures, and what they hold.
        outputs: Names that were asked for, of files to write.
        told: Warnings that were shown already.
        events: Where programs are told what happens; None where nobody asked.
    """

    context: Any = None
    pictures: list[tuple[Path, Image.Image]] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    events: EventLines | None = None

    def typed(self, name: str) -> bool:
        """Whether an option was typed, by the name of its parameter."""
        if self.context is None:
            return False
        source = self.context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    def was_typed(self, value: object) -> bool:
        """Whether a file to write was typed that has this name."""
        params = {} if self.context is None else self.context.params
        return any(params.get(name) == value and self.typed(name) for name in _WRITTEN)

    @property
    def restored(self) -> dict[str, Any]:
        """The arguments that --from took out of a picture; none where its files are at hand."""
        return {} if self.context is None else dict(self.context.meta.get(RESTORED, {}))

    @property
    def overwrites(self) -> bool:
        """Whether --overwrite was typed."""
        return self.context is not None and bool(self.context.params.get("overwrite"))


_CURRENT: ContextVar[Session | None] = ContextVar("session", default=None)


def session() -> Session:
    """The session of the command that runs; an empty one outside of any."""
    return _CURRENT.get() or Session()


@contextmanager
def begun(context: Any) -> Iterator[Session]:
    """A context with a new session. Raises RequestError where --events asks for what is not."""
    made = Session(context, events=EventLines.asked(context.params.get("events")))
    token = _CURRENT.set(made)
    try:
        yield made
    finally:
        _CURRENT.reset(token)


def open_picture(file: str | os.PathLike[str]) -> Image.Image:
    """Open a picture, and note that this command reads it.

    Raises:
        RequestError: It is no picture, or the command is to write over it.
    """
    path, current = Path(file), session()
    image = open_image(path)
    current.pictures.append((path, image))
    for output in current.outputs:
        _check_apart(path, output)
    return image


def writes(path: Path) -> None:
    """Note that a command is to write a file. Raises RequestError if it reads that one."""
    current = session()
    current.outputs.append(path)
    for picture, _ in current.pictures:
        _check_apart(picture, path)


def _check_apart(picture: Path, output: Path) -> None:
    try:
        is_same = picture.samefile(output)
    except OSError:  # one of them is not there
        is_same = False
    if is_same:
        raise RequestError(
            f"{output} is one of the pictures that this command reads",
            found="the same file as an input and as an output",
            remedy="choose another name for what is written",
        )
