"""The table of profiles: complete, documented, and what it makes of several pictures."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import ImageEmbeds, ImagePrompt, RequestError
from ipa.prepare.image_prompts.parts import listed, prompt_parts
from ipa.prepare.scaling.curves import WINDOWS
from ipa.prepare.scaling.masks import MASK_RULES
from ipa.request.embeds import EmbedsOrigin
from ipa.request.profiles import (
    DECIDED,
    HOUSE,
    NOT_DECIDED,
    NOT_FOLLOWED,
    PROFILES,
    Profile,
    profile_named,
)

ROWS = {f"D{number}" for number in range(1, 31)}
A, B, C = (Image.new("L", (2, 2), grey) for grey in (0, 100, 200))
HALF = np.full((4, 4), 0.5, np.float32)
ORIGIN = EmbedsOrigin(
    feature="embedding", encoder="it", encoder_sha256="0", preprocessing_sha256="1"
)
EMBEDS = ImageEmbeds(
    conditional=np.arange(6, dtype=np.float32).reshape(3, 2),
    unconditional=np.zeros((1, 2), np.float32),
    origin=ORIGIN,
)


def test_every_row_is_decided_or_has_a_reason() -> None:
    assert DECIDED.keys() | NOT_DECIDED.keys() == ROWS
    assert not DECIDED.keys() & NOT_DECIDED.keys()
    assert all(len(reason) > 20 for reason in NOT_DECIDED.values())


def test_what_nobody_follows_has_a_reason() -> None:
    assert NOT_FOLLOWED and all(len(reason) > 40 for reason in NOT_FOLLOWED.values())


def test_the_slip_is_all_that_is_meant_otherwise() -> None:
    published, meant = PROFILES["comfyui"], PROFILES["comfyui-as-meant"]
    assert replace(meant, name="comfyui", middle_block="left out") == published


def test_every_field_decides_a_row_and_says_so() -> None:
    names = [field.name for field in fields(Profile) if field.name != "name"]
    assert sorted(DECIDED.values()) == sorted(names)
    for row, name in DECIDED.items():
        assert re.search(rf"^ {{8}}{name}: {row}\.", Profile.__doc__ or "", re.MULTILINE)


def test_no_field_is_the_same_everywhere_but_one() -> None:
    """A choice that nobody makes otherwise would be none; D8 differs by how ComfyUI is called."""
    for name in DECIDED.values():
        values = {getattr(profile, name) for profile in PROFILES.values()}
        assert (len(values) > 1) is (name != "shortcut_scale"), name


def test_choices_exist() -> None:
    assert set(PROFILES) == {"default", "tencent", "diffusers", "comfyui", "comfyui-as-meant"}
    for name, profile in PROFILES.items():
        assert profile.name == name and profile_named(name) is profile
        assert profile.window in WINDOWS and profile.mask_rule in MASK_RULES
    assert profile_named(None) is HOUSE is PROFILES["default"]


@pytest.mark.parametrize(
    ("name", "near"),
    [("comfy", "comfyui"), ("Diffuser", "diffusers"), ("tencnt", "tencent"), (3, ""), ("", "")],
)
def test_unknown_profiles_name_the_nearest(name: Any, near: str) -> None:
    with pytest.raises(RequestError, match=f"no such profile.*did you mean '{near}.*default, ten"):
        profile_named(name)


def split(profile: str, image: Any, default: Any = 0.5, **options: Any) -> list[tuple[Any, ...]]:
    """(pictures or rows, mask is there, scale, weights) of each part."""
    parts = prompt_parts(ImagePrompt(image, **options), profile_named(profile), default)
    return [
        (
            len(p.prompt.image) if isinstance(p.prompt.image, ImageEmbeds) else p.prompt.images,
            p.prompt.mask is not None,
            p.prompt.scale,
            p.weights,
        )
        for p in parts
    ]


def test_a_list_of_tencents_is_a_batch() -> None:
    """Unless its pictures become one; embeds are lists by their rows."""
    tencent, house = PROFILES["tencent"], PROFILES["default"]
    for image, options, batched in (
        ([A, B], {}, True),
        (EMBEDS, {}, True),
        ([A, B], {"combine": "add"}, False),
        ([A], {}, False),
        (A, {}, False),
    ):
        prompt = ImagePrompt(image, **options)
        assert listed(prompt, tencent).batched is batched
        assert listed(prompt, house) is prompt
        assert listed(prompt, tencent, joins_faces=True) is prompt


def test_faces_alone_are_a_batch_too() -> None:
    """Several of one person are one prompt to adapters that were trained so."""
    tencent, faces = PROFILES["tencent"], np.eye(3, 512, dtype=np.float32)
    both = ImagePrompt(face=faces, scale=[0.5, 0.7, 1.0])
    found = listed(both, tencent)
    assert found.batched and found.count == 3
    assert np.array_equal(found.share(1).faces[0], faces[1]) and found.share(1).scale == 0.7
    assert not listed(ImagePrompt(face=faces[:1]), tencent).batched
    assert listed(both, tencent, joins_faces=True) is both
    assert listed(both, PROFILES["comfyui"]) is both


def test_the_house_goes_by_what_is_listed() -> None:
    both = (A, B)
    assert split("default", [A, B]) == [(both, False, None, None)]
    assert split("default", [A, B], mask=HALF) == [(both, True, None, None)]
    assert split("default", [A, B], mask=[HALF, None], scale=[0.5, 2.0]) == [
        ((A,), True, 0.5, None),
        ((B,), False, 2.0, None),
    ]


def test_diffusers_separates_what_is_masked() -> None:
    assert split("diffusers", [A, B]) == [((A, B), False, None, None)]
    alone = [((A,), True, 0.7, None), ((B,), True, 0.7, None)]
    assert split("diffusers", [A, B], mask=HALF, scale=0.7) == alone
    assert split("diffusers", [A, B], mask=[HALF, HALF], scale=0.7) == alone
    assert split("diffusers", A, mask=HALF) == [((A,), True, None, None)]
    assert split("diffusers", EMBEDS, mask=HALF) == [(1, True, None, None)] * 3
    assert split("diffusers", [A, B], mask=HALF, combine="add") == [((A, B), True, None, None)]


def test_rows_of_embeds_keep_their_own_unconditional() -> None:
    own = replace(EMBEDS, unconditional=-EMBEDS.conditional)
    parts = prompt_parts(ImagePrompt(own, mask=HALF), PROFILES["diffusers"], 1.0)
    for row, part in enumerate(parts):
        assert np.array_equal(part.prompt.image.conditional[0], EMBEDS.conditional[row])
        assert np.array_equal(part.prompt.image.unconditional[0], -EMBEDS.conditional[row])


def test_comfyui_joins_and_weighs_features() -> None:
    assert split("comfyui", [A, B], scale=[0.5, 2.0]) == [((A, B), False, 1.0, (0.5, 2.0))]
    assert split("comfyui", [A, B], scale=[0.5, None], default=0.3, mask=HALF) == [
        ((A, B), True, 1.0, (0.5, 0.3))
    ]
    assert split("comfyui", [A, B], scale=0.6, mask=HALF) == [((A, B), True, 0.6, None)]
    assert split("comfyui", [A], mask=[HALF]) == [((A,), True, None, None)]


def test_tencent_takes_one_picture_or_what_becomes_one() -> None:
    assert split("tencent", [A]) == [((A,), False, None, None)]
    assert split("tencent", [A, B], combine="average") == [((A, B), False, None, None)]


WRONG: dict[str, tuple[str, Any, dict[str, Any], str]] = {
    "masks": ("comfyui", [A, B], {"mask": [HALF, HALF]}, "a list of 2 masks.*prompt per picture"),
    "scales by block": ("comfyui", [A, B], {"scale": [0.5, {"up": 1.0}]}, "in a list; remedy"),
    "default by block": ("comfyui", [A, B], {"scale": [0.5, None]}, "in a list; remedy"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_program_cannot_do(name: str) -> None:
    profile, image, options, words = WRONG[name]
    with pytest.raises(RequestError, match=f"the profile '{profile}'.*{words}"):
        split(profile, image, default={"up": 0.5}, **options)
