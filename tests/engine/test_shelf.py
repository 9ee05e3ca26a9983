"""The shelf of an engine, asked from other threads while its owner changes it."""

from __future__ import annotations

import sys
from threading import Thread

import pytest

import ipa
from ipa.engine.shelf import Loaded, Shelf

KEYS = [(f"model {number}", "") for number in range(20)]


@pytest.fixture
def often() -> object:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often")
def test_what_is_loaded_is_told_while_it_changes() -> None:
    shelf = Shelf(len(KEYS), None)
    loaded = Loaded(ipa.load("demo", backend="mlx", lazy=True))
    for key in KEYS:
        shelf._last(key, loaded)

    def change() -> None:
        for number in range(4000):
            shelf._last(KEYS[number % len(KEYS)], loaded)

    owner = Thread(target=change)
    owner.start()
    while owner.is_alive():
        assert len(shelf.describe()) == len(KEYS)
    owner.join()
