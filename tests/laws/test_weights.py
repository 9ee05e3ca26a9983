"""Weights over layers and steps, on both backends: what is said differently gives the same bits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import ImagePrompt, Pipeline
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from oracle import models

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "width": 32,
    "height": 48,
    "output_type": "latent",
    "seed": 5,
}
FOUR = CALL | {"num_inference_steps": 4}  # where steps differ
SDXL_BLOCKS = {
    key: value
    for key, value in models.XL_UNET.items()
    if not key.startswith(("addition", "projection"))
} | {"in_channels": 4, "out_channels": 4, "cross_attention_dim": models.TEXT["hidden_size"]}
UNETS: dict[str, Mapping[str, Any]] = {"SD1.5": models.FOUR_LEVELS, "SDXL": SDXL_BLOCKS}


@pytest.fixture(scope="module", params=UNETS)
def base(request: pytest.FixtureRequest) -> str:
    """Small UNets with the transformers of each base in their places."""
    return str(request.param)


@pytest.fixture(scope="module")
def folder(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = models.Tiny(unet=dict(UNETS[base]))
    return models.build_with_adapters(tmp_path_factory.mktemp("weights"), tiny, seed=4)


@pytest.fixture(scope="module")
def pipe(folder: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(folder, backend, "linear", "plus")


@pytest.fixture(scope="module")
def plain(folder: Path, backend: str, open_pipeline: Open) -> np.ndarray:
    """The base model, on a pipeline that never saw an adapter."""
    return open_pipeline(folder, backend)("a star", **CALL).latents


def run(pipe: Pipeline, *prompts: ImagePrompt, **changes: Any) -> np.ndarray:
    return pipe("a star", image_prompts=prompts, **(CALL | changes)).latents


@pytest.fixture
def prompt(references: list[Image.Image]) -> Callable[..., ImagePrompt]:
    def make(adapter: str = "linear", **options: Any) -> ImagePrompt:
        return ImagePrompt(references[len(adapter) % 8], adapter=adapter, **options)

    return make


def numbers(folder: Path) -> list[int]:
    config = json.loads((folder / "unet" / "config.json").read_text())
    return [site.number for site in cross_attention_sites(UNetSpec.from_config(config))]


def test_zeros_are_the_base_model(
    pipe: Pipeline, plain: np.ndarray, folder: Path, prompt: Callable[..., ImagePrompt]
) -> None:
    zeros = dict.fromkeys(numbers(folder), 0.0)
    ways: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"scale": zeros}, {}),
        ({"scale": {}}, {}),
        ({"curve": [(0.0, 0.0)]}, {}),
        ({"layers": "0:0"}, {}),
        ({"layers": {"ease in": 0.0}}, {}),
        ({"layers": {"linear": 1.0, "ease out": 1.0, "style": 1.0}, "scale": 0.0}, {}),
        ({}, {"weights": lambda step, steps: {"linear": 0.0, 1: 0}}),
    ]
    for options, changes in ways:
        both = prompt(**options), prompt("plus", **options)
        assert np.array_equal(run(pipe, *both, **changes), plain), (options, changes)
    assert not np.array_equal(run(pipe, prompt(curve=[(0.0, 0.1)])), plain)


def test_a_constant_is_a_number(pipe: Pipeline, prompt: Callable[..., ImagePrompt]) -> None:
    expected = run(pipe, prompt(scale=0.4))
    ways: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"scale": 0.4, "curve": "constant"}, {}),
        ({"scale": 0.8, "curve": [(0.2, 0.5), (0.9, 0.5)]}, {}),
        ({"scale": 0.4, "layers": "linear"}, {}),
        ({"scale": 0.8, "layers": {"linear": 0.5}}, {}),
        ({"scale": 0.4, "start": 0.0, "end": 1.0}, {}),
        ({"scale": 0.8}, {"weights": lambda step, steps: {0: 0.5}}),
        ({"scale": 1.6}, {"weights": lambda step, steps: {0: 0.5, "linear": 0.5}}),
        ({"scale": 0.4}, {"weights": lambda step, steps: None}),
    ]
    for options, changes in ways:
        assert np.array_equal(run(pipe, prompt(**options), **changes), expected), options


TABLES: dict[str, dict[str, dict[str, float]]] = {
    "SDXL": {
        "style": {"up_blocks.0.attentions.1": 1.0},
        "layout": {"down.2.attn.1": 1.0},
        "style+layout": {"up.0.attn.1": 1.0, "down.2.attn.1": 1.0},
        "3:0.5, 6:1.5": {"down.2.attn.1": 0.5, "up.0.attn.1": 1.5},
    },
    "SD1.5": {
        "layout": {"down.2.attn.0": 0.25, "down.2.attn.1": 1.0},
        "composition": {"down_blocks.2.attentions.0": 0.25, "down_blocks.2.attentions.1": 1.0},
        "6:0.5": {"mid.attn.0": 0.5},
    },
}


def test_presets_are_their_tables(
    pipe: Pipeline, base: str, plain: np.ndarray, prompt: Callable[..., ImagePrompt]
) -> None:
    for layers, table in TABLES[base].items():
        half = {name: 0.5 * factor for name, factor in table.items()}
        found = run(pipe, prompt("plus", scale=0.5, layers=layers))
        assert np.array_equal(found, run(pipe, prompt("plus", scale=half))), layers
        assert not np.array_equal(found, plain)


NESTED: dict[str, dict[str, Any]] = {
    "SDXL": {"down": {"block_2": [0.0, 0.75]}, "mid": 0.25, "up": 0.5},
    "SD1.5": {"down": [0.0, 0.75], "mid": [0.25], "up": {"block_3": 0.5}},
}


def test_a_table_is_what_a_dict_expands_to(
    own: Pipeline, base: str, folder: Path, prompt: Callable[..., ImagePrompt]
) -> None:
    config = json.loads((folder / "unet" / "config.json").read_text())
    nested, table = NESTED[base], {}
    for site in cross_attention_sites(UNetSpec.from_config(config)):
        value = nested[site.section]
        if isinstance(value, dict):
            value = value.get(f"block_{site.block}", 0.0)
        table[site.number] = value[site.attention] if isinstance(value, list) else value
    assert len(set(table.values())) > 2
    by_dict = run(own, prompt(scale=nested))
    assert np.array_equal(run(own, prompt(scale=table)), by_dict)
    own.set_ip_adapter_scale(table, name="linear")
    assert np.array_equal(run(own, prompt()), by_dict)


def test_a_window_is_a_curve_that_jumps(pipe: Pipeline, prompt: Callable[..., ImagePrompt]) -> None:
    curve = [(0.0, 0.0), (0.25, 0.0), (0.25, 1.0), (0.75, 1.0), (0.75, 0.0)]
    window = run(pipe, prompt(start=0.25, end=0.75), **FOUR)
    assert np.array_equal(run(pipe, prompt(curve=curve), **FOUR), window)
    steps = run(pipe, prompt(), weights=lambda step, steps: {0: float(step in {1, 2})}, **FOUR)
    assert np.array_equal(steps, window)
    assert not np.array_equal(
        run(pipe, prompt(curve="linear", start=0.25, end=0.75), **FOUR), window
    )


def test_a_curve_is_a_function_of_the_step(
    pipe: Pipeline, prompt: Callable[..., ImagePrompt]
) -> None:
    asked = []

    def weights(step: int, steps: int) -> dict[int | str, float]:
        asked.append((step, steps))
        return {"plus": 1.0 - step / steps}

    both = prompt(scale=0.5), prompt("plus", scale=0.75)
    changed = run(pipe, *both, weights=weights, **FOUR)
    assert asked == [(0, 4), (1, 4), (2, 4), (3, 4)]
    curved = prompt("plus", scale=0.75, curve=[(0.0, 1.0), (1.0, 0.0)])
    assert np.array_equal(run(pipe, both[0], curved, **FOUR), changed)


def test_the_result_keeps_what_was_asked(
    pipe: Pipeline, prompt: Callable[..., ImagePrompt]
) -> None:
    image = prompt(
        scale={1: 0.5, "mid.attn.0": np.float32(0.25)},
        layers={"ease in": np.float64(2)},
        curve=np.array([[0, 1], [0.5, 0.25]]),
    )
    first = pipe(
        "a star", image_prompts=image, weights=lambda step, steps: {0: 1 / (step + 1)}, **FOUR
    )
    info = json.loads(json.dumps(first.info))
    kept = info["request"]["image_prompts"][0]
    assert kept["scale"] == {"1": 0.5, "mid.attn.0": 0.25}
    assert (kept["layers"], kept["curve"]) == ({"ease in": 2.0}, [[0.0, 1.0], [0.5, 0.25]])
    assert info["request"]["weights"] == "callable"
    recorded = info["weights_by_step"]
    assert recorded == [[1.0], [1 / 2], [1 / 3], [1 / 4]]
    again = prompt(**{name: kept[name] for name in ("scale", "layers", "curve", "start", "end")})
    replayed = run(pipe, again, weights=lambda step, steps: dict(enumerate(recorded[step])), **FOUR)
    assert np.array_equal(replayed, first.latents)
    bare = pipe("a star", image_prompts=again, **CALL).info
    assert bare["request"]["weights"] is None and "weights_by_step" not in bare


WRONG: dict[str, tuple[Any, str]] = {
    "not a function": (0.5, "called before each step; found: float"),
    "an unknown adapter": (lambda i, n: {"style": 1.0}, "'style'; remedy: 0 to 0, or linear"),
    "an unknown prompt": (lambda i, n: {1: 1.0}, "no image prompt of this call; found: 1"),
    "a bool": (lambda i, n: {False: 1.0}, "no image prompt of this call; found: False"),
    "NaN": (lambda i, n: {0: float("nan")}, r"weights\[0\] must be a finite number"),
    "no dict": (lambda i, n: 0.5, "dict of factors, or None; found: 0.5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_mean_nothing(
    name: str, pipe: Pipeline, prompt: Callable[..., ImagePrompt]
) -> None:
    """The pipeline stays usable."""
    weights, words = WRONG[name]
    with pytest.raises(ipa.RequestError, match=words):
        run(pipe, prompt(), weights=weights)
    assert np.isfinite(run(pipe, prompt())).all()
