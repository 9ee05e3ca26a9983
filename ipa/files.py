"""Files that are written whole or not at all: the only place that knows how."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .errors import RequestError

_LEGIBLE = 40  # characters of a hidden name that say whose it is; no file system has fewer bytes


def put_whole(
    target: Path,
    write: Callable[[BinaryIO], object],
    give_name: Callable[[Path, Path], Path] | None = None,
) -> Path:
    """Write a file under a hidden name beside its own, and give it its name when it is on disk.

    Args:
        target: The name.
        write: Writes the contents.
        give_name: Names the finished file, the hidden one, and returns the name that it got; by
            default the target, which it replaces.

    Returns:
        The name.

    Raises:
        OSError: It cannot be written. Nothing is left, as after any other error of `write`.
    """
    hidden = target.with_name(f".{target.stem[:_LEGIBLE]}-{secrets.token_hex(4)}.partial")
    try:
        with hidden.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        return hidden.replace(target) if give_name is None else give_name(hidden, target)
    finally:
        with suppress(OSError):
            hidden.unlink()


def write_whole(target: Path, contents: bytes) -> None:
    """Write bytes with `put_whole`. Raises RequestError if it cannot."""
    try:
        put_whole(target, lambda file: file.write(contents))
    except OSError as error:
        raise RequestError(f"{target} cannot be written", found=str(error)) from error


def take_name(hidden: Path, name: Path) -> Path:
    """Give a file a name that is free, with no moment between looking and taking.

    Raises:
        FileExistsError: It is taken.
    """
    try:
        os.link(hidden, name)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: take the name with an empty file first
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        hidden.replace(name)
    else:
        hidden.unlink()
    return name
