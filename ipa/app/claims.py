"""Names for what is written: nothing that is there is overwritten, unless --overwrite says so.

A name that is taken is numbered: NAME-2, NAME-3, … Two processes that ask for one name at once get
one each: a finished file gets its name by a hard link, which fails where the name is taken.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ipa.errors import RequestError
from ipa.files import take_name

from .session import session


def free_paths(output: Path, count: int) -> list[Path]:
    """One path a picture: as asked for, or the next numbers where names are taken.

    One picture is NAME, or NAME-2, NAME-3, … Several are NAME-1, NAME-2, …, all of them after the
    largest number that is there if one of theirs is taken.
    """
    if count == 1:
        return [output if session().overwrites else next(_free(output))]
    numbers = range(1, count + 1)
    if not session().overwrites and any(_exists(numbered(output, number)) for number in numbers):
        last = max(_numbers(output))
        numbers = range(last + 1, last + count + 1)
    return [numbered(output, number) for number in numbers]


def numbered(output: Path, number: int) -> Path:
    """A path with a number before its suffix: NAME-3.png of NAME.png."""
    return output.with_stem(f"{output.stem}-{number}")


def claim(temporary: Path, path: Path, output: Path | None = None) -> Path:
    """Give a finished file its name, or the next number if somebody took that meanwhile.

    Args:
        temporary: The file, in the same folder; it is gone afterwards.
        path: The name.
        output: What the numbers are of; by default the name.

    Returns:
        The name that it got.
    """
    if session().overwrites:
        temporary.replace(path)
        return path
    for name in itertools.chain([path], _free(output or path, 2)):
        with suppress(FileExistsError):
            return take_name(temporary, name)
    raise AssertionError  # numbers do not end


def require_new(path: Path) -> None:
    """Raise RequestError for a name that is taken, unless --overwrite was typed.

    For files that scripts go on with by their name, as captures: a number would mislead them.
    """
    if _exists(path) and not session().overwrites:
        raise RequestError(
            f"{path} exists already", remedy="choose another name, or add --overwrite"
        )


def _free(output: Path, first: int = 1) -> Iterator[Path]:
    """Names with a number that no file has yet; 1 is the name itself."""
    for number in itertools.count(first):
        name = output if number == 1 else numbered(output, number)
        if not _exists(name):
            yield name


def _exists(path: Path) -> bool:
    return os.path.lexists(path)


def _numbers(output: Path) -> Iterator[int]:
    """The numbers of the files of this name that are there."""
    pattern = re.compile(re.escape(output.stem) + r"-(\d{1,9})" + re.escape(output.suffix))
    for path in output.parent.iterdir():
        if found := pattern.fullmatch(path.name):
            yield int(found[1])
