"""Laws of embeds_scaling and of the precise weight types that every backend obeys, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ipa import ImagePrompt, Pipeline
from ipa.request.scales import EMBEDS_SCALINGS
from oracle import models

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "width": 48,
    "height": 32,
    "output_type": "latent",
    "seed": 5,
}
PRECISE = ("style transfer precise", "composition precise")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the 16 transformers of SD1.5."""
    tiny = models.Tiny(unet=models.FOUR_LEVELS)
    return models.build_with_adapters(tmp_path_factory.mktemp("scaling"), tiny, seed=8)


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
    def make(adapter: str = "plus", **options: Any) -> ImagePrompt:
        return ImagePrompt(references[1:3], adapter=adapter, **options)

    return make


def test_v_only_is_none(pipe: Pipeline, prompt: Callable[..., ImagePrompt]) -> None:
    expected = run(pipe, prompt(scale=0.6))
    assert np.array_equal(run(pipe, prompt(scale=0.6, embeds_scaling="v ONLY")), expected)
    others = [run(pipe, prompt(scale=0.6, embeds_scaling=mode)) for mode in EMBEDS_SCALINGS]
    assert len({latents.tobytes() for latents in others}) == len(EMBEDS_SCALINGS)


def test_a_weight_of_one_stands_anywhere(
    pipe: Pipeline, prompt: Callable[..., ImagePrompt]
) -> None:
    """K+V at λ = 1 is V only, also under a mask."""
    for mask in (None, np.tile(np.arange(48) < 20, (32, 1))):
        inside = run(pipe, prompt(mask=mask, embeds_scaling="K+V"))
        assert np.array_equal(inside, run(pipe, prompt(mask=mask)))


def test_a_penalty_is_a_weight_by_width(pipe: Pipeline, prompt: Callable[..., ImagePrompt]) -> None:
    """λ · C/1280 inside is λ inside, given site by site: a single multiplication in float64."""
    sites = pipe._loaded.backend.model.sites
    table = {site.number: 32.0 * (site.width / 1280) for site in sites}
    given = run(pipe, prompt(scale=table, embeds_scaling="K+V"))
    penalised = run(pipe, prompt(scale=32.0, embeds_scaling="K+V w/ C penalty"))
    assert np.array_equal(penalised, given)


def test_zero_is_the_base_model(
    pipe: Pipeline, plain: np.ndarray, prompt: Callable[..., ImagePrompt]
) -> None:
    """In every mode at once, moved or not."""
    nowhere = np.zeros((32, 48), np.bool_)
    ways: tuple[dict[str, Any], ...] = ({"scale": 0.0}, {"mask": nowhere}, {"end": 0.0})
    for options in ways:
        off = [
            prompt(embeds_scaling=mode, layers=layers, **options)
            for mode in EMBEDS_SCALINGS
            for layers in (None, PRECISE[1])
        ]
        assert np.array_equal(run(pipe, *off), plain), options


KEPT = {  # where the two leave tokens in their place, and a few places where they do not
    PRECISE[0]: ("0:1,1:1,2:1,3:1,9:1,10:1,11:1,12:1,13:1,14:1,15:1", ("down.2.attn.1",)),
    PRECISE[1]: ("4:0.25, 5:1", ("down.0.attn.0", "mid.attn.0", "up.3.attn.2")),
}


@pytest.mark.parametrize("name", PRECISE)
def test_moved_without_guidance_is_off(
    name: str, pipe: Pipeline, prompt: Callable[..., ImagePrompt]
) -> None:
    """Only the other layers are left, whatever the boost."""
    kept, moved = prompt(layers=KEPT[name][0]), prompt(layers={name: 1.0, "boost": -3.0})
    expected = run(pipe, kept, guidance_scale=1.0)
    assert np.array_equal(run(pipe, moved, guidance_scale=1.0), expected)
    assert not np.array_equal(run(pipe, moved), run(pipe, kept))


@pytest.mark.parametrize("name", PRECISE)
def test_moved_tokens_take_the_place_of_negative_ones(
    name: str, pipe: Pipeline, references: list, prompt: Callable[..., ImagePrompt]
) -> None:
    """Where all tokens of a prompt are moved, nobody sees its negative picture."""
    for scale, seen in ((dict.fromkeys(KEPT[name][1], 1.0), False), (1.0, True)):
        without = run(pipe, prompt(layers=name, scale=scale))
        found = run(pipe, prompt(layers=name, scale=scale, negative=references[5]))
        assert np.array_equal(found, without) != seen


def test_the_record_says_how(pipe: Pipeline, prompt: Callable[..., ImagePrompt]) -> None:
    layers = {"style-transfer-precise": 1.0, "boost": 0.5}
    how = prompt(embeds_scaling="k+mean(v)_w/_c_PENALTY", layers=layers)
    (kept,) = pipe("", image_prompts=[how], **CALL).info["request"]["image_prompts"]
    assert kept["embeds_scaling"] == "K+mean(V) w/ C penalty" and kept["layers"] == layers
