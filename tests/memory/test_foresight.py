"""Plans of memory against what a run of the demo takes, and what is done about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from PIL import Image

import ipa
from ipa import demo
from ipa.errors import RequestError
from ipa.memory.machine import MachineMemory
from ipa.memory.plan import GIB, MemoryPlan, in_words
from ipa.pipeline.memory import allotment
from ipa.pipeline.memory.foresight import NOT_FORETOLD
from ipa.pipeline.memory.staging import Staging
from ipa_mlx.residency import MlxResidency

LEAST = 4 << 20  # bytes of work below which the queue of small things is a share of it
PICTURE = Image.radial_gradient("L").convert("RGB")


def call(**more: Any) -> dict[str, Any]:
    prompts = [ipa.ImagePrompt([PICTURE, PICTURE], adapter="base")]
    given = {"prompt": "a star", "image_prompts": prompts, "num_inference_steps": 1}
    return {**given, "width": 160, "height": 128, **more}


def opened(backend: str = "mlx", **options: Any) -> ipa.Pipeline:
    pipe = ipa.load("demo", backend=backend, **options)
    pipe.load_ip_adapter(demo.adapter("base"), name="base")
    return pipe


@contextmanager
def stages_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, int]]]:
    """By stage: the peak, and what was there when it began, both beside what is there now."""
    mx.synchronize()
    found: dict[str, tuple[int, int]] = {}
    now, begun, enter = "", mx.get_active_memory(), Staging.enter

    def entered(self: Staging, name: str) -> None:
        nonlocal now, begun
        found.setdefault(now, (mx.get_peak_memory(), begun))
        enter(self, name)
        now, begun = name, mx.get_active_memory()
        mx.reset_peak_memory()

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "enter", entered)
        mx.reset_peak_memory()
        yield found
        found.setdefault(now, (mx.get_peak_memory(), begun))


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({}, {}),
        ({}, {"num_images": 2, "guidance_scale": 1.0}),
        ({}, {"width": 256, "height": 224}),
        ({"dtype": "float16"}, {}),
        ({"quantize": 8}, {}),
        ({"quantize": 4}, {"image": PICTURE.resize((160, 128)), "strength": 1.0}),
        ({}, {"forecast": True, "num_inference_steps": 40}),
        ({}, {"cache_interval": 2, "cache_branch": 2, "num_inference_steps": 4}),
    ],
    ids=[
        *("float32", "two pictures", "larger", "float16", "8 bit", "4 bit, from a picture"),
        *("forecast", "reused"),
    ],
)
def test_stages_take_what_was_foretold(
    options: dict[str, Any], more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work beside what is held, within 10 %; measured: 0.5 to 6 %."""
    pipe = opened(**options)
    plan = pipe.plan(**call(**more))
    with stages_counted(monkeypatch) as found:
        pipe(**call(**more))
    told = {stage.name: stage.working for stage in plan.stages if stage.working > LEAST}
    assert {"denoise", "decode"} <= told.keys()
    taken = {name: found[name][0] - found[name][1] for name in told}
    assert told == pytest.approx(taken, rel=0.1)


def test_a_controlnet_is_in_the_plan(
    monkeypatch: pytest.MonkeyPatch, controlled: ipa.Pipeline
) -> None:
    edges = PICTURE.resize((160, 128))
    more = {"controls": [ipa.Control(edges, name="edges")]}
    plan, without = controlled.plan(**call(**more)), controlled.plan(**call())
    assert plan.stage("denoise").working > without.stage("denoise").working
    assert plan.stage("denoise").resident["controlnet edges"] > 0
    with stages_counted(monkeypatch) as found:
        controlled(**call(**more))
    for name in ("condition", "denoise"):
        peak, begun = found[name]
        assert plan.stage(name).working == pytest.approx(peak - begun, rel=0.1)


@pytest.fixture
def controlled() -> ipa.Pipeline:
    pipe = opened()
    pipe.load_controlnet(demo.controlnet(), name="edges")
    return pipe


@pytest.mark.parametrize("bits", [None, 8, 4])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bytes_of_parts_told_by_headers_are_those_of_arrays(dtype: str, bits: int | None) -> None:
    pipe = opened(dtype=dtype, quantize=bits, lazy=True)
    residency = pipe._loaded.backend.residency
    told = {name: part.nbytes for name, part in residency.parts().items()}
    for name in ("unet", "vae", "text_encoder", "image_encoder"):
        network = residency.networks[name].get()
        assert sum(a.nbytes for _, a in tree_flatten(network.parameters())) == told[name]


def test_a_plan_reads_nothing() -> None:
    pipe = opened(lazy=True)
    plan = pipe.plan(**call())
    assert not any(part.is_here for part in pipe._loaded.backend.residency.parts().values())
    held = {name for stage in plan.stages for name in stage.resident}
    assert held == {"unet", "vae", "text_encoder", "image_encoder", "adapter base", "kept"}
    assert [stage.name for stage in plan.stages] == [
        *("text", "images", "condition", "denoise", "decode"),
    ]
    json.dumps(plan.describe())


def test_a_staged_plan_holds_what_its_stages_use() -> None:
    pipe = opened(memory_budget=1)
    plan = pipe.plan(**call())
    assert plan.staged and plan.fits and plan.budget == GIB
    assert plan.stage("text").resident.keys() == {"text_encoder"}
    assert plan.stage("decode").resident.keys() == {"vae"}
    assert plan.stage("denoise").resident.keys() == {"unet", "kept"}


def test_offers_keep_their_word() -> None:
    """Each offer's peak is that of the plan with the change made."""
    pipe = opened()
    given = call(width=256, height=256, num_images=2)
    plan = pipe.plan(**given)
    offers = {offer.name: offer for offer in plan.offers}
    assert all(offer.peak < plan.peak for offer in plan.offers)
    pipe.vae_memory = "strips"
    assert offers["strips"].peak == pipe.plan(**given).peak
    pipe.memory_budget = 4
    one = pipe.plan(**given | {"num_images": 1})
    assert offers["staged + strips + fewer pictures"].peak == one.peak
    assert not any("quantize" in name and offers[name].same_picture for name in offers)


def test_offers_of_few_bits() -> None:
    given = call(width=64, height=64)
    offers = {offer.name: offer.peak for offer in opened().plan(**given).offers}
    found = opened(quantize=4).plan(**given).peak
    assert offers["quantize 4"] == pytest.approx(found, rel=0.01)
    assert not any("quantize" in o.name for o in opened(quantize=4).plan(**given).offers)


def test_a_budget_that_cannot_be_met_says_which_can() -> None:
    pipe = opened(memory_budget=0.0625)
    with pytest.raises(RequestError, match=r"budget of 64 MiB.*stage decode.*smallest budget"):
        pipe(**call(width=512, height=512))
    assert pipe(**call(width=64, height=64)).images


def machine_of(total: int) -> Callable[[MlxResidency], MachineMemory]:
    return lambda _: MachineMemory(total, total)


def test_large_sizes_without_a_budget_are_answered_first(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, large = opened(), call(width=1024, height=768)
    peak = pipe.plan(**large).peak
    monkeypatch.setattr(MlxResidency, "machine", machine_of(peak - 1))
    with pytest.raises(RequestError, match="more memory than the machine has"):
        pipe.stream(**large)
    pipe(**call())  # a small one is not asked


def test_a_run_that_takes_most_of_the_machine_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipe, large = opened(), call(output_type="latent")
    monkeypatch.setattr(allotment, "_UNASKED", 64 * 64)
    peak = pipe.plan(**large).peak
    monkeypatch.setattr(MlxResidency, "machine", machine_of(peak + 1))
    found = pipe(**large).info
    assert any("the machine may swap" in text for text in found["warnings"])
    assert found["memory"]["foreseen_peak_bytes"] == peak


def test_a_large_run_says_what_it_takes_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, large = opened(), call(output_type="latent")
    monkeypatch.setattr(allotment, "_UNASKED", 64 * 64)
    plan = pipe.plan(**large)
    peak, most = plan.peak, max(plan.stages, key=lambda stage: stage.peak)
    monkeypatch.setattr(MlxResidency, "machine", machine_of(3 * peak))
    first, *others = pipe.stream(**large)
    assert first.notes == (f"this run takes {in_words(peak)} in the stage {most.name}",)
    assert not any(event.notes for event in others)
    monkeypatch.setattr(MlxResidency, "machine", machine_of(9 * peak))
    stream = pipe.stream(**large)
    assert next(stream).notes == ()
    stream.close()


def test_torch_tells_the_bytes_of_parts_alone() -> None:
    plan: MemoryPlan = opened("torch").plan(**call())
    assert plan.notes == (NOT_FORETOLD,)
    assert plan.stage("decode").working == 0
    assert plan.stage("decode").resident["unet"] > 1 << 20
