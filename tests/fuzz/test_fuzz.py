"""A short run of `make fuzz`, and every file of its corpus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz import corpus
from ipa.errors import CheckpointError
from ipa_convert import inspect
from ipa_convert.containers.checkpoint import open_file

INPUTS = 2000
TESTS = Path(corpus.__file__).parents[1]
READ = {"stride-of-one.zip"}  # of what mutants have found; the rest of that is refused


def test_the_corpus_is_what_its_function_makes() -> None:
    made = {**corpus.handmade(), **corpus.regressions()}
    saved = corpus.load()
    assert made.keys() == saved.keys()
    assert [name for name, data in made.items() if data != saved[name]] == []
    assert sum(map(len, saved.values())) < 300_000


@pytest.mark.parametrize("name", corpus.load())
def test_a_file_of_the_corpus(name: str) -> None:
    path = corpus.FOLDER / name
    if name in corpus.regressions().keys() - READ:
        with pytest.raises(CheckpointError) as caught:
            open_file(path)
        assert len(str(caught.value)) < len(str(path)) + 400, "a message, not a dump"
        return
    for tensor in open_file(path).values():
        assert tensor.array().shape == tensor.shape
        tensor.release()
    assert inspect(path).tensors == len(open_file(path))


def test_mutants(tmp_path: Path) -> None:
    """In a process of its own: the audit hook and the tracer stay with it. Measured: 5 s."""
    words = ["--inputs", str(INPUTS), "--seed", "5", "--processes", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", *words],
        env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["failures"] == {} and report["inputs"] == INPUTS
    assert min(report["containers"].values()) > INPUTS // 10
    assert INPUTS // 20 < report["accepted"] < INPUTS // 2, "some are sound, most are not"
    assert report["novelties"] > 50 and report["kept"] > 50


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("raise ValueError(path)", "ValueError"),
        ("raise CheckpointError('no')", "a message without"),
        ("raise CheckpointError(str(path), found='x' * 999, remedy='y')", "a dump"),
        ("while True: pass", "slow"),
        ("bytes(9 << 20)", "memory"),
        ("open(str(path) + '.new', 'w')", "side effect"),
        ("import wave", "side effect"),
        ("os.system('true')", "side effect"),
    ],
)
def test_harm_is_seen(harm: str, found: str, tmp_path: Path) -> None:
    """A reader that does each of these is caught."""
    code = f"""
import os
from pathlib import Path
from fuzz import attempt
from ipa.errors import CheckpointError
examiner, path = attempt.Examiner(), Path({str(tmp_path / "input")!r})
path.write_bytes(b"x")
attempt.SECONDS, sound = 0.2, attempt.open_file
for _ in range(2):
    verdict = examiner.examine(path)
    assert verdict.failure == "", verdict
def harmful(path):
    {harm}
    return sound(path)
attempt.open_file = harmful
print(examiner.examine(path).failure)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert found in done.stdout, done.stdout + done.stderr
