"""Old imports: an error that names the new home, or they work."""

from __future__ import annotations

import importlib
import re

import pytest

import ipa  # noqa: F401  # it answers
from ipa.old_homes import OLD_HOMES


@pytest.mark.parametrize("old", OLD_HOMES)
def test_an_old_import_names_the_new_home(old: str) -> None:
    told = f"{re.escape(old)} has moved; import from {re.escape(OLD_HOMES[old])}"
    with pytest.raises(ModuleNotFoundError, match=told):
        importlib.import_module(old)


@pytest.mark.parametrize("old", OLD_HOMES)
def test_so_does_a_name_taken_from_its_package(old: str) -> None:
    package, _, name = old.rpartition(".")
    with pytest.raises(ImportError, match=f"{re.escape(old)} has moved"):
        exec(f"from {package} import {name}", {})  # as a person's program does


def test_names_of_packages_are_in_their_new_homes() -> None:
    for old, new in OLD_HOMES.items():
        package, _, name = old.rpartition(".")
        if package == "ipa.prepare.images":
            assert hasattr(importlib.import_module(new), name), old


def test_the_new_homes_are_there() -> None:
    for old, new in OLD_HOMES.items():
        for home in re.sub(r" \([^)]*\)", "", new).split(", "):
            assert importlib.import_module(home), (old, home)


def test_names_that_moved_from_a_module_are_in_their_new_homes() -> None:
    for old, new in OLD_HOMES.items():
        for home, names in re.findall(r"([\w.]+) \(([^)]*)\)", new):
            module = importlib.import_module(home)
            assert all(hasattr(module, name) for name in names.split(", ")), (old, home, names)


def test_what_never_was_is_missing_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'ipa\.nothing'"):
        importlib.import_module("ipa.nothing")


def test_faces_that_keep_an_old_name() -> None:
    """Modules that became packages still give what was imported from them most."""
    from ipa.pipeline import Pipeline
    from ipa.prepare.images import open_image

    assert Pipeline.__name__ == "Pipeline" and callable(open_image)
