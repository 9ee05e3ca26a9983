"""Names of embeds_scaling: ComfyUI's, in any case."""

from __future__ import annotations

import pytest
from PIL import Image

from ipa import ImagePrompt, RequestError

GREY = Image.new("L", (1, 1))
NODE = ("V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty")  # EMBEDS_SCALING's options


def test_the_names_are_comfyuis() -> None:
    assert ImagePrompt(GREY).embeds_scaling == NODE[0]
    for name in NODE:
        for spelled in (name, name.upper(), f" {name.lower()} ", name.replace(" ", "_")):
            assert ImagePrompt(GREY, embeds_scaling=spelled).embeds_scaling == name
    assert ImagePrompt(GREY, embeds_scaling="k+v-w/-c-penalty").embeds_scaling == NODE[2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("V-onyl", "found: 'V-onyl'; remedy: did you mean 'V only'"),
        ("K+mean V with C penalty", "mean 'K\\+mean\\(V\\) w/ C penalty'"),
        ("K + V", "mean 'K\\+V'"),
        ("", "found: ''; remedy: All: V only, "),
        (None, "found: None; remedy: All: V only, "),
        (1, "found: 1; "),
    ],
)
def test_what_is_no_name(given: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        ImagePrompt(GREY, embeds_scaling=given)  # type: ignore[arg-type]
