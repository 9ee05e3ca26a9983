"""What opening the reference says to torch's libraries, and what it leaves to the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipa_torch import startup

# Stands in for torch: keeps what MKL and OpenMP would read, when they would.
STAND_IN = """
import os
at_load = dict(os.environ)
class ones:
    def __init__(self, *shape): pass
    def __matmul__(self, other):
        global at_product
        at_product = dict(os.environ)
"""
SEEN = """
import json, os, sys
before = dict(os.environ)
from ipa_torch.startup import start
start()
import torch
at = torch.at_load.get("OMP_WAIT_POLICY")
print(json.dumps([at, torch.at_product.get("MKL_CBWR"), dict(os.environ) == before]))
"""
STEADY = """
from ipa_torch.startup import has_steady_products, start
start()
print(has_steady_products())
"""
PASSIVE = "PASSIVE" if sys.platform == "linux" else None
VARIABLES = {"MKL_CBWR", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
ROOT = Path(startup.__file__).parents[1]


def child(code: str, *folders: Path, **variables: str) -> str:
    """What a process prints whose environment has these of the variables above, and no other."""
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    path = os.pathsep.join(map(str, (*folders, ROOT)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=own | variables | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("variables", "waiting", "products"),
    [
        ({}, PASSIVE, "AUTO"),
        ({"MKL_CBWR": ""}, PASSIVE, "AUTO"),
        ({"MKL_CBWR": "COMPATIBLE"}, PASSIVE, "COMPATIBLE"),
        ({"OMP_WAIT_POLICY": "ACTIVE", "MKL_CBWR": "AVX2"}, "ACTIVE", "AVX2"),
        ({"GOMP_SPINCOUNT": "5"}, None, "AUTO"),
        ({"KMP_BLOCKTIME": "7"}, None, "AUTO"),
    ],
)
def test_what_the_user_left_open_is_said_and_taken_back(
    variables: dict[str, str], waiting: str | None, products: str, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(STAND_IN)
    assert json.loads(child(SEEN, tmp_path, **variables)) == [waiting, products, True]


@pytest.mark.parametrize(
    ("before", "variables"),
    [
        ("import torch\n", {}),
        ("", {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "4"}),
    ],
)
def test_products_are_the_same_wherever_they_lie(before: str, variables: dict[str, str]) -> None:
    """Also where the program had loaded torch, and had not used it yet; and in this process."""
    assert child(before + STEADY, **variables) == "True"
    assert startup.has_steady_products()


def test_both_ways_in_begin_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a model, and asking what it would run on; importing the package does not."""
    import ipa
    import ipa_torch

    begun: list[str] = []
    monkeypatch.setattr(startup, "start", lambda: begun.append("start"))
    ipa_torch.environment()
    ipa.load("demo", backend="torch", device="cpu")
    assert begun == ["start"] * 2
