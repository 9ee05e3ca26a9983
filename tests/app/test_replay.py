"""A request, its description, and the request read from that: `replay(describe(r)) == r`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Control, Face, ImagePrompt, RequestError
from ipa.parity.compare.compatibility import request_differences
from ipa.pipeline.batch import plan_batch
from ipa.pipeline.description import describe_batch, describe_request
from ipa.pipeline.field import undescribed
from ipa.pipeline.fields import CONTROL_FIELDS, PROMPT_FIELDS, REQUEST_FIELDS
from ipa.pipeline.request_file import read_request
from ipa.request.batch import Batch, make_batch
from ipa.request.request import Request
from oracle import adapters, controlled, loras, models, t2i_adapters
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline
from oracle.workshop import XL as XL_MODEL

Open = Callable[..., ipa.Pipeline]

SIZE = (64, 48)
NET, SKETCH = "net", "sketch"
UNET = t2i_adapters.UNET
HALF = Image.fromarray(np.tile(np.where(np.arange(64) < 30, 255, 0).astype(np.uint8), (48, 1)))


def drawn(seed: int) -> Image.Image:
    """A picture of colours, all different."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [drawn(seed) for seed in range(4)]
MASKS = [HALF.convert("RGB"), HALF.transpose(Image.Transpose.ROTATE_180).convert("RGB")]
EDGES = Image.fromarray(controlled.edges(SIZE, 1)).convert("RGB")
LOST = object()
"""What a description only names: it is refused, with the word that the field is known by."""

A, B, _C, D = PICTURES
FORECAST = {"forecast": True, "forecast_warmup": 2, "num_inference_steps": 5}
EDITED = {"image": A, "width": None, "height": None}
REQUEST: dict[str, list[dict[str, Any]]] = {
    "prompt": [{"prompt": "a ring"}, {"prompt": ["a ring", "a star"]}],
    "negative_prompt": [{"negative_prompt": "grey"}],
    "prompt_2": [{"prompt_2": "gold"}],
    "negative_prompt_2": [{"negative_prompt": "grey", "negative_prompt_2": "blue"}],
    "image_prompts": [],  # PROMPT
    "width": [{"width": 72}],
    "height": [{"height": 32}],
    "num_inference_steps": [{"num_inference_steps": 4}],
    "guidance_scale": [{"guidance_scale": 2.5}],
    "scheduler": [{"scheduler": "euler_karras"}],
    "seed": [{"seed": 2**63}],
    "num_images": [{"num_images": 3}],
    "latents": [{"latents": LOST}],
    "original_size": [{"original_size": (70, 80)}],
    "crops_coords_top_left": [{"crops_coords_top_left": (3, 4)}],
    "target_size": [{"target_size": (71, 81)}],
    "negative_original_size": [
        {"negative_original_size": (72, 82), "negative_target_size": (73, 83)}
    ],
    "negative_crops_coords_top_left": [
        {
            "negative_original_size": (72, 82),
            "negative_target_size": (73, 83),
            "negative_crops_coords_top_left": (5, 6),
        }
    ],
    "negative_target_size": [
        {"negative_original_size": (72, 82), "negative_target_size": (75, 85)}
    ],
    "profile": [{"profile": name} for name in ("tencent", "diffusers", "comfyui")],
    "controls": [],  # CONTROL
    "clip_skip": [{"clip_skip": 1}],
    "long_prompts": [{"long_prompts": "chunks"}],
    "prompt_syntax": [{"prompt_syntax": "a1111"}, {"prompt_syntax": "comfyui"}],
    "guidance_rescale": [{"guidance_rescale": 0.4}],
    "guidance_start": [{"guidance_start": 0.5}],
    "guidance_end": [{"guidance_start": 0.2, "guidance_end": 0.6}],
    "cache_interval": [{"cache_interval": 2, "num_inference_steps": 3}],
    "cache_branch": [{"cache_interval": 2, "cache_branch": 1, "num_inference_steps": 3}],
    "forecast": [FORECAST],
    "forecast_window": [FORECAST | {"forecast_window": 3}],
    "forecast_growth": [FORECAST | {"forecast_growth": 2.0, "num_inference_steps": 7}],
    "forecast_warmup": [FORECAST | {"forecast_warmup": 1}],
    "eta": [{"scheduler": "ddim", "eta": 0.3}],
    "timestep_spacing": [{"timestep_spacing": "trailing"}],
    "timesteps": [
        {"scheduler": "euler", "timesteps": [900.0, 400.5, 3.0], "num_inference_steps": None}
    ],
    "sigmas": [{"scheduler": "euler", "sigmas": [9.0, 2.5, 0.0], "num_inference_steps": None}],
    "image": [EDITED, EDITED | {"image": [A, B], "num_images": 2}],
    "mask_image": [
        EDITED | {"mask_image": MASKS[0]},
        EDITED | {"image": [A, B, A], "mask_image": [*MASKS, MASKS[0]], "num_images": 3},
    ],
    "strength": [EDITED | {"strength": 0.55}],
    "padding_mask_crop": [EDITED | {"mask_image": MASKS[0], "padding_mask_crop": 4}],
    "mask_blur": [EDITED | {"mask_image": MASKS[0], "mask_blur": 2.5}],
    "overlay": [EDITED | {"mask_image": MASKS[0], "overlay": True}],
    "loras": [{"loras": {"wash": 0.25}}, {"loras": {"wash": -1.5, "ink": 0.0}}],
}
PROMPT: dict[str, list[dict[str, Any]]] = {
    "image": [{}, {"image": [A, B]}, {"image": LOST}],
    "adapter": [{"adapter": "plus"}],
    "scale": [
        {"scale": 0.3},
        {"scale": {"down": {"block_1": 0.2}, "up": {"block_1": [0.5, 0.0, 1.0]}}},
        {"image": [A, B], "scale": [0.3, -0.4]},
    ],
    "layers": [{"layers": "style"}, {"layers": {"style": 0.7, "layout": 0.2}}],
    "curve": [{"curve": "fade_out"}, {"curve": [(0.0, 1.0), (0.6, 0.25)]}],
    "mask": [{"mask": MASKS[0]}, {"image": [A, B], "mask": MASKS}],
    "mask_fit": [{"mask": MASKS[0], "mask_fit": "stretch"}],
    "start": [{"start": 0.25}],
    "end": [{"end": 0.75}],
    "combine": [{"image": [A, B], "combine": "average"}],
    "negative": [
        {"negative": B},
        {"image": [A, B], "negative": [B, D]},
        {"negative": "noise:fade:0.5:3"},
        {"negative": LOST},
    ],
    "fit": [{"fit": "pad"}, {"fit": (0.1, 0.0, 0.9, 1.0)}, {"fit": "tile"}],
    "sharpen": [{"sharpen": 0.5}],
    "face": [{"face": LOST}],
    "shortcut_scale": [{"face": LOST, "adapter": "faceid-plusv2", "shortcut_scale": 0.5}],
    "embeds_scaling": [{"embeds_scaling": "K+V w/ C penalty"}],
    "encoder_mask": [{"encoder_mask": MASKS[0]}, {"image": [A, B], "encoder_mask": MASKS}],
    "enhance_tiles": [{"adapter": "plus", "enhance_tiles": 2}],
    "enhance_ratio": [{"adapter": "plus", "enhance_tiles": 2, "enhance_ratio": 0.5}],
    "neg_content_prompt": [{"neg_content_prompt": "a dog"}],
    "neg_content_scale": [{"neg_content_prompt": "a dog", "neg_content_scale": 0.4}],
    "batched": [{"image": [A, B], "batched": True}],
}
CONTROL: dict[str, list[dict[str, Any]]] = {
    "image": [{}],
    "name": [{"name": NET}, {"name": SKETCH}],
    "scale": [{"scale": 0.4}, {"name": SKETCH, "scale": [0.1, 0.2, 0.3, 0.4]}],
    "start": [{"start": 0.25}],
    "end": [{"end": 0.5}],
    "guess_mode": [{"name": NET, "guess_mode": True}],
    "preprocessor": [{"preprocessor": LOST}],
    "mask": [{"name": NET, "mask": MASKS[0]}],
    "batched": [{"image": [EDGES, A], "batched": True}],
}
XL = {name for name in REQUEST if "2" in name or "size" in name or "crops" in name} | {
    "neg_content_prompt",
    "neg_content_scale",
}


def face_of(image: Image.Image) -> list[Face]:
    """An embedder: some face in every picture."""
    return [Face(np.linspace(1.0, 2.0, 512, dtype=np.float32))]


@pytest.fixture(scope="module")
def pipes(
    tmp_path_factory: pytest.TempPathFactory, open_pipeline: Open
) -> Mapping[bool, ipa.Pipeline]:
    """Without and with two text encoders; planning is the same on both backends."""
    root = tmp_path_factory.mktemp("replay")
    models.build_with_adapters(root, models.Tiny(unet=UNET), seed=8)
    controlled.write_controlnet(root / NET, UNET, seed=7)
    t2i_adapters.write_t2i_adapter(root / SKETCH, 9, **t2i_adapters.FULL)
    pipe = open_pipeline(root, "mlx", "linear", "plus")
    states = models.VISION["hidden_size"]
    tensors = adapters.face_tensors(UNET, "faceid_plus", rank=3, states=states, seed=2)
    face = {"kind": "faceid-plusv2", "face_embedder": face_of, "name": "faceid-plusv2"}
    pipe.load_ip_adapter(models.write_adapter(root / "face.safetensors", tensors), **face)
    pipe.load_controlnet(root / NET)
    pipe.load_t2i_adapter(root / SKETCH)
    pairs = loras.random_pairs(loras.layers(diffusers_pipeline(root)), seed=1, ranks=(2,))
    for name in ("wash", "ink"):
        pipe.load_lora(loras.write(root / f"{name}.safetensors", loras.peft(loras.weak(pairs))))
    vision = models.VISION | {"projection_dim": models.SECOND_TEXT["projection_dim"]}
    models.build_with_adapters(root / "xl", replace(XL_MODEL, vision=vision), seed=9)
    return {False: pipe, True: open_pipeline(root / "xl", "mlx", "linear")}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them as files."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate((*PICTURES, *MASKS, EDGES)):
        picture.save(folder / f"{number}.png")
    return folder


def planned(pipe: ipa.Pipeline, arguments: Mapping[str, Any]) -> tuple[Batch, dict[str, Any]]:
    """The requests of a call, and their description."""
    rest = dict(arguments)
    batch = make_batch(rest.pop("image_prompts", ()), rest)
    plans = plan_batch(batch, pipe._loaded.snapshot()[0])
    one = len(plans) == 1
    return batch, describe_request(plans[0]) if one else describe_batch(batch, plans)


def replayed(described: Mapping[str, Any], pictures: Path, folder: Path) -> Mapping[str, Any]:
    path = folder / "request.json"
    path.write_text(json.dumps({"request": {**described, "weights": None}}))
    return read_request(path, [pictures]).arguments


def same(a: Any, b: Any) -> bool:
    """Pictures by their pixels; lists and tuples are one."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (Image.Image, np.ndarray)) and isinstance(b, (Image.Image, np.ndarray)):
        return np.array_equal(np.asarray(a), np.asarray(b))
    return type(a) is type(b) and a == b


CALL: dict[str, Any] = {"width": 64, "height": 48, "num_inference_steps": 2}


def check(pipe: ipa.Pipeline, call: dict[str, Any], pictures: Path, folder: Path) -> Any:
    """The description of what is read from a description is the same."""
    call = {key: value for key, value in (CALL | call).items() if value is not None}
    batch, described = planned(pipe, call)
    again, twice = planned(pipe, replayed(described, pictures, folder))
    assert twice == described
    return batch, again


@pytest.mark.parametrize(
    ("name", "given"), [(name, given) for name in REQUEST for given in REQUEST[name]]
)
def test_every_field_of_a_request(
    name: str,
    given: dict[str, Any],
    pipes: Mapping[bool, ipa.Pipeline],
    pictures: Path,
    tmp_path: Path,
) -> None:
    pipe = pipes[name in XL]
    if given.get(name) is LOST:
        noise = np.random.default_rng(0).standard_normal((1, 4, 6, 8)).astype(np.float32)
        with pytest.raises(RequestError, match="latents that were given"):
            check(pipe, given | {name: noise}, pictures, tmp_path)
        return
    batch, again = check(pipe, given, pictures, tmp_path)
    for asked, found in zip(batch.requests, again.requests, strict=True):
        value = getattr(asked, name)
        if name == "loras":
            assert value.items() <= getattr(found, name).items()
        else:
            assert same(getattr(found, name), value)


PROMPTS = [(name, given) for name in PROMPT for given in PROMPT[name]]


@pytest.mark.parametrize(("name", "given"), PROMPTS)
def test_every_field_of_an_image_prompt(
    name: str,
    given: dict[str, Any],
    pipes: Mapping[bool, ipa.Pipeline],
    pictures: Path,
    tmp_path: Path,
) -> None:
    pipe = pipes[name in XL]
    own = {"adapter": "linear", "image": A} | given
    lost = [field for field, value in own.items() if value is LOST]
    if name in {"image", "negative"} and lost:
        own[name] = pipe.encode_image_prompt(B, adapter="linear")
    elif lost:
        own |= {"adapter": "faceid-plusv2", "face": face_of(A)}
    call = {"image_prompts": [ImagePrompt(**own)]}
    call |= {"prompt": ["a", "b"]} if name == "batched" else {}
    if lost:
        words = "faces" if "face" in lost else "image embeds"
        with pytest.raises(RequestError, match=f"was made with {words}"):
            check(pipe, call, pictures, tmp_path)
        return
    batch, again = check(pipe, call, pictures, tmp_path)
    for asked, found in zip(batch.image_prompts, again.image_prompts, strict=True):
        assert same(getattr(found, name), getattr(asked, name))


def test_the_weight_of_a_face(
    pipes: Mapping[bool, ipa.Pipeline], pictures: Path, tmp_path: Path
) -> None:
    """Where an embedder finds it in a picture, a request is read again as a whole."""
    own = ImagePrompt(A, adapter="faceid-plusv2", shortcut_scale=0.5)
    _, again = check(pipes[False], {"image_prompts": [own]}, pictures, tmp_path)
    assert again.image_prompts[0].shortcut_scale == 0.5


@pytest.mark.parametrize(
    ("name", "given"), [(name, given) for name in CONTROL for given in CONTROL[name]]
)
@pytest.mark.parametrize("kind", [NET, SKETCH])
def test_every_field_of_a_control(
    name: str,
    given: dict[str, Any],
    kind: str,
    pipes: Mapping[bool, ipa.Pipeline],
    pictures: Path,
    tmp_path: Path,
) -> None:
    own = {"image": EDGES, "name": kind} | given
    if name == "preprocessor":
        own[name] = lambda picture: picture
    call = {"controls": [Control(**own)], "prompt": ["a", "b"] if name == "batched" else "a"}
    if name == "preprocessor":
        with pytest.raises(RequestError, match="a preprocessor"):
            check(pipes[False], call, pictures, tmp_path)
        return
    batch, again = check(pipes[False], call, pictures, tmp_path)
    for asked, found in zip(batch.requests, again.requests, strict=True):
        for first, second in zip(asked.controls, found.controls, strict=True):
            assert same(getattr(second, name), getattr(first, name))


def test_no_field_is_forgotten() -> None:
    """A new one has a row, and is tried above or said to be none that makes a picture."""
    tried = {
        Request: (REQUEST_FIELDS, {*REQUEST, *undescribed(REQUEST_FIELDS)}),
        ImagePrompt: (PROMPT_FIELDS, {*PROMPT}),
        Control: (CONTROL_FIELDS, {*CONTROL}),
    }
    for kind, (rows, cases) in tried.items():
        assert {field.name for field in fields(kind)} == {*rows} == cases, kind
    # Of a face no more than a hash is described: all of its fields are lost together.
    assert {*PROMPT_FIELDS["face"].lost} == {"faces_sha256"}


def test_a_description_that_is_older_than_a_field(
    pipes: Mapping[bool, ipa.Pipeline], pictures: Path, tmp_path: Path
) -> None:
    """It is of the same run as one that has the field's default, and is read as that."""
    own = CALL | {"image_prompts": [ImagePrompt(A, adapter="linear")], "prompt": "a star"}
    _, new = planned(pipes[False], own)
    old = json.loads(json.dumps(new))
    del old["eta"], old["long_prompts"], old["image_prompts"][0]["sharpen"]
    assert not list(request_differences(old, json.loads(json.dumps(new))))
    assert planned(pipes[False], replayed(old, pictures, tmp_path))[1] == new
    other = json.loads(json.dumps(new)) | {"eta": 0.5}
    assert [name for name, _, _ in request_differences(old, other)] == ["eta"]


@pytest.mark.parametrize("kind", ["controlnet", "t2i_adapter"])
def test_a_control_as_it_was_described_of_old(
    kind: str, pipes: Mapping[bool, ipa.Pipeline], pictures: Path, tmp_path: Path
) -> None:
    """Until the word for its kind was an entry of its own, its name stood under that word."""
    name = NET if kind == "controlnet" else SKETCH
    own = Control(EDGES, name=name, scale=0.5, end=0.75)
    _, described = planned(pipes[False], CALL | {"controls": [own]})
    (told,) = described["controls"]
    assert (told.pop("control"), told.pop("kind")) == (name, kind)
    told[kind] = name
    new = planned(pipes[False], CALL | {"controls": [own]})[1]
    assert not list(request_differences(described, json.loads(json.dumps(new))))
    (found,) = replayed(described, pictures, tmp_path)["controls"]
    assert (found.name, found.scale, found.end, found.batched) == (name, 0.5, 0.75, False)


@pytest.mark.parametrize("kind", ["controlnet", "t2i_adapter"])
def test_a_picture_is_made_again_from_what_it_says(
    kind: str,
    backend: str,
    pipes: Mapping[bool, ipa.Pipeline],
    pictures: Path,
    tmp_path: Path,
    open_pipeline: Open,
) -> None:
    """With a T2I-Adapter as with a ControlNet."""
    root = pipes[False]._loaded.backend.model.path
    pipe = open_pipeline(root, backend)
    getattr(pipe, f"load_{kind}")(root / (NET if kind == "controlnet" else SKETCH))
    call = {"controls": Control(EDGES, scale=0.5), "output_type": "latent", "seed": 3}
    made = pipe("a ring", **CALL, **call)
    arguments = replayed(made.info["request"], pictures, tmp_path)
    again = pipe(**arguments, output_type="latent")
    assert again.info["request"] == made.info["request"]
    if backend == "mlx":
        assert np.array_equal(again.latents, made.latents)
    # Measured 0; another order of sums makes 1.9e-6 (tests/laws/test_loras.py).
    assert relative(again.latents, made.latents) < 4e-6
