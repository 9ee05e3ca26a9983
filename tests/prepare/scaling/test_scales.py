"""λ per site against what diffusers sets on its processors, at the true structures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.errors import RequestError
from ipa.model.sites import SITES, structure_name
from ipa.prepare.scaling.scales import site_scales
from oracle.true_unets import scales_of_diffusers

BASES = {"sd15": "SD1.5", "sdxl": "SDXL"}
# Blocks with cross-attention, and transformers in each (diffusers' unet configs).
BLOCKS = {
    "sd15": {"down": ((0, 1, 2), 2), "up": ((1, 2, 3), 3)},
    "sdxl": {"down": ((1, 2), 2), "up": ((0, 1), 3)},
}
NUMBERS = st.floats(-2.0, 2.0, allow_nan=False)


def section(blocks: tuple[int, ...], transformers: int) -> st.SearchStrategy[Any]:
    lists = st.one_of(
        st.lists(NUMBERS, min_size=1, max_size=1),
        st.lists(NUMBERS, min_size=transformers, max_size=transformers),
    )
    names = st.sampled_from([f"block_{block}" for block in blocks])
    return st.one_of(NUMBERS, lists, st.dictionaries(names, st.one_of(NUMBERS, lists)))


def nested(base: str) -> st.SearchStrategy[dict[str, Any]]:
    parts = {name: section(*shape) for name, shape in BLOCKS[base].items()}
    mid = st.one_of(NUMBERS, st.lists(NUMBERS, min_size=1, max_size=1))
    return st.fixed_dictionaries({}, optional=parts | {"mid": mid}).filter(bool)


@pytest.mark.parametrize("base", BASES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nested_dicts_are_diffusers(base: str, data: st.DataObject) -> None:
    scale = data.draw(nested(base))
    sites = SITES[BASES[base]]
    found = dict(zip((site.path for site in sites), site_scales(scale, sites), strict=True))
    assert found == scales_of_diffusers(base, scale)


@pytest.mark.parametrize("base", BASES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_table_of_sites_is_what_the_dict_expands_to(base: str, data: st.DataObject) -> None:
    """By number (JSON has them as text), by path, by place, and by a transformer's path."""
    scale, sites = data.draw(nested(base)), SITES[BASES[base]]
    expected = site_scales(scale, sites)
    by_path = scales_of_diffusers(base, scale)
    assert site_scales(by_path, sites) == expected
    numbers = {site.number: by_path[site.path] for site in sites}
    assert site_scales(numbers, sites) == expected
    assert site_scales({str(key): value for key, value in numbers.items()}, sites) == expected
    places = {}
    for path, value in by_path.items():
        words = path.split(".")
        if words[0] == "mid_block":
            places["mid.attn.0"] = value
        else:
            places[f"{words[0].removesuffix('_blocks')}.{words[1]}.attn.{words[3]}"] = value
    assert site_scales(places, sites) == expected
    transformers = {path.partition(".transformer_blocks")[0]: v for path, v in by_path.items()}
    assert site_scales(transformers, sites) == expected


def test_a_number_is_everywhere_and_what_is_not_named_is_nothing() -> None:
    for sites in SITES.values():
        assert site_scales(0.25, sites) == (0.25,) * len(sites)
        assert site_scales({}, sites) == (0.0,) * len(sites)
    (one,) = np.flatnonzero(site_scales({119: 0.5}, SITES["SDXL"]))
    path = SITES["SDXL"][one].path
    assert path == "up_blocks.1.attentions.2.transformer_blocks.1.attn2"


WRONG: dict[str, tuple[str, Any, str]] = {
    "a block of SDXL": ("SD1.5", {"up": {"block_0": 1}}, "block_0, which SDXL has.*built as SD1.5"),
    "a block of SD1.5": ("SDXL", {"down": {"block_0": 1}}, "which SD1.5 has.*built as SDXL"),
    "a place of SDXL": ("SD1.5", {"up.0.attn.1": 1}, "up.0.attn.1, which SDXL has.*built as SD1.5"),
    "a path of SD1.5": (
        "SDXL",
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn2": 1},
        "which SD1.5 has; this UNet is built as SDXL",
    ),
    "a number of SDXL": ("SD1.5", {33: 1}, "33, which SDXL has"),
    "a block of neither": ("SDXL", {"up": {"block_7": 1}}, "found: block_7; remedy"),
    "an even number": ("SD1.5", {2: 1}, "odd numbers from 1 to 31"),
    "a site twice": ("SD1.5", {"31": 1, "mid.attn.0": 1}, "a site twice; found: mid_block"),
    "no number": ("SD1.5", {"31": [1.0]}, "must be a number here"),
    "both kinds": ("SD1.5", {"up": 1, "31": 1}, "found: 31"),
    "a misspelled section": ("SD1.5", {"uo": 1}, "name sections"),
    "too many": ("SDXL", {"up": {"block_0": [1.0, 2.0]}}, "give 3, or one for all"),
    "NaN": ("SDXL", {"31": float("nan")}, "finite"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_unet_does_not_have(name: str) -> None:
    base, scale, words = WRONG[name]
    with pytest.raises(RequestError, match=words):
        site_scales(scale, SITES[base])


def test_structures_have_names() -> None:
    assert {name: structure_name(sites) for name, sites in SITES.items()} == {
        name: name for name in SITES
    }
    assert structure_name(SITES["SDXL"][:-10]) is None
