"""The run that is kept as data, and captures held to budgets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipa import demo, parity
from ipa.errors import IncompatibleCaptures
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.sketch import Sketch
from ipa.parity.compare.comparing_tap import ComparingTap
from ipa.parity.compare.limits import Limits
from ipa.parity.recorded import Recorded, recorded

RUN = demo.recorded() / "run.safetensors"


@pytest.fixture(scope="module")
def kept() -> Recorded:
    return recorded()


def test_it_is_small_and_whole(kept: Recorded) -> None:
    assert sum(path.stat().st_size for path in demo.recorded().iterdir()) <= 600_000
    assert {"float32", "float16"} == kept.floors.keys()
    assert all(floors.keys() == kept.capture.stages.keys() for floors in kept.floors.values())
    whole = [name for name, one in kept.capture.stages.items() if not isinstance(one, Sketch)]
    assert sum(name.endswith("/latents") for name in whole) == 9
    assert not any("/" in fact and fact.startswith("/") for fact in
                   kept.capture.header.environment.values())  # fmt: skip


def test_captures_are_held_to_budgets(kept: Recorded) -> None:
    budget = {"stages": {"step.*": {"factor": 3}, "decode/image": 1e-6}}
    same = parity.assert_close(RUN, str(RUN), budget, floors=kept.floors["float32"])
    assert len(same.differences) == len(kept.capture.stages)
    stages = dict(kept.capture.stages)
    stages["step.004/latents"] = np.asarray(stages["step.004/latents"]) * np.float32(1 + 1e-5)
    changed = Capture(kept.capture.header, stages)
    with pytest.raises(
        parity.FirstDifferenceError, match=r"at step\.004/latents .*: relative L2 1e-5 of"
    ):
        parity.assert_close(RUN, changed, budget, floors=kept.floors["float32"])
    other = Capture(replace(kept.capture.header, request={"seed": 8}), stages)
    with pytest.raises(IncompatibleCaptures, match="seed"):
        parity.assert_close(RUN, other, budget, floors=kept.floors["float32"])


@pytest.mark.parametrize("sketched", [False, True])
def test_one_row_is_held_to_each_of_several(draw: np.random.Generator, *, sketched: bool) -> None:
    """Rows that one machine computes alike differ in their last bits on another."""
    row = draw.standard_normal((1, 4, 99)).astype(np.float32)
    tap = ComparingTap({"x": Sketch.of(row) if sketched else row}, Limits())
    tap("x", np.concatenate([row, row * np.float32(1 + 1e-6)]))
    tap("x", np.concatenate([row, row * np.float32(1.1)]))
    close, off = (one.measures.relative_l2 for one in tap.differences)
    assert close < 1.3e-6
    assert off == pytest.approx(0.1 if sketched else 0.1 / 2**0.5, rel=0.2)
