"""Files that are written whole or not at all, whatever goes wrong while they are written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest

from ipa.errors import RequestError
from ipa.files import put_whole, take_name, write_whole


def test_a_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    target, seen = tmp_path / "a.txt", []

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        seen.append(target.read_bytes())

    target.write_bytes(b"old")
    assert put_whole(target, write) == target
    assert seen == [b"old"] and target.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_of_a_file_that_could_not_be_written(
    error: BaseException, tmp_path: Path
) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        put_whole(target, write)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_name_that_is_taken_stays_somebody_elses(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        put_whole(target, lambda file: file.write(b"new"), take_name)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_finished_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    old = os.umask(0o027)
    try:
        plain.write_bytes(b"")
        write_whole(whole, b"")
    finally:
        os.umask(old)
    assert whole.stat().st_mode == plain.stat().st_mode


def test_names_that_are_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    write_whole(tmp_path / ("ü" * 127), b"")
    with pytest.raises(RequestError, match="cannot be written"):
        write_whole(tmp_path / "missing" / "a.txt", b"")
