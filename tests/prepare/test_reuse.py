"""At which steps all of the network is computed, as DeepCache has it; and where guidance begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from DeepCache import DeepCacheSDHelper

from ipa.errors import RequestError
from ipa.prepare.reuse import full_steps, reuse_warnings, up_layers
from ipa.request.request import Request

SD1: Any = SimpleNamespace(unet=SimpleNamespace(layers=(2, 2, 2, 2)))
SDXL: Any = SimpleNamespace(unet=SimpleNamespace(layers=(2, 2, 2)))


def full(interval: int, guided: str) -> str:
    found = full_steps(Request(cache_interval=interval), SD1, [c == "g" for c in guided])
    return "".join("F" if is_full else "." for is_full in found)


@pytest.mark.parametrize("interval", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("first", [0, 3])
def test_full_steps_are_those_of_deepcache(interval: int, first: int) -> None:
    """Also of a run that begins later, as from a picture."""
    helper = DeepCacheSDHelper()
    helper.set_params(cache_interval=interval)
    helper.reset_states()
    wanted = []
    for step in range(first, first + 30):
        helper.cur_timestep = step
        wanted.append(not helper.is_skip_step(0, 0, "mid"))
    for guided in (True, False):
        assert [*full_steps(Request(cache_interval=interval), SD1, [guided] * 30)] == wanted


@pytest.mark.parametrize(
    ("interval", "guided", "wanted"),
    [
        (4, "--gggggg", "F.F.F..."),
        (4, "----gggg", "F...F..."),
        (4, "ggg-----", "F...F..."),
        (9, "-ggggg--", "FF......"),
        (3, "gg---ggg", "F..F.FF."),
        (1, "--ggg---", "FFFFFFFF"),
    ],
)
def test_a_guided_step_needs_both_halves(interval: int, guided: str, wanted: str) -> None:
    assert full(interval, guided) == wanted


def test_branches_are_the_layers_of_the_way_up() -> None:
    assert (up_layers(SD1.unet), up_layers(SDXL.unet)) == (12, 9)
    for model, last in ((SD1, 11), (SDXL, 8)):
        full_steps(Request(cache_interval=2, cache_branch=last), model, [True])
        with pytest.raises(RequestError, match=f"from 0 to {last} for this model"):
            full_steps(Request(cache_interval=2, cache_branch=last + 1), model, [True])


def test_what_has_no_effect_is_said() -> None:
    assert not reuse_warnings(Request(), [True, True])
    assert not reuse_warnings(Request(cache_interval=2, cache_branch=1), [True, False])
    (idle,) = reuse_warnings(Request(cache_branch=1), [True, True])
    assert "cache_branch has no effect" in idle
    (full,) = reuse_warnings(Request(cache_interval=2), [True])
    assert "cache_interval has no effect" in full
