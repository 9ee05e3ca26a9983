"""Schemathesis over the whole API of a server, with an engine of paper.

PYTHONPATH=tests .venv/bin/python -m benchmarks.api_fuzz --examples 100

Valid bodies may be refused, since a schema cannot say what a picture's base64 is, nor which names
are offered: its check of that is left out. All others are held.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from oracle.served import paper_server

_ALL = "examples,coverage,fuzzing,stateful"


@dataclass(frozen=True)
class Found:
    """What schemathesis found: its words, and how many operations and cases it tried."""

    failed: bool
    text: str
    operations: int
    cases: int


def fuzz(examples: int, phases: str = _ALL, seed: int = 7) -> Found:
    """Run schemathesis against a server on a free port."""
    with paper_server() as (server, _), tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        command += ["--max-examples", str(examples), "--phases", phases, "--mode", "all"]
        command += ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
        command += ["--seed", str(seed), "--no-color"]
        quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, cwd=folder, env=quiet, capture_output=True, text=True)
    text = done.stdout + done.stderr
    operations = re.search(r"Tested: (\d+)", text)
    cases = re.search(r"(\d+) generated", text)
    return Found(
        failed=done.returncode != 0,
        text=text,
        operations=int(operations[1]) if operations else 0,
        cases=int(cases[1]) if cases else 0,
    )


def main() -> None:
    """Print what was found; the exit code is schemathesis'."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--phases", default=_ALL)
    parser.add_argument("--report", type=Path, help="write the words there too")
    given = parser.parse_args()
    logging.disable(logging.WARNING)  # thousands of refusals, each of them as it should be
    found = fuzz(given.examples, given.phases)
    if given.report:
        given.report.write_text(found.text, "utf-8")
    print(found.text)
    sys.exit(found.failed)


if __name__ == "__main__":
    main()
