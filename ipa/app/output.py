"""Writing pictures: checked before anything is computed, whole or not at all, and never lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ipa.errors import RequestError
from ipa.files import put_whole
from ipa.metadata.ours import NO_HASHES, FileHashes
from ipa.metadata.writing import AS_USUAL, FORMATS, Saved, format_of, picture_file

from .claims import claim, free_paths
from .session import session, writes
from .terminal import say

_SUFFIX = ".png"


def output_paths(
    output: Path, count: int, name: Callable[[Path], Path] | None = None
) -> list[Path]:
    """One path per picture: as given for one, with -1, -2, … before the suffix for several.

    A name without a suffix gets .png. Names that are taken are numbered (`ipa.app.claims`).

    Args:
        output: What was asked for.
        count: The number of pictures.
        name: Completes and checks the name: `png_name`, or `picture_name`.

    Raises:
        RequestError: A path has another end, cannot be written, or is a picture that the command
            reads.
    """
    target = (name or png_name)(output)
    check_writable(target)
    paths = free_paths(target, count)
    is_typed = session().was_typed(output)
    if is_typed or session().overwrites:
        for path in (target, *paths):
            writes(path)
    if is_typed and count == 1 and paths != [target]:
        say(
            "[yellow]note:[/]",
            f"{target} exists already and is kept; {paths[0]} is written (--overwrite replaces it)",
        )
    return paths


def png_name(output: Path) -> Path:
    """A name that ends in .png. Raises RequestError for one that ends otherwise."""
    if output.suffix.lower() == _SUFFIX:
        return output
    # "v1.5" and "style 0.7" are names, too: what follows the point is no kind of file.
    if not output.suffix[1:].isalpha():
        return output.with_name(output.name + _SUFFIX)
    raise RequestError(
        f"{output}: pictures are written as PNG, which keeps the request inside",
        found=f"suffix {output.suffix!r}",
        remedy="use a name that ends in .png",
    )


def picture_name(output: Path) -> Path:
    """A name that ends in .png, .jpg, .jpeg or .webp. Raises RequestError for another end."""
    if format_of(output) is not None:
        return output
    if not output.suffix[1:].isalpha():
        return output.with_name(output.name + _SUFFIX)
    raise RequestError(
        f"{output}: pictures are written as PNG, JPEG or WebP",
        found=f"suffix {output.suffix!r}",
        remedy=f"use a name that ends in {', '.join(FORMATS)}",
    )


def check_writable(output: Path) -> None:
    """Raise RequestError, before anything is computed, where a file cannot be written."""
    if output.is_dir():
        raise RequestError(f"{output} is a folder", remedy="give a file name")
    folder = output.parent
    if not folder.is_dir():
        raise RequestError(f"{folder} does not exist", remedy="create the folder first")
    try:
        with tempfile.TemporaryFile(dir=folder):
            writable = os.access(output, os.W_OK) if output.exists() else True
    except OSError as error:
        raise RequestError(f"{folder} cannot be written to", found=str(error)) from error
    if not writable:
        raise RequestError(f"{output} cannot be overwritten", remedy="choose another name")


def save_png(
    image: Image.Image, path: Path, info: dict[str, Any] | None = None, output: Path | None = None
) -> Path:
    """Write a PNG under a temporary name, then name it, so that no half-written file is left.

    Args:
        image: The picture.
        path: Its name; taken meanwhile, it is numbered.
        info: What stands in it.
        output: What it is numbered by, where the name has a number already.

    Returns:
        The name that it has.

    Raises:
        RequestError: It could not be written there; it says where the picture is instead.
    """
    saving = Saving(output or path)
    saving.save(image, path, info)
    return saving.finish()[0]


@dataclass(frozen=True, slots=True)
class Saving:
    """A saver of one command's pictures, one after another; if the disk is full, somewhere else.

    Attributes:
        output: What they are numbered by.
        saved: How they are written.
        hashes: Of the files of weights.
        notes: What their files could not hold.
        done: Where they are.
        rescued: Those that are in a temporary folder.
        failed: Why; and how many are lost, as even that had no room.
    """

    output: Path
    saved: Saved = AS_USUAL
    hashes: FileHashes = NO_HASHES
    notes: list[str] = field(default_factory=list)
    done: list[Path] = field(default_factory=list)
    rescued: list[Path] = field(default_factory=list)
    failed: list[OSError] = field(default_factory=list)

    def save(
        self,
        image: Image.Image,
        path: Path,
        info: dict[str, Any] | None = None,
        references: Sequence[bytes] = (),
    ) -> None:
        """Save one picture. Errors are raised by `finish`, after the others are saved."""
        made = picture_file(
            image,
            info,
            kind=format_of(path) or "PNG",
            saved=self.saved,
            hashes=self.hashes,
            references=references,
        )
        self.notes.extend(note for note in made.notes if note not in self.notes)
        try:
            self.done.append(_write(made.data, path, self.output))
            return
        except OSError as error:
            self.failed.append(error)
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="ipa-mlx-"))
            self.rescued.append(_write(made.data, folder / path.name, folder / path.name))

    def finish(self) -> list[Path]:
        """The paths of the pictures. Raises RequestError if one is not where it was asked for."""
        if not self.failed:
            return self.done
        lost = len(self.failed) - len(self.rescued)
        places = [f"kept as {', '.join(map(str, self.rescued))}"] if self.rescued else []
        places += [f"{lost} lost: no room in {tempfile.gettempdir()} either"] if lost else []
        count = len(self.failed)
        raise RequestError(
            f"{count} finished picture{'s' * (count > 1)} could not be written to "
            f"{self.output.parent.resolve()}: {'; '.join(places)}",
            found=str(self.failed[0]),
            remedy="make room there, and move what was kept",
        ) from self.failed[0]


def _write(data: bytes, path: Path, output: Path) -> Path:
    return put_whole(
        path,
        lambda file: file.write(data),
        lambda hidden, name: claim(hidden, name, output),
    )
