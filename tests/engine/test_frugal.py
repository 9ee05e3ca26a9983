"""A job in less memory: the same picture, within a smaller budget, and nothing left behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import ipa
from ipa import Engine, ImagePrompt, demo
from ipa.engine.frugal import SHARE, in_less_memory, lesser_budget
from ipa.errors import RequestError
from ipa.memory.plan import GIB, MemoryPlan, Offer, StageMemory

NEEDS = {"adapters": ["a=demo:base"]}


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine() as made:
        yield made


def call(side: int) -> dict[str, Any]:
    prompt = ImagePrompt(ipa.open_image(demo.references()[3]), adapter="a", scale=0.8)
    size = {"height": side, "width": side, "num_inference_steps": 1}
    return size | {"prompt": "a star", "image_prompts": [prompt], "seed": 1}


def budget_of(engine: Engine) -> Any:
    return engine.call(NEEDS, lambda pipe: pipe.memory_budget).result()


@pytest.mark.parametrize(("side", "taken"), [(96, []), (128, ["strips"])])
def test_the_same_picture_in_less(engine: Engine, side: int, taken: list[str]) -> None:
    """On a fresh engine, as a new worker's is, and on one that has other models loaded.

    Where nothing was taken, bits are the same; strips are the whole picture to rounding.
    """
    gc.collect()
    others = mx.get_active_memory()  # what other tests of this process keep
    first = engine.submit(NEEDS, call(side), frugal=True).result()
    plain = engine.submit(NEEDS, call(side)).result()
    engine.load({"dtype": "float16"}).result()
    again = engine.submit(NEEDS, call(side), frugal=True).result()
    for less in (first, again):
        memory = less.info["memory"]
        assert memory["taken"] == taken and memory["staged"]
        peak = less.info["peak_memory_bytes"] - others
        assert peak <= memory["budget_bytes"]
        assert peak < 0.9 * (plain.info["peak_memory_bytes"] - others)
        assert np.array_equal(less.latents, plain.latents)
        a, b = (np.asarray(one.images[0], np.int16) for one in (less, plain))
        assert np.abs(a - b).max() <= (1 if taken else 0)
    assert budget_of(engine) is None


def test_the_other_models_give_their_memory_back(engine: Engine) -> None:
    engine.load({"dtype": "float16"}).result()
    engine.submit(NEEDS, call(16), frugal=True).result()
    here = engine.call({"dtype": "float16"}, lambda pipe: pipe.info()["memory"]["here"]).result()
    assert here == []


def test_a_plan_reads_no_weight(engine: Engine) -> None:
    plan = engine.plan(NEEDS, call(16)).result()
    here = engine.call(NEEDS, lambda pipe: pipe.info()["memory"]["here"]).result()
    assert here == []
    pipe = ipa.load("demo")
    pipe.load_ip_adapter("demo:base", name="a")
    assert plan.describe() == pipe.plan(**call(16)).describe()
    with pytest.raises(RequestError, match="no such argument"):
        engine.plan(NEEDS, {"promt": "x"})


def test_a_budget_is_back_though_the_job_failed() -> None:
    pipe = ipa.load("demo")
    pipe.memory_budget = 1.0
    with pytest.raises(ZeroDivisionError), in_less_memory(pipe, {"width": 128, "height": 128}):
        assert pipe.memory_budget == pytest.approx(0.1, abs=0.03)  # not the GiB that it had
        raise ZeroDivisionError
    assert pipe.memory_budget == 1.0


def test_a_backend_that_keeps_everything_runs_as_it_is(engine: Engine) -> None:
    needs = {"backend": "torch", **NEEDS}
    less = engine.submit(needs, call(16), frugal=True).result()
    assert less.info["memory"] is None
    assert np.array_equal(less.latents, engine.submit(needs, call(16)).result().latents)


def planned(peak: int, offers: tuple[Offer, ...] = (), budget: int | None = None) -> MemoryPlan:
    return MemoryPlan((StageMemory("denoise", {}, peak),), budget, offers=offers)


STAGED = Offer("staged", "", GIB // 2, same_picture=True)
BITS = Offer("quantize 4", "", GIB // 10, same_picture=False)
CASES = {
    "a share": (planned(GIB, (STAGED, BITS)), SHARE),
    "what can be met": (planned(GIB * 5 // 9, (STAGED,)), 0.5),
    "of the budget": (planned(GIB, (STAGED,), int(GIB * 0.8)), 0.8 * SHARE),
    "nothing that keeps the picture": (planned(GIB, (BITS,)), None),
    "nothing": (planned(GIB), None),
    "the least that there is": (planned(9, (Offer("staged", "", 5, same_picture=True),)), 0.0625),
}


@pytest.mark.parametrize("name", CASES)
def test_how_much_less(name: str) -> None:
    plan, wanted = CASES[name]
    found = lesser_budget(plan)
    assert found is None if wanted is None else found == pytest.approx(wanted, abs=1e-8)
