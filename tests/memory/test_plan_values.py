"""The memory plan as a value: peaks, fits, and the words of a refusal."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ipa.errors import RequestError
from ipa.memory.plan import GIB, MemoryPlan, Offer, StageMemory, in_words

TEXT = StageMemory("text", {"text_encoder": GIB, "unet": 2 * GIB}, GIB // 10)
DENOISE = StageMemory("denoise", {"text_encoder": GIB, "unet": 2 * GIB}, GIB)
PLAN = MemoryPlan((TEXT, DENOISE))
STAGED = Offer("staged", "load each component for its stage alone", 3 * GIB, same_picture=True)


def test_the_peak_is_that_of_the_largest_stage() -> None:
    assert (TEXT.held, DENOISE.peak, PLAN.peak) == (3 * GIB, 4 * GIB, 4 * GIB)
    assert PLAN.largest is DENOISE
    assert PLAN.stage("text") is TEXT
    with pytest.raises(KeyError):
        PLAN.stage("decode")


def test_a_plan_fits_up_to_its_budget_to_the_byte() -> None:
    assert PLAN.fits
    assert replace(PLAN, budget=4 * GIB).fits
    assert not replace(PLAN, budget=4 * GIB - 1).fits


def test_what_fits_is_not_refused() -> None:
    PLAN.require_fit()
    replace(PLAN, budget=4 * GIB).require_fit()


@pytest.mark.parametrize(
    ("budget", "offers", "words"),
    [
        (3.5, (STAGED,), r"budget of 3\.50 GiB.*denoise takes 4\.00 GiB.*each component.*3\.00"),
        (2, (STAGED,), r"smallest budget that can be met is 3\.00 GiB: load each component"),
        (2, (), r"smallest budget that can be met is 4\.00 GiB"),
    ],
)
def test_a_refusal_has_the_numbers(budget: float, offers: tuple[Offer, ...], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        replace(PLAN, budget=int(budget * GIB), offers=offers).require_fit()


def test_a_plan_is_described_as_json() -> None:
    described = json.loads(json.dumps(replace(PLAN, offers=(STAGED,), budget=GIB).describe()))
    assert described["peak"] == 4 * GIB
    assert described["fits"] is False
    assert described["stages"][1]["resident"]["unet"] == 2 * GIB
    assert described["offers"][0]["name"] == "staged"


def test_bytes_in_words() -> None:
    assert in_words(57 << 20) == "57 MiB"
    assert in_words(int(3.42 * GIB)) == "3.42 GiB"
