"""FEATURES.md names a test for everything that it promises."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "FEATURES.md").read_text("utf-8").splitlines()
    if line.startswith("| ")
    and not line.startswith(("| Adapter |", "| File |", "| Control |", "| Program |"))
]


@cache
def names_in(file: str) -> set[str]:
    body = ast.parse((ROOT / file).read_text("utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_promise_has_its_test(row: list[str]) -> None:
    _, here, proof = row
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", proof)
    assert all(name in names_in(file) for file, name in named), named
    assert named or here.startswith("no")


def test_the_tables_are_whole() -> None:
    assert len(ROWS) > 40
