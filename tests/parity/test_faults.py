"""Planted faults: the lab names the stage in which each of them is made, and cries no wolf."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import ImagePrompt
from ipa.contract.backend import Floats
from ipa.contract.errors import Cancelled
from ipa.parity.against import Against, floors
from ipa.parity.descent import descend
from ipa.parity.limits import Limits
from ipa.parity.stages import split
from oracle.faults import FAULTS, Fault
from oracle.sealed import once

OTHER = {"mlx": "torch", "torch": "mlx"}
SLOPE = np.tile(np.linspace(0, 1, 128, dtype=np.float32) ** 2, (128, 1))


class Kept(dict[str, Floats]):
    """A tap that keeps everything."""

    def wants(self, stage: str) -> bool:
        return True

    def __call__(self, stage: str, array: Floats) -> None:
        self[stage] = array


class UntilBad(Against):
    """Stops the run at its first bad stage, to save time."""

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        instead = super().__call__(stage, array)
        if self.differences and self.differences[-1].bad:
            raise Cancelled(stage)
        return instead


@dataclass(eq=False)
class Lab:
    """Runs of one family of models; `pictures` are prompts and start."""

    folder: Path
    family: str
    pictures: list[Image.Image]
    open_pipeline: Callable[..., ipa.Pipeline]

    @functools.cached_property
    def exact(self) -> ipa.Pipeline:
        """The reference in double precision."""
        pipe = ipa.load(self.folder, backend="torch", dtype="float64", device="cpu")
        pipe.load_ip_adapter(self.folder / "plus.safetensors", name="plus")
        return pipe

    def pipe(self, backend: str) -> ipa.Pipeline:
        return self.open_pipeline(self.folder, backend, "plus")

    def request(self, seed: int) -> dict[str, Any]:
        picture = self.pictures[seed % len(self.pictures)]
        own: dict[str, Any] = {"width": 64, "height": 64}
        if self.family == "sd":
            start = self.pictures[(seed + 1) % len(self.pictures)].resize((64, 64))
            own = {"image": start, "strength": 1.0, "negative_prompt": "a circle"}
        return own | {
            "prompt": "a star",
            "image_prompts": ImagePrompt(picture, scale=0.7, mask=SLOPE),
            "num_inference_steps": 1,
            "guidance_scale": 3.0,
            "seed": seed,
        }

    @functools.cache  # noqa: B019 - as long as the module
    def reference(self, backend: str, seed: int) -> tuple[Kept, Limits]:
        """A run, and what each of its stages may be off where it is forced."""
        kept = Kept()
        self.pipe(backend)(**self.request(seed), tap=kept)
        rounding = floors(kept, lambda tap: self.exact(**self.request(seed), tap=tap), forced=True)
        return kept, Limits("float32", rounding, forced=True)

    def against(self, pipe: ipa.Pipeline, reference: str, seed: int) -> Against:
        """To the first bad stage, or to the end."""
        tap = UntilBad(*self.reference(reference, seed), forced=True)
        with contextlib.suppress(Cancelled):
            pipe(**self.request(seed), tap=tap)
        return tap


@pytest.fixture(scope="module")
def labs(
    tiny: Path,
    tiny_xl: Path,
    references: list[Image.Image],
    open_pipeline: Callable[..., ipa.Pipeline],
) -> dict[str, Lab]:
    large = [picture.resize((128, 128)) for picture in references]
    opened = once(open_pipeline)
    folders = {"sd": tiny, "xl": tiny_xl}
    return {name: Lab(folder, name, large, opened) for name, folder in folders.items()}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_stage_of_a_fault(
    fault: Fault, labs: dict[str, Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = labs[fault.family]
    lab.reference(OTHER[fault.backend], 0)
    pipe = lab.pipe(fault.backend)
    fault.plant(pipe, monkeypatch)
    tap = lab.against(pipe, OTHER[fault.backend], 0)
    assert [one.stage for one in tap.differences if one.bad] == [fault.stage]


@pytest.mark.parametrize("seed", range(10))
def test_no_false_alarm(seed: int, labs: dict[str, Lab]) -> None:
    backend = "mlx" if seed % 2 else "torch"
    lab = labs["xl" if seed % 4 // 2 else "sd"]
    tap = lab.against(lab.pipe(backend), OTHER[backend], seed)
    worst = max(tap.differences, key=lambda one: one.measures.relative_l2 / one.limit)
    assert not worst.bad, f"{worst.stage}: {worst.ratio} times the floor"


DEEP = ("gate for value in GEGLU", "factor of the VAE")


@pytest.mark.parametrize("name", DEEP)
def test_the_way_down_to_a_fault(
    name: str, labs: dict[str, Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    lab = labs[fault.family]
    reference, pipe = lab.pipe(OTHER[fault.backend]), lab.pipe(fault.backend)
    runs = [functools.partial(own, **lab.request(0)) for own in (reference, pipe, lab.exact)]
    reference_run, run, exact = ((lambda tap, own=own: own(tap=tap)) for own in runs)
    assert descend(reference_run, run, Limits(), exact).path == ()
    fault.plant(pipe, monkeypatch)
    path = [one.stage for one in descend(reference_run, run, Limits(), exact).path]
    assert path[-1] == fault.stage
    assert all(split(stage)[0] == split(fault.stage)[0] for stage in path)
