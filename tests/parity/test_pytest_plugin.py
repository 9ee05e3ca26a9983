"""The plugin, in a project of a user's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = {
    "pytest.ini": "[pytest]\nparity_budget = limits/budget.toml\n",
    "limits/budget.toml": '[stages]\n"*" = 1e-3\n"y.*" = 1e-4\n"mlp.act" = 1e-5\n',
    "sub/lost.toml": '[stages]\n"mlp.act" = 1e-6\n',
    "sub/tight.toml": '[stages]\n"x.*" = 1e-6\n',
    "sub/test_own.py": """
import numpy as np

a = {f"x.{n}": np.arange(1.0, 9.0) + n for n in range(40)}
b = {name: array * (1.01 if name == "x.7" else 1 + 1e-5) for name, array in a.items()}
same = {name: array * (1 + 1e-5) for name, array in a.items()}

def test_by_the_budget_of_the_project(parity):
    assert len(parity.assert_close(a, same).differences) == 40

def test_one_part(parity):
    parity.assert_close(a, same)
    parity.assert_close(a, b)

def test_by_a_budget_beside_the_test(parity):
    parity.assert_close(a, same, "tight.toml")

def test_another_row(parity):
    parity.assert_close({"y.1": a["x.1"]}, {"y.1": a["x.1"]})

def test_a_row_of_a_budget_of_its_own(parity):
    parity.assert_close(a, same, "lost.toml")
""",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What pytest printed, and where the reports are."""
    root = tmp_path_factory.mktemp("project")
    for name, text in PROJECT.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--parity-report", "found", str(root)],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout, root / "found"


def test_failures_show_their_stages(run: tuple[str, Path]) -> None:
    told, _ = run
    assert "3 failed, 2 passed" in told
    head, section = told.split("parity, comparison 2", 1)
    assert "parity, comparison 1" not in head  # that one was good
    rows = [line.split()[0] for line in section.splitlines() if line.startswith("x.")]
    assert rows[:4] == ["x.4", "x.5", "x.6", "x.7"]
    assert "b departs from a at x.7: relative L2 0.01 of 0.001 allowed" in section
    assert "… and 10 stages more" in section
    assert "40 of 40 stages are bad" in told


def test_rows_of_a_project_are_for_all_of_its_tests(run: tuple[str, Path]) -> None:
    """One that a single test lacks is no error; one that none has is told, once."""
    told, _ = run
    assert told.count("limits/budget.toml: of no stage of this session: mlp.act\n") == 1
    assert "no stage is called 'mlp.act'" in told  # of the budget that a call named


def test_reports_of_all_comparisons(run: tuple[str, Path]) -> None:
    _, folder = run
    found = {path.name: json.loads(path.read_text("utf-8")) for path in folder.iterdir()}
    stem = "sub_test_own.py_test_"
    assert {name: told["ok"] for name, told in found.items()} == {
        f"{stem}by_the_budget_of_the_project.1.json": True,
        f"{stem}one_part.1.json": True,
        f"{stem}one_part.2.json": False,
        f"{stem}by_a_budget_beside_the_test.1.json": False,
        f"{stem}another_row.1.json": True,
    }
    assert found[f"{stem}one_part.2.json"]["first_bad"] == "x.7"


def test_it_costs_nothing_until_it_is_used() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import ipa.parity.pytest_plugin\n"
        "print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] not in "
        "sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = ["ipa", "ipa.old_homes", "ipa.parity", "ipa.parity.pytest_plugin", "ipa.version"]
    assert done.stdout.strip() == str(ours)
