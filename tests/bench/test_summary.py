"""What is made of measured numbers: exponents, ratios pair by pair, groups, baselines."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.bench.cases import Case, baseline, does, grouped
from ipa.bench.conditions import _of_mac
from ipa.bench.process import Outcome
from ipa.bench.rounds import Rounds, Turn
from ipa.bench.summary import Spread, arms, exponent, growth
from ipa.bench.work import operations

STEP = Case(program="mlx", stage="step", base="demo", width=64, height=64)


def sized(side: int, **more: Any) -> Case:
    return Case(program="mlx", stage="step", base="demo", width=side, height=side, **more)


def turn(repeat: int, group: tuple[Case, ...], *seconds: list[float], peak: int = 0) -> Turn:
    """A process that found these seconds of its cases."""
    cases = [
        {
            "first": 9.0,
            "seconds": runs,
            "peak": 100 + peak,
            "held": 100,
            "process_peak": None,
            "process_held": None,
        }
        for runs in seconds
    ]
    found = {"facts": {}, "loading": 1.0, "gflops": [4.0, 6.0], "cases": cases}
    return Turn(repeat, group, Outcome(1.0, found))


@given(
    st.floats(-3, 3),
    st.floats(0.01, 100),
    st.lists(st.floats(0.5, 1e6), min_size=2, max_size=9, unique=True),
)
def test_the_exponent_of_a_power_is_its_own(power: float, factor: float, xs: list[float]) -> None:
    if math.log(max(xs) / min(xs)) < 0.1:
        return
    assert exponent(xs, [factor * x**power for x in xs]) == pytest.approx(power, abs=1e-9)


def test_squares_have_the_exponent_2() -> None:
    assert exponent([1, 2, 3, 10], [1, 4, 9, 100]) == pytest.approx(2, abs=1e-12)
    assert exponent([1, 2, 4], [5, 5, 5]) == 0
    # Of points on no power: the least squares of their logarithms.
    assert exponent([1, math.e], [1, math.e**3]) == pytest.approx(3)
    assert exponent([1, math.e, math.e**2], [1, math.e, 1]) == pytest.approx(0, abs=1e-12)


def test_the_median_and_the_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 10.0]) == Spread(2.5, 1.0, 10.0)
    assert Spread.of([]) is None


def test_an_arm_is_the_median_of_its_repeats_medians() -> None:
    group = (STEP,)
    rounds = Rounds([turn(0, group, [1.0, 2.0, 9.0]), turn(1, group, [4.0, 4.0, 4.0])])
    (arm,) = arms([group], rounds)
    assert arm.time == Spread(3.0, 1.0, 9.0)
    assert arm.first == (9.0, 9.0)
    assert arm.gflops == operations(STEP) / 3.0 / 1e9
    shares = [operations(STEP) / 1e9 / seconds / 5.0 for seconds in (2.0, 4.0)]
    assert arm.share == sum(shares) / 2


def test_programs_are_compared_repeat_by_repeat() -> None:
    """Two slow minutes fall on both: the ratio is 2, that of all medians would not be."""
    ours, theirs = (STEP,), (Case(**STEP.plain() | {"program": "diffusers", "settings": ()}),)
    rounds = Rounds()
    for repeat, slow in enumerate((1.0, 10.0, 10.0)):
        rounds.turns.append(turn(repeat, ours, [slow]))
        if repeat < 2:  # the last was ended
            rounds.turns.append(turn(repeat, theirs, [2 * slow]))
    _, other = arms([ours, theirs], rounds)
    assert other.ratio == Spread(2.0, 2.0, 2.0)
    assert other.ratio_to == STEP


def test_adapters_are_compared_run_by_run() -> None:
    group = (STEP, sized(64, adapters=1), sized(64, adapters=4, adapter="plus"))
    rounds = Rounds([turn(0, group, [1.0, 2.0], [1.1, 2.2], [2.0, 4.0])])
    plain, one, four = arms([group], rounds)
    assert plain.ratio is None
    assert one.ratio is not None and one.ratio.median == pytest.approx(1.1)
    assert four.ratio == Spread(2.0, 2.0, 2.0)
    assert {one.ratio_to, four.ratio_to} == {STEP}


def test_growth_beside_that_of_arithmetic() -> None:
    """Seconds that are the arithmetic's grow as it does; bytes are those beside what was held."""
    groups = [(sized(side),) for side in (64, 128, 256)]
    rounds = Rounds(
        [
            turn(0, group, [operations(group[0]) * 1e-9], peak=group[0].width ** 2)
            for group in groups
        ]
    )
    (row,) = growth(arms(groups, rounds))
    assert (row.over, row.values) == ("pixels", (64**2, 128**2, 256**2))
    assert row.seconds == pytest.approx(row.arithmetic)
    assert 1.0 < row.arithmetic < 2.0  # attention among the convolutions
    assert row.bytes == pytest.approx(1.0)


def test_growth_over_each_number_alone() -> None:
    cases = [sized(64, batch=n) for n in (1, 2)] + [sized(64, adapters=n) for n in (1, 2, 4)]
    groups = [(case,) for case in cases]
    rounds = Rounds([turn(0, group, [1.0]) for group in groups])
    rows = {row.over: row for row in growth(arms(groups, rounds))}
    assert {over: row.values for over, row in rows.items()} == {
        "batch": (1, 2),
        "adapters": (1, 2, 4),
    }
    assert rows["batch"].arithmetic == pytest.approx(1.0)
    assert 0 < rows["adapters"].arithmetic < 0.1
    assert rows["batch"].bytes is None  # nothing beside what was held: no power


def test_groups() -> None:
    """Ours that differ in adapters share a process; nothing else does."""
    one, other = sized(64, adapters=1), sized(128)
    theirs = [Case(program="diffusers", stage="step", adapters=n) for n in (0, 1)]
    assert grouped([STEP, other, one, *theirs, STEP]) == [
        (STEP, one),
        (other,),
        (theirs[0],),
        (theirs[1],),
    ]


def test_baselines() -> None:
    torch = Case(program="torch", stage="step", base="demo", width=64, height=64)
    with_one = sized(64, adapters=1, adapter="plus")
    cases = [STEP, torch, with_one]
    assert [baseline(case, cases) for case in cases] == [None, STEP, STEP]


def test_what_programs_do() -> None:
    def asked(program: str, stage: str, **more: Any) -> bool:
        return does(Case(program=program, stage=stage, **more))

    assert asked("mlx", "condition", adapters=2)
    assert asked("diffusers", "step", adapters=1) and asked("diffusers", "generation")
    assert not asked("diffusers", "condition") and not asked("diffusers", "generation", adapters=1)
    assert asked("x", "step", path="/folder") and not asked("x", "text", path="/folder")
    assert not asked("x", "step", path="/folder", base="demo")
    assert asked("x", "step", path="/own.py", base="demo")


def test_a_case_there_and_back() -> None:
    case = sized(64, settings=(("MLX_CONV_WINOGRAD", "0"),), dtype="float16", adapters=2)
    assert Case.of(case.plain()) == case
    assert case.name == "mlx demo step 64², float16, 2 base adapters, MLX_CONV_WINOGRAD=0"


def test_what_a_mac_says_of_its_power() -> None:
    told = _of_mac(
        "Now drawing from 'Battery Power'\n", " lowpowermode         1\n", "CPU_Speed_Limit \t= 60"
    )
    assert list(told) == ["Battery Power", "low power mode", "held to 60 % of its speed"]
    assert list(_of_mac("Now drawing from 'AC Power'", " lowpowermode 0", "")) == ["AC Power"]
