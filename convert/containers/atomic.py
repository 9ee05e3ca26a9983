"""Files and folders that appear under their names complete, or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ipa.errors import CheckpointError
from ipa.files import take_name


def require_new(target: Path) -> None:
    """Raise CheckpointError if a file or folder of that name exists."""
    if os.path.lexists(target):
        kind = "folder" if target.is_dir() else "file"
        raise CheckpointError(
            f"{target} exists already", remedy=f"choose another name, or delete this {kind}"
        )


def take_new_name(hidden: Path, target: Path) -> Path:
    """Give a finished file its name. Raises CheckpointError if that was taken meanwhile."""
    try:
        return take_name(hidden, target)
    except FileExistsError:
        require_new(target)
        raise


def not_written(target: Path, error: OSError) -> CheckpointError:
    """The CheckpointError for an OSError of a write: a full or read-only disk."""
    return CheckpointError(
        f"{target} could not be written",
        found=error.strerror or str(error),
        remedy="check the free space and the permissions of the folder",
    )


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends well, and is gone if it does not.

    Raises:
        CheckpointError: It cannot be written, or somebody else took the name meanwhile.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        _remove_leftovers(target)
        temporary.mkdir(parents=True)
        yield temporary
        require_new(target)
        try:
            temporary.rename(target)
        except OSError:
            require_new(target)  # somebody else was faster, at the last moment
            raise
        with suppress(OSError):  # not every system can; the folder is whole
            _flush_folder(target.parent)
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed runs have left beside the target; that of living ones stays."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)-[0-9a-f]{{8}}\.partial")
    for path in target.parent.glob(".*.partial") if target.parent.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match and not _is_running(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk (fsync), so that a new name outlives a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_space(folder: Path, needed: int) -> None:
    """Raise CheckpointError if the disk of a folder has less room than so many bytes."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder.parent}: the disk is too small for the converted model",
            found=f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed",
            remedy="choose another folder, or a half-precision dtype",
        )
