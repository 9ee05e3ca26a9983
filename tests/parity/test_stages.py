"""The taps: they see the same stages on both backends, change nothing, and can put a value in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Control, ImagePrompt, RequestError
from ipa.arrays import Floats
from ipa.backend.stages import chosen, kind_of, split
from ipa.parity.pytest_plugin import Parity
from oracle import controlled, loras, models
from oracle.pipelines import diffusers_pipeline
from oracle.sealed import once

Open = Callable[..., ipa.Pipeline]
# The towers' last layer is run by transformers even where only the layer before is used.
UNUSED = (
    "image_encoder.layers.",
    "image_encoder.post_layernorm",
    "image_encoder.visual_projection",
)
LEFT = np.tile(np.arange(64) < 32, (64, 1))


class Kept(dict[str, Floats]):
    """A tap that keeps everything."""

    def wants(self, stage: str) -> bool:
        return True

    def __call__(self, stage: str, array: Floats) -> None:
        assert stage not in self
        self[stage] = array


class Forced(Kept):
    """Puts a reference's stages in, and keeps the run's own."""

    def __init__(self, reference: dict[str, Floats]) -> None:
        super().__init__()
        self.reference = reference

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        super().__call__(stage, array)
        return self.reference.get(stage)


@pytest.fixture(scope="module")
def opened(
    tiny: Path, tiny_xl: Path, tmp_path_factory: pytest.TempPathFactory, open_pipeline: Open
):
    """Pipelines with adapters, a ControlNet and a LoRA; each is made once, none is changed."""
    root = tmp_path_factory.mktemp("stages")
    controlled.write_controlnet(root / "net", models.UNET, seed=3)
    pairs = loras.weak(loras.random_pairs(loras.layers(diffusers_pipeline(tiny)), seed=4))
    lora = loras.write(root / "lora.safetensors", loras.kohya(pairs, "sd"))

    @once
    def open_(family: str, backend: str) -> ipa.Pipeline:
        folder = {"sd": tiny, "xl": tiny_xl}[family]
        pipe = open_pipeline(folder, backend, "plus", "linear")
        if family == "sd":
            pipe.load_controlnet(root / "net", name="net")
            pipe.load_lora(lora, name="lora", scale=0.6)
        return pipe

    return open_


def call(family: str, pictures: list[Image.Image]) -> dict[str, Any]:
    a, b, c = (picture.resize((64, 64)) for picture in pictures[:3])
    prompts = [
        ImagePrompt(a, adapter="plus", scale=0.7, mask=LEFT),
        ImagePrompt([b, c], adapter="linear", scale=0.5),
    ]
    common = {
        "image_prompts": prompts,
        "num_inference_steps": 2,
        "seed": 3,
        "width": 64,
        "height": 64,
    }
    common |= {"width": 64, "height": 64}
    if family == "xl":
        return common | {"prompt": "a star", "scheduler": "euler", "guidance_scale": 3.0}
    control = Control(c, name="net", scale=0.8)
    start = {"image": a, "strength": 1.0, "negative_prompt": "a circle", "guidance_scale": 3.0}
    return common | start | {"prompt": "a star", "controls": [control]}


@pytest.mark.parametrize("family", ["sd", "xl"])
def test_stages_of_both_backends(
    family: str,
    opened: Callable[..., ipa.Pipeline],
    references: list[Image.Image],
    parity: Parity,
) -> None:
    request, kept = call(family, references), {}
    for backend in ("torch", "mlx"):
        kept[backend] = Kept()
        seen = opened(family, backend)(**request, tap=kept[backend])
        unseen = opened(family, backend)(**request)
        assert np.array_equal(seen.latents, unseen.latents)
        assert [i.tobytes() for i in seen.images] == [i.tobytes() for i in unseen.images]
    only = {name: kept["torch"].keys() ^ kept["mlx"].keys() for name in ("torch", "mlx")}
    assert [name for name in only["mlx"] if not split(name)[1].startswith(UNUSED)] == []
    assert all(kind_of(name) for name in kept["mlx"])
    for reference, other in (("torch", "mlx"), ("mlx", "torch")):
        found = Forced(kept[reference])
        opened(family, other)(**request, tap=found)
        # One row for all is as good as equal rows.
        pairs = {
            name: np.broadcast_arrays(array, found[name])
            for name, array in kept[reference].items()
            if name in found
        }
        a, b = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
        parity.assert_close(a, b, "stages.toml")


@pytest.mark.parametrize("name", ["step.000/unet.mid_block", "image.0/tokens.conditional"])
def test_what_stands_in_for_a_stage_is_used(
    name: str, backend: str, opened: Callable[..., ipa.Pipeline], references: list[Image.Image]
) -> None:
    request, pipe = call("xl", references) | {"output_type": "latent"}, opened("xl", backend)
    kept = Kept()
    pipe(**request, tap=kept)
    after = Forced({name: kept[name] * 0.5})
    changed = pipe(**request, tap=after)
    assert not np.array_equal(changed.latents, pipe(**request).latents)
    names = [*kept]
    before = names[: names.index(name) + 1]
    assert all(np.array_equal(kept[own], after[own]) for own in before)


def test_one_picture_at_a_time(backend: str, opened: Callable[..., ipa.Pipeline]) -> None:
    with pytest.raises(RequestError, match="one picture at a time"):
        opened("sd", backend)("a star", num_images=2, tap=Kept())


def test_patterns_that_match_nothing_tell_the_nearest() -> None:
    known = ["step.000/latents", "step.000/unet.mid_block", "decode/image"]
    assert chosen(["step.*"], known) == frozenset(known[:2])
    with pytest.raises(RequestError, match=r"step\.000/latents"):
        chosen(["step.000/latent"], known)
