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
import ipa_mlx.networks.layers
from ipa import ImagePrompt
from ipa.arrays import Floats
from ipa.backend.tap import Tap
from ipa.errors import Cancelled
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.capture_file import read, write
from ipa.parity.compare.captures import compare
from ipa.parity.compare.comparing_tap import ComparingTap, floors
from ipa.parity.compare.descent import HELD, descend
from ipa.parity.compare.limits import Limits
from ipa.parity.compare.live import Subject, compare_live
from ipa.parity.compare.rising import risen
from ipa.parity.recording import capture
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


class UntilBad(ComparingTap):
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

    def request(self, seed: int, steps: int = 1) -> dict[str, Any]:
        picture = self.pictures[seed % len(self.pictures)]
        own: dict[str, Any] = {"width": 64, "height": 64, "original_size": (1024, 1000)}
        if self.family == "sd":
            start = self.pictures[(seed + 1) % len(self.pictures)].resize((64, 64))
            own = {"image": start, "strength": 1.0, "negative_prompt": "a circle"}
        return own | {
            "prompt": "a star",
            "image_prompts": ImagePrompt(picture, scale=0.7, mask=SLOPE),
            "num_inference_steps": steps,
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

    @functools.cache  # noqa: B019 - as long as the module
    def capture(
        self, backend: str, seed: int, *, steps: int = 1, with_floors: bool = False
    ) -> Capture:
        """A run of a sound pipeline."""
        return self.recorded(self.pipe(backend), seed, steps, with_floors=with_floors)

    def recorded(
        self, pipe: ipa.Pipeline, seed: int, steps: int = 1, *, with_floors: bool = False
    ) -> Capture:
        """A run, recorded."""
        request = self.request(seed, steps)

        def exact() -> Callable[[Tap], object]:
            return lambda tap: self.exact(**request, tap=tap)

        return capture(pipe, request, exact={"float32": exact} if with_floors else {})

    def against(self, pipe: ipa.Pipeline, reference: str, seed: int) -> ComparingTap:
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


@pytest.mark.parametrize("seed", range(4))
def test_no_false_alarm_in_free_runs(seed: int, labs: dict[str, Lab]) -> None:
    """Two captures of which one carries floors, each way round, with several steps."""
    backend = "mlx" if seed % 2 else "torch"
    lab = labs["xl" if seed // 2 else "sd"]
    reference = lab.capture(OTHER[backend], seed, with_floors=True)
    found = compare(reference, lab.capture(backend, seed))
    assert found.ok, found.verdict.sentence


# Measured: all 23 are named by their own stage; these take every way that a fault may be small.
FREE = [
    *("group-norm epsilon", "quick-gelu for gelu", "timestep off by one", "sums in bfloat16"),
    *("λ of the call before", "factor of the VAE", "a coefficient of the sampler"),
]


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if fault.name in FREE], ids=lambda fault: fault.name
)
def test_two_captures_name_a_fault(
    fault: Fault, labs: dict[str, Lab], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As from a machine with CUDA to a Mac: nothing is forced, and the file has the floors."""
    lab = labs[fault.family]
    write(tmp_path / "a.safetensors", lab.capture(OTHER[fault.backend], 0, with_floors=True))
    pipe = lab.pipe(fault.backend)
    fault.plant(pipe, monkeypatch)
    found = compare(read(tmp_path / "a.safetensors"), lab.recorded(pipe, 0))
    assert found.first_bad is not None
    assert found.first_bad.stage == fault.stage


@pytest.mark.parametrize("family", ["sd", "xl"])
@pytest.mark.parametrize(("ulps", "is_good"), [(1, True), (-1, True), (100, False)])
def test_another_libm_is_no_fault(
    family: str,
    ulps: int,
    is_good: bool,
    labs: dict[str, Lab],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every frequency of every sinusoid off by its last bit, in three ways to compare."""
    lab, steps = labs[family], 2  # of one step the timestep is 1, where no bit matters
    reference = lab.capture("torch", 0, steps=steps, with_floors=True)
    monkeypatch.setattr(ipa_mlx.networks.layers, "np", Numpy(ulps))
    pipe = lab.pipe("mlx")
    known, request = reference.floors["float32"], lab.request(0, steps)
    limits = [
        Limits.of("float32", known, forced=True),
        Limits.of("float32", known, forced=False),
        Limits("float32", forced=True),
    ]
    for own in limits:
        tap = ComparingTap(reference.stages, own, forced=own.forced)
        pipe(**request, tap=tap)
        bad = [one.stage for one in risen(tap.differences, own) if one.bad]
        assert (bad == []) == is_good, bad
        inputs = {"condition/unet.add_embedding.input"} if family == "xl" else set()
        if own.forced and not is_good:
            assert set(bad) == inputs | {"step.000/unet.time_proj", "step.001/unet.time_proj"}


class Numpy:
    """numpy, whose exponentials are off by some last bits of a float32."""

    def __init__(self, ulps: int) -> None:
        self._ulps = ulps

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def exp(self, x: Any) -> Any:
        exact = np.exp(x).astype(np.float32)
        return exact + self._ulps * np.spacing(exact)


def test_a_departure_that_comes_first_hides_no_other(
    labs: dict[str, Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fault,) = (fault for fault in FAULTS if fault.name == "gate for value in GEGLU")
    lab = labs["sd"]
    reference, pipe = lab.capture("torch", 0, steps=2, with_floors=True), lab.pipe("mlx")
    monkeypatch.setattr(ipa_mlx.networks.layers, "np", Numpy(100))
    fault.plant(pipe, monkeypatch)
    subject = Subject.of(pipe, lab.request(0, 2))
    known = reference.floors["float32"]
    found = compare_live(reference, subject, mode="teacher-forced", floors=known).verdict
    assert found.first is not None
    assert found.first.stage == "step.000/unet.time_proj"
    kinds = {kind.name: kind.count for kind in found.kinds}
    assert kinds == {"unet.time_proj": 2, "unet.….ff.net.0": 2}
    assert "of 2 kinds: unet.time_proj ×2 (worst" in found.sentence
    assert "unet.….ff.net.0 ×2 (worst" in found.sentence


DEEP = ("gate for value in GEGLU", "factor of the VAE", "group-norm epsilon")


@pytest.mark.parametrize("held", [HELD, 1 << 20])
@pytest.mark.parametrize("name", DEEP)
def test_the_way_down_to_a_fault(
    name: str, held: int, labs: dict[str, Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    (fault,) = (fault for fault in FAULTS if fault.name == name)
    lab = labs[fault.family]
    reference, pipe = lab.pipe(OTHER[fault.backend]), lab.pipe(fault.backend)
    runs = [functools.partial(own, **lab.request(0)) for own in (reference, pipe, lab.exact)]
    reference_run, run, exact = ((lambda tap, own=own: own(tap=tap)) for own in runs)
    clean = descend(reference_run, run, Limits(), exact, held)
    assert clean.first is None
    assert (clean.passes > 2) == (held < HELD)
    fault.plant(pipe, monkeypatch)
    found = descend(reference_run, run, Limits(), exact, held)
    assert found.first is not None
    assert found.first.stage == fault.stage
