"""What the judge gave is kept for one state of everything that it rests on, and for no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from oracle import judged
from oracle.digest import NoDigestError, digest
from oracle.judged import Judged
from oracle.runs.suite import Suite, parts
from oracle.workshop import Workshop

GIVEN = np.arange(6, dtype=np.float32).reshape(2, 3)


@dataclass(frozen=True)
class Case:
    """Of two kinds of values."""

    name: str = "a"
    given: Any = None


class Judge:
    """Gives another result every time, so that one that is kept is known."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> np.ndarray:
        self.runs += 1
        return GIVEN + self.runs


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "weights").write_bytes(b"1234")
    return tmp_path / "model"


@pytest.fixture
def kept(tmp_path: Path) -> Judged:
    return Judged(tmp_path / "kept", "state")


def test_a_case_is_judged_once(kept: Judged, model: Path) -> None:
    judge = Judge()
    for _ in range(2):
        found = kept.get(judge, Case(), [model])
        assert np.array_equal(found, GIVEN + 1)
        assert (found.dtype, found.shape) == (np.float32, (2, 3))
    assert judge.runs == 1


CHANGES: dict[str, Callable[[Judged, Path], tuple[Judged, Any]]] = {
    "another case": lambda kept, _: (kept, Case("b")),
    "another state": lambda kept, _: (replace(kept, state="other"), Case()),
    "computed afresh": lambda kept, _: (replace(kept, fresh=True), Case()),
    "another byte": lambda kept, model: (
        kept,
        (model / "unet" / "weights").write_bytes(b"1235") and Case(),
    ),
    "another name": lambda kept, model: (kept, (model / "unet").rename(model / "net") and Case()),
    "another file": lambda kept, model: (kept, (model / "new").write_bytes(b"1") and Case()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_judged_again(change: str, kept: Judged, model: Path) -> None:
    judge = Judge()
    kept.get(judge, Case(), [model])
    changed, case = CHANGES[change](kept, model)
    assert np.array_equal(changed.get(judge, case, [model]), GIVEN + 2)


@pytest.mark.parametrize(
    "damage",
    [lambda b: b"", lambda b: b[:-1], lambda b: b[:40], lambda b: b[:-1] + bytes([b[-1] ^ 1])],
    ids=["empty", "cut off", "begun", "one bit"],
)
def test_a_damaged_entry_is_judged_again(
    damage: Callable[[bytes], bytes], kept: Judged, model: Path
) -> None:
    judge = Judge()
    kept.get(judge, Case(), [model])
    (entry,) = (kept.root / kept.state).iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    for _ in range(2):
        assert np.array_equal(kept.get(judge, Case(), [model]), GIVEN + 2)
    assert list((kept.root / kept.state).iterdir()) == [entry]


def test_where_nothing_can_be_written(tmp_path: Path, model: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    kept, judge = Judged(tmp_path / "file", "state"), Judge()
    assert [kept.get(judge, Case(), [model]).min() for _ in range(2)] == [1, 2]


def test_old_states_go(tmp_path: Path, model: Path) -> None:
    for number in range(9):
        Judged(tmp_path / "kept", f"{number}").get(Judge(), Case(), [model])
    names = {path.name for path in (tmp_path / "kept").iterdir()}
    assert len(names) == judged._MOST
    assert "8" in names


def state() -> str:
    judged._state.cache_clear()
    try:
        return judged._state()
    finally:
        judged._state.cache_clear()


@pytest.mark.parametrize("package", ["torch", "diffusers", "transformers", "numpy"])
def test_another_version_is_another_state(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, version = state(), judged.version
    assert state() == before
    monkeypatch.setattr(judged, "version", lambda n: "0.0" if n == package else version(n))
    assert state() != before


def test_another_line_is_another_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {path.name for path in judged.sources()}
    assert {"pipelines.py", "samplers.py", "suite.py", "judged.py", "schedulers.py"} <= names
    before, source = state(), next(p for p in judged.sources() if p.name == "pipelines.py")
    (tmp_path / source.name).write_text(source.read_text("utf-8") + "#\n", "utf-8")
    changed = [tmp_path / p.name if p == source else p for p in judged.sources()]
    monkeypatch.setattr(judged, "sources", lambda: changed)
    assert state() != before


@pytest.mark.parametrize("name", ["MKL_CBWR", "ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS"])
def test_another_setting_is_another_state(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state()
    monkeypatch.setenv(name, "some other")
    assert state() != before


def test_another_number_of_threads_is_another_state() -> None:
    before, threads = state(), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert state() != before
    finally:
        torch.set_num_threads(threads)


VALUES: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "a text": lambda: "1",
    "a number": lambda: 1,
    "a fraction": lambda: 1.0,
    "a truth": lambda: True,
    "a list": lambda: ["1"],
    "a tuple": lambda: ("1",),
    "two texts": lambda: ["1", "2"],
    "one of two letters": lambda: ["12", ""],
    "nested": lambda: [["1"], "2"],
    "by name": lambda: {"1": 2},
    "an array": lambda: GIVEN,
    "of another shape": lambda: GIVEN.reshape(3, 2),
    "of another type": lambda: GIVEN.astype(np.float64),
    "of another value": lambda: np.nextafter(GIVEN, 9),
    "large, the middle differs": lambda: np.insert(np.zeros(5000), 2500, 1e-9),
    "large": lambda: np.zeros(5001),
    "a tensor": lambda: torch.from_numpy(GIVEN),
    "a picture": lambda: Image.new("L", (2, 2), 3),
    "another picture": lambda: Image.new("L", (2, 2), 4),
    "a case": lambda: Case("1"),
    "one with a list": lambda: Case("1", [2]),
    "a function": lambda: test_a_case_is_judged_once,
    "what is in one": lambda: _adding(1),
    "something else in one": lambda: _adding(2),
}


def _adding(number: int) -> Callable[[int], int]:
    return lambda other: number + other


def test_every_value_has_a_hash_of_its_own() -> None:
    first, second = ({name: digest(make()) for name, make in VALUES.items()} for _ in range(2))
    assert first == second
    assert len(set(first.values())) == len(VALUES)


@pytest.mark.parametrize(
    "value",
    [object(), iter([1]), np.array([object()]), {1, 2}],
    ids=["object", "iterator", "objects", "set"],
)
def test_what_cannot_be_seen_has_none(value: Any) -> None:
    with pytest.raises(NoDigestError, match="no digest of"):
        digest([value])


def _written(workshop: Workshop, name: str) -> Path:
    return workshop.made(name, lambda path: path.write_text(name))


def _theirs(case: str, workshop: Workshop) -> np.ndarray:
    return GIVEN + len(_written(workshop, "a").read_text() + _written(workshop, "b").read_text())


def test_a_file_that_a_suite_does_not_name_is_told(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path / "workshop")

    def suite(*names: str) -> Suite:
        return Suite("s", {}, _theirs, _theirs, lambda _, w: [_written(w, name) for name in names])

    known = Judged(tmp_path / "kept", "state")
    with pytest.raises(AssertionError, match="names not all of"):
        suite("a").expected("case", workshop, known)
    assert suite("a", "b").expected("case", workshop, known).min() == 2


def test_the_nets_of_others_are_left_out(tmp_path: Path) -> None:
    for name in ("unet", "own", "other"):
        (tmp_path / name).mkdir()
    assert [p.name for p in parts(tmp_path, {"own", "other"}, ["own"])] == ["own", "unet"]


def test_only_the_judge_is_kept() -> None:
    """One place asks for what is kept, and gives it diffusers' side alone."""
    here = Path(__file__).parents[1]
    asking = {
        path.relative_to(here).as_posix()
        for path in here.rglob("*.py")
        if "oracle.judged" in path.read_text("utf-8") and path != Path(__file__)
    }
    assert asking == {"oracle/runs/suite.py"}
