"""Budgets as people give them, and what "auto" comes to."""

from __future__ import annotations

import numpy as np
import pytest

from ipa.errors import RequestError
from ipa.memory.budget import parse_budget
from ipa.memory.machine import MachineMemory, system_memory
from ipa.memory.plan import GIB

MAC = MachineMemory(total=8 * GIB, available=6 * GIB, recommended=5 * GIB)
LINUX = MachineMemory(total=8 * GIB, available=5 * GIB)


@pytest.mark.parametrize(
    ("given", "machine", "bytes_"),
    [
        (None, MAC, None),
        (4, MAC, 4 * GIB),
        (0.5, MAC, GIB // 2),
        (np.float32(1.5), MAC, 3 * GIB // 2),
        ("auto", MAC, int(4.5 * GIB)),
        ("auto", LINUX, 4 * GIB),
    ],
)
def test_budget_in_bytes(given: object, machine: MachineMemory, bytes_: int | None) -> None:
    assert parse_budget(given, machine) == bytes_


@pytest.mark.parametrize(
    "given",
    [0, -1, 0.01, 5000, float("nan"), float("inf"), 10**400, True, "4", "most", [4], {}, b"auto"],
)
def test_what_is_no_budget_names_the_range(given: object) -> None:
    with pytest.raises(RequestError, match=r"GiB from 0.0625 to 4096"):
        parse_budget(given, MAC)


def test_the_share_is_said() -> None:
    assert "90%" in MAC.automatic_words
    assert "80%" in LINUX.automatic_words


def test_the_system_tells_its_memory() -> None:
    found = system_memory()
    assert 0 < found.available <= found.total
