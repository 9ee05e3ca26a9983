"""Presets of layers: InstantStyle's against diffusers, ComfyUI's against formulas written anew.

ComfyUI's nodes are no library, so the judge of its weight types is below: its facts, in another
form and without a line of the product. What "in the order of execution" means is asked of
diffusers' UNets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import ImagePrompt
from ipa.errors import RequestError
from ipa.model.sites import SITES, Site, transformers
from ipa.model.unet import UNetSpec
from ipa.prepare.scaling import presets
from ipa.prepare.scaling.lambdas import lambda_table
from ipa.prepare.scaling.layers import layer_factors
from ipa.prepare.scaling.precise import moved_sites
from ipa.prepare.scaling.scales import place
from ipa.request.profiles import PROFILES
from oracle.true_unets import scales_of_diffusers, transformers_as_run

BASES = {"sd15": "SD1.5", "sdxl": "SDXL"}
STAGES = {  # of transformer t: first of the middle, first of the output, and how many there are
    "sd15": (6, 7, 16),
    "sdxl": (4, 5, 11),
}
W, OUTER = 1.0, (0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15)
BY_NUMBER: dict[str, dict[str, dict[int, float]]] = {
    "style transfer": {"sdxl": {6: W}, "sd15": dict.fromkeys(OUTER, W)},
    "composition": {"sdxl": {3: W}, "sd15": {4: W * 0.25, 5: W}},
    "strong style transfer": {
        "sdxl": {0: W, 1: W, 2: W, 4: W, 5: W, 6: W, 7: W, 8: W, 9: W, 10: W},
        "sd15": dict.fromkeys((*OUTER, 6, 7, 8), W),
    },
    "style and composition": {
        "sdxl": {3: W, 6: W},
        "sd15": dict.fromkeys(OUTER, W) | {4: W * 0.25, 5: W},
    },
    "strong style and composition": {
        "sdxl": dict.fromkeys(range(11), W),
        "sd15": dict.fromkeys(range(16), W),
    },
    "style transfer precise": {
        "sdxl": {3: W, 6: W},
        "sd15": dict.fromkeys(OUTER, W) | {4: W * 0.25, 5: W},
    },
    "composition precise": {
        "sdxl": {t: W if t in {3, 6} else W * 0.1 for t in range(11)},
        "sd15": dict.fromkeys(OUTER, W) | {4: W * 0.25, 5: W, 6: W * 0.1, 7: W * 0.1, 8: W * 0.1},
    },
}
# Transformers at which tokens go to the unconditional side.
MOVED: dict[str, dict[str, tuple[int, ...]]] = {
    "style transfer precise": {"sdxl": (3,), "sd15": (4, 5)},
    "composition precise": {"sdxl": (0, 1, 2, 4, 5, 6, 7, 8, 9, 10), "sd15": (*OUTER, 6, 7, 8)},
}


def judged(name: str, base: str) -> np.ndarray:
    """Factors of ComfyUI's weight type by t."""
    middle, output, count = STAGES[base]
    t = np.arange(count, dtype=np.float64)
    stage = np.where(t < middle, 0, np.where(t < output, 1, 2))
    half = count / 2
    formulas: dict[str, Any] = {
        "linear": t * 0 + 1,
        "ease in": 1 - 0.95 * t / count,
        "ease out": 0.05 + 0.95 * t / count,
        "ease in-out": 1 - 0.95 * np.abs(t - half) / half,
        "reverse in-out": 0.05 + 0.95 * np.abs(t - half) / half,
        "weak input": np.choose(stage, [0.2, 1, 1]),
        "weak middle": np.choose(stage, [1, 0.2, 1]),
        "weak output": np.choose(stage, [1, 1, 0.2]),
        "strong middle": np.choose(stage, [0.2, 1, 0.2]),
    }
    if name in formulas:
        return formulas[name]
    out = np.zeros(count)
    for number, weight in BY_NUMBER[name][base].items():
        out[number] = weight
    return out


COMFY = [name for name in presets.NAMES if name not in {"style", "layout"}]


def by_path(found: np.ndarray, sites: tuple[Site, ...]) -> dict[str, float]:
    return dict(zip((site.path for site in sites), found.tolist(), strict=True))


@pytest.mark.parametrize("base", BASES)
def test_transformers_are_counted_as_they_run(base: str) -> None:
    sites = SITES[BASES[base]]
    paths = {site.transformer: site.path.partition(".transformer_blocks")[0] for site in sites}
    assert tuple(paths[each] for each in transformers(sites)) == transformers_as_run(base)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", COMFY)
def test_comfyuis_weight_types(name: str, base: str) -> None:
    """Largest difference measured: 1.1e-16, half a unit in the last place."""
    order, sites = transformers_as_run(base), SITES[BASES[base]]
    expected = judged(name, base)
    for path, value in by_path(layer_factors(name, sites), sites).items():
        t = order.index(path.partition(".transformer_blocks")[0])
        assert abs(value - expected[t]) < 3e-16, path


def test_the_names_are_all_of_comfyuis() -> None:
    """WEIGHT_TYPES of the node, and one of another node."""
    node = [
        *("linear", "ease in", "ease out", "ease in-out", "reverse in-out", "weak input"),
        *("weak output", "weak middle", "strong middle", "style transfer", "composition"),
        *("strong style transfer", "style and composition"),
        *("style transfer precise", "composition precise"),
    ]
    assert {*node, "strong style and composition"} == set(COMFY)


GUIDE = {  # diffusers' guide on InstantStyle
    "style": {"up": {"block_0": [0.0, 1.0, 0.0]}},
    "layout": {"down": {"block_2": [0.0, 1.0]}},
    "style+layout": {"down": {"block_2": [0.0, 1.0]}, "up": {"block_0": [0.0, 1.0, 0.0]}},
}


@pytest.mark.parametrize("name", GUIDE)
def test_instantstyle_on_sdxl_is_diffusers_guide(name: str) -> None:
    sites = SITES["SDXL"]
    assert by_path(layer_factors(name, sites), sites) == scales_of_diffusers("sdxl", GUIDE[name])


def test_instantstyle_on_sd15_is_comfyuis_choice() -> None:
    sites = SITES["SD1.5"]
    for ours, theirs in (("style", "style transfer"), ("layout", "composition")):
        assert np.array_equal(layer_factors(ours, sites), layer_factors(theirs, sites))


def test_presets_are_added_with_factors() -> None:
    """ComfyUI's weight_composition, one half here."""
    sites = SITES["SD1.5"]
    found = layer_factors({"style transfer": 1.0, "composition": 0.5}, sites)
    order = transformers(sites)
    expected = dict.fromkeys(OUTER, 1.0) | {4: 0.125, 5: 0.5}
    assert {order.index(s.transformer): v for s, v in zip(sites, found, strict=True) if v} == (
        expected
    )
    both = layer_factors("style and composition", sites)
    assert np.array_equal(layer_factors("style transfer + composition", sites), both)


@pytest.mark.parametrize("base", BASES)
def test_comfyuis_layer_weights(base: str) -> None:
    sites = SITES[BASES[base]]
    found = by_path(layer_factors("3:2.5, 6:-1,0:0.5", sites), sites)
    order, given = transformers_as_run(base), {3: 2.5, 6: -1.0, 0: 0.5}
    for path, value in found.items():
        t = order.index(path.partition(".transformer_blocks")[0])
        assert value == given.get(t, 0.0)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", COMFY)
def test_layers_that_are_moved(name: str, base: str) -> None:
    """Those that weigh ComfyUI's boost, where one is said, are those that are moved."""
    order, sites = transformers_as_run(base), SITES[BASES[base]]
    found = moved_sites(name.title().replace(" ", "_"), sites)
    if name not in MOVED:
        assert found is None
        return
    assert found is not None and len(found) == len(sites)
    weights = layer_factors({name: 0.5, "Boost": 3.0}, sites)
    assert moved_sites({name: 0.5, "boost": 3.0}, sites) == found
    for site, moved, weight in zip(sites, found, weights, strict=True):
        t = order.index(site.path.partition(".transformer_blocks")[0])
        assert moved == (t in MOVED[name][base]), site.path
        assert weight == BY_NUMBER[name][base].get(t, 0.0) * (3.0 if moved else 0.5)
    assert np.array_equal(layer_factors({name: 0.5}, sites), layer_factors(name, sites) * 0.5)


def test_nothing_is_moved_without_a_precise_type() -> None:
    for given in (None, "style+layout", "3:0.5, 6:1.0", {"ease in": 2.0, "composition": 1.0}):
        assert moved_sites(given, SITES["SDXL"]) is None


ALONE: dict[str, Any] = {
    "added": "style transfer precise + layout",
    "both": "style transfer precise+composition precise",
    "twice": {"composition precise": 1.0, "composition-precise": 0.5},
    "with another": {"style": 1.0, "composition precise": 1.0, "boost": 1.0},
    "two boosts": {"composition precise": 1.0, "boost": 1.0, "Boost": 2.0},
    "a boost alone": "boost",
    "a boost of another": {"style": 1.0, "boost": 1.0},
}


@pytest.mark.parametrize("name", ALONE)
def test_a_precise_type_stands_alone(name: str) -> None:
    for read in (layer_factors, moved_sites):
        with pytest.raises(RequestError, match=r'stands alone or with its "boost".*of its own'):
            read(ALONE[name], SITES["SDXL"])


def test_spelling() -> None:
    sites = SITES["SDXL"]
    for spelled in ("Ease In-Out", "ease_in_out", " ease in out "):
        assert np.array_equal(layer_factors(spelled, sites), layer_factors("ease in-out", sites))
    assert np.array_equal(layer_factors(None, sites), np.ones(70))


WRONG = {
    "stile": "did you mean 'style'",
    "strong stlye transfer": "did you mean 'strong style transfer'",
    "": "there is no preset",
    "style+": "there is no preset",
    "composition precice": "did you mean 'composition precise'",
    "11:1.0": "'11:1.0'.*0 to 10 in the order of execution",
    "3:1.0,3:0.5": "each number once; found|each number once, .*'3:0.5'",
    "3:x": "'3:x'",
    "3:nan": "'3:nan'",
    "-1:1": "'-1:1'",
    "3:1,,4:1": "number:weight",
}


@pytest.mark.parametrize("given", WRONG)
def test_what_is_no_preset(given: str) -> None:
    with pytest.raises(RequestError, match=WRONG[given]):
        layer_factors(given, SITES["SDXL"])


def test_other_builds_take_formulas_alone() -> None:
    import json

    from ipa import demo
    from ipa.model.sites import SITES, cross_attention_sites, is_demo

    config = json.loads((demo.model() / "unet" / "config.json").read_text())
    sites = cross_attention_sites(UNetSpec.from_config(config))
    assert is_demo(sites) and not is_demo(SITES["SD1.5"])
    order = [place(each) for each in transformers(sites)]
    assert order[:3] == ["down.1.attn.0", "down.2.attn.0", "mid.attn.0"]
    found = layer_factors("ease in", sites)
    assert found[0] == 1.0 and found[-1] == pytest.approx(1 - 0.95 * 2 / 7, abs=1e-15)
    for name in presets.NAMES:
        if name in {*presets.ANYWHERE, "style", "layout"}:  # the two: tests/demo/test_presets.py
            assert layer_factors(name, sites).shape == (7,)
            continue
        with pytest.raises(RequestError, match=r"another build, with 7 transformers.*scale="):
            layer_factors(name, sites)


def published(name: str, base: str, weight: float) -> dict[int, float]:
    """ComfyUI's weights by t: composition's own is 1 in the two types that have one."""
    table, own = BY_NUMBER[name][base], {"sdxl": (3,), "sd15": (4, 5)}[base]
    apart = own if name.endswith("style and composition") else ()
    return {t: factor if t in apart else factor * weight for t, factor in table.items()}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", BY_NUMBER)
def test_comfyuis_profile_weighs_composition_by_itself(name: str, base: str) -> None:
    """D24, and D23: by every weight type, five weights and both profiles of ComfyUI."""
    sites = SITES[BASES[base]]
    order, middle = transformers(sites), STAGES[base][0]
    for weight in (-0.5, 0.0, 0.4, 1.0, 2.5):
        prompt = ImagePrompt(Image.new("L", (2, 2)), layers=name, scale=weight)
        for profile in ("comfyui", "comfyui-as-meant"):
            table = lambda_table(prompt, 1.0, sites, 2, profile=PROFILES[profile])
            wanted = published(name, base, weight)
            if profile == "comfyui":
                wanted.pop(middle, None)
            by_site = [wanted.get(order.index(site.transformer), 0.0) for site in sites]
            assert np.allclose(table, np.array(by_site)[:, None], rtol=0, atol=1e-15)
        house = lambda_table(prompt, 1.0, sites, 2)
        assert np.array_equal(house[:, 0], weight * layer_factors(name, sites) + 0.0)


@pytest.mark.parametrize(
    "layers", [None, "ease in", "linear+layout", "3:0.5, 4:1.0", {"style": 0.5}]
)
def test_what_has_no_composition_is_weighed_as_ever(layers: Any) -> None:
    sites = SITES["SDXL"]
    prompt = ImagePrompt(Image.new("L", (2, 2)), layers=layers, scale=0.7)
    found = lambda_table(prompt, 1.0, sites, 2, profile=PROFILES["comfyui-as-meant"])
    assert np.array_equal(found, lambda_table(prompt, 1.0, sites, 2))
    published = lambda_table(prompt, 1.0, sites, 2, profile=PROFILES["comfyui"])
    middle = np.array([site.section == "mid" for site in sites])
    assert not published[middle].any()
    assert np.array_equal(published[~middle], found[~middle])
