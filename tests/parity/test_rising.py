"""Limits of free runs: what grows is no fault, what jumps is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipa.backend.tap import Tap
from ipa.parity.capture.floors import Floors
from ipa.parity.compare.comparing_tap import difference, floors
from ipa.parity.compare.limits import FREE_FACTOR, Limits
from ipa.parity.compare.measures import Difference
from ipa.parity.compare.rising import risen

FLOOR, OWN = 1e-6, 1e-7
STAGES = [f"step.{n // 4:03d}/{path}" for n, path in enumerate(
    ("unet.conv_in", "unet.mid_block", "prediction", "latents") * 6)]  # fmt: skip


def limits(own: dict[str, float] | None = None) -> Limits:
    known = Floors(dict.fromkeys(STAGES, FLOOR), dict.fromkeys(STAGES, OWN))
    return Limits.of("float32", known, own or {}, forced=False)


def run(ratios: list[float], of: Limits) -> list[Difference]:
    a = np.linspace(1, 2, 500)
    return [
        difference(stage, a, a * (1 + ratio * FLOOR), of)
        for stage, ratio in zip(STAGES, ratios, strict=True)
    ]


def test_rounding_may_grow_from_step_to_step() -> None:
    grown = [1.15**n for n in range(len(STAGES))]
    assert not [one.stage for one in risen(run(grown, limits()), limits()) if one.bad]
    beyond = [1.25**n for n in range(len(STAGES))]  # up to 170: more than any run may be off
    bad = [one for one in risen(run(beyond, limits()), limits()) if one.bad]
    assert bad and bad[0].ratio == pytest.approx(FREE_FACTOR, rel=0.3)


def test_a_jump_is_a_fault_and_hides_no_other() -> None:
    ratios = [1.0] * len(STAGES)
    ratios[1], ratios[5] = 8.0, 9.0
    found = risen(run(ratios, limits()), limits())
    assert [one.stage for one in found if one.bad] == [STAGES[1], STAGES[5]]
    wide = replace(limits(), local={})  # of one kind of floors alone, as before
    assert risen(run(ratios, wide), wide) == tuple(run(ratios, wide))
    own = limits({STAGES[1]: 1e-4})
    assert [one.stage for one in risen(run(ratios, own), own) if one.bad] == [STAGES[5]]


def test_what_keeping_lost_is_no_growth() -> None:
    found = run([1.0] * len(STAGES), limits())
    half = replace(found[0], lost=5e-4, limit=found[0].limit + 5e-4,
                   measures=replace(found[0].measures, relative_l2=4e-4))  # fmt: skip
    bad = run([1.0, 8.0, *[1.0] * (len(STAGES) - 2)], limits())[1]
    marked = risen([half, bad, *found[2:]], limits())
    assert [one.bad for one in marked[:3]] == [False, True, False]


def test_guidance_magnifies_the_last_bits_of_its_input(draw: np.random.Generator) -> None:
    """A run in float64 has it in float32, too, and would find no rounding at all."""
    empty = draw.standard_normal((1, 4, 8, 8)).astype(np.float32)
    rows = np.concatenate([empty, empty * np.float32(1.001)])

    def guide(rows: np.ndarray) -> np.ndarray:
        return rows[:1] + np.float32(7.5) * (rows[1:] - rows[:1])

    def run(tap: Tap) -> None:
        instead = tap("step.000/prediction", rows)
        tap("step.000/guided", guide(rows if instead is None else instead))

    known = {"step.000/prediction": rows, "step.000/guided": guide(rows)}
    assert floors(known, run, forced=True)["step.000/guided"] > 5 * 2.0**-24
