"""What holds for identities of faces, on both backends: FaceID and its relatives."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Face, ImageEmbeds, ImagePrompt
from ipa.metadata.writing import picture_file
from ipa.pipeline.documents.one_picture import picture_info
from ipa.prepare.samplers.noise import NoiseStream
from ipa.request.profiles import PROFILES
from oracle import adapters, models
from oracle.measure import relative

Open = Callable[..., ipa.Pipeline]
SHARED: dict[str, Any] = {
    "prompt": "a star",
    "num_inference_steps": 2,
    "width": 32,
    "height": 32,
    "guidance_scale": 4.0,
    "output_type": "latent",
}
STATES = models.VISION["hidden_size"]


def face(seed: int, length: float = 1.0) -> np.ndarray:
    """A vector of some length."""
    vector = np.random.default_rng(seed).standard_normal(512)
    return (length * vector / np.linalg.norm(vector)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A FaceID, a FaceID-Plus, and a resampler of identities."""
    root = tmp_path_factory.mktemp("faces")
    sites = models.unet_sites(models.UNET)
    tensors = {
        "faceid": adapters.face_tensors(models.UNET, "faceid", rank=3, seed=1),
        "plus": adapters.face_tensors(models.UNET, "faceid_plus", rank=3, states=STATES, seed=2),
        "unnorm": models.adapter_tensors(
            "resampler", sites=sites, context=40, feature=512, tokens=5, seed=3
        ),
    }
    return {
        name: models.write_adapter(root / f"{name}.safetensors", t) for name, t in tensors.items()
    }


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open, files: dict[str, Path]) -> ipa.Pipeline:
    """All of them loaded, and an adapter for pictures."""
    pipe = open_pipeline(tiny, backend, "linear")
    pipe.load_ip_adapter(files["faceid"], name="faceid")
    pipe.load_ip_adapter(files["plus"], name="plus", kind="faceid-plusv2")
    pipe.load_ip_adapter(files["unnorm"], name="unnorm", kind="faceid-portrait-unnorm")
    return pipe


def run(pipe: ipa.Pipeline, *prompts: ImagePrompt, **arguments: Any) -> np.ndarray:
    return pipe(image_prompts=prompts, **(SHARED | arguments)).latents


OFF: dict[str, dict[str, Any]] = {
    "scale": {"scale": 0.0},
    "window": {"start": 0.9, "end": 0.95},
    "mask": {"mask": np.zeros((8, 8))},
}


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
def test_what_is_off_is_the_base_model_bit_for_bit(pipe: ipa.Pipeline, off: dict[str, Any]) -> None:
    """Its LoRA too."""
    base = run(pipe)
    assert not np.array_equal(run(pipe, ImagePrompt(adapter="faceid", face=face(1))), base)
    assert np.array_equal(run(pipe, ImagePrompt(adapter="faceid", face=face(1), **off)), base)
    assert np.array_equal(run(pipe), base)


def test_the_lora_belongs_to_its_adapter(
    pipe: ipa.Pipeline, files: dict[str, Path], tiny: Path, backend: str, open_pipeline: Open
) -> None:
    """It acts with its prompt alone, by its own strength, and is gone with the adapter."""
    other = open_pipeline(tiny, backend)
    other.load_ip_adapter(files["faceid"], name="faceid", lora_scale=0.5)
    prompt = ImagePrompt(adapter="faceid", face=face(1), scale=0.7)
    found = run(other, prompt)
    assert not np.allclose(found, run(pipe, prompt), atol=1e-3)
    assert other.info()["adapters"]["faceid"]["lora_scale"] == 0.5
    other.unload_ip_adapter("faceid")
    assert np.array_equal(run(other), run(pipe))


def test_an_embedder_finds_what_is_given_otherwise(
    tiny: Path, backend: str, open_pipeline: Open, files: dict[str, Path], references: list
) -> None:
    """The first face of each picture; its crop is what the image encoder sees."""
    crop, asked = references[5].crop((8, 8, 48, 48)), []

    def embedder(picture: Image.Image) -> list[Face]:
        asked.append(picture.size)
        return [Face(face(4, 17.0), crop), Face(face(5, 17.0))]

    pipe = open_pipeline(tiny, backend)
    options = {"kind": "faceid-plus", "face_embedder": embedder}
    pipe.load_ip_adapter(files["plus"], name="plus", **options)
    found = run(pipe, ImagePrompt(references[0]))
    assert asked == [references[0].size]
    assert np.array_equal(found, run(pipe, ImagePrompt(crop, face=face(4, 17.0) / 17.0)))
    assert np.array_equal(
        found, run(pipe, ImagePrompt(references[1], face=Face(face(4, 17.0), crop)))
    )
    assert asked == [references[0].size]


@pytest.mark.parametrize("name", ["faceid", "plus", "unnorm"])
def test_embeds_are_what_the_face_would_do(
    name: str, pipe: ipa.Pipeline, references: list, tmp_path: Path
) -> None:
    length = 20.0 if name == "unnorm" else 1.0
    given: dict[str, Any] = {"face": [face(1, length), face(2, length)]}
    image = references[:2] if name == "plus" else None
    embeds = pipe.encode_image_prompt(image, adapter=name, **given)
    embeds.save(tmp_path / "faces.safetensors")
    loaded = ImageEmbeds.load(tmp_path / "faces.safetensors")
    direct = run(pipe, ImagePrompt(image, adapter=name, **given))
    assert np.array_equal(run(pipe, ImagePrompt(loaded, adapter=name)), direct)
    twice = ImageEmbeds.join([embeds, embeds]).combine("average", [1, 0, 1, 0])
    once = pipe.encode_image_prompt(
        image[0] if image else None, adapter=name, face=given["face"][0]
    )
    mean, alone = (run(pipe, ImagePrompt(given, adapter=name)) for given in (twice, once))
    if name == "plus":
        # Two pictures went through the encoder at once, and one: on some processors a product of
        # more rows has other last bits. Relative L2: 1.0e-6 measured on MLX, 0 on torch.
        assert relative(mean, alone) < 3e-6
    else:
        assert np.array_equal(mean, alone)


def test_each_face_has_its_own_mask(pipe: ipa.Pipeline) -> None:
    """As two prompts would have."""
    left = np.tile(np.arange(8) < 4, (8, 1))
    faces = [face(1), face(2)]
    both = ImagePrompt(adapter="faceid", face=faces, mask=[left, ~left], scale=[0.5, 1.0])
    apart = [
        ImagePrompt(adapter="faceid", face=faces[0], mask=left, scale=0.5),
        ImagePrompt(adapter="faceid", face=faces[1], mask=~left, scale=1.0),
    ]
    assert np.array_equal(run(pipe, both), run(pipe, *apart))


def test_a_face_to_steer_away_from(pipe: ipa.Pipeline, references: list) -> None:
    away = pipe.encode_image_prompt(adapter="faceid", face=face(9))
    own = ImagePrompt(adapter="faceid", face=face(1))
    steered = ImagePrompt(adapter="faceid", face=face(1), negative=away)
    assert not np.allclose(run(pipe, steered), run(pipe, own), atol=1e-3)
    noise = ImagePrompt(references[0], adapter="plus", face=face(1), negative="noise")
    assert np.isfinite(run(pipe, noise)).all()


def test_the_request_is_described(pipe: ipa.Pipeline, references: list) -> None:
    prompt = ImagePrompt(references[0], adapter="plus", face=face(1), shortcut_scale=0.4)
    (told,) = pipe(image_prompts=prompt, **SHARED).info["request"]["image_prompts"]
    assert (told["shortcut_scale"], told["lora_scale"]) == (0.4, 1.0)
    assert len(told["faces_sha256"]) == 1
    assert pipe.info()["adapters"]["plus"]["kind"] == "faceid-plusv2"


def test_profiles_weigh_faces_as_their_programs(
    pipe: ipa.Pipeline, files: dict[str, Path], tiny: Path, backend: str, open_pipeline: Open
) -> None:
    """ComfyUI's LoRA is weaker (D7), unless a strength was asked for."""
    weak = open_pipeline(tiny, backend)
    weak.load_ip_adapter(files["faceid"], name="faceid", lora_scale=0.6)
    prompt = ImagePrompt(adapter="faceid", face=face(1))
    texts = {"negative_prompt": ""}
    found = run(pipe, prompt, profile="comfyui", **texts)
    published = replace(prompt, scale={"down": 1.0, "mid": 0.0, "up": 1.0})
    assert np.array_equal(found, run(weak, published, **texts))
    meant = run(pipe, prompt, profile="comfyui-as-meant", **texts)
    assert np.array_equal(meant, run(weak, prompt, **texts))
    assert np.array_equal(found, run(weak, prompt, profile="comfyui", **texts))
    assert not np.allclose(found, run(pipe, prompt, **texts), atol=1e-3)


@pytest.mark.parametrize("off", OFF.values(), ids=OFF)
def test_the_programs_leave_the_lora_on(pipe: ipa.Pipeline, off: dict[str, Any]) -> None:
    """D28: what is off is off but for the LoRA, which is as the prompt's mere presence has it."""
    prompt, base = ImagePrompt(adapter="faceid", face=face(1), **off), run(pipe)
    texts = {"negative_prompt": ""}
    found = {name: run(pipe, prompt, profile=name, **texts) for name in PROFILES}
    assert np.array_equal(found["default"], base)
    for name in ("tencent", "diffusers", "comfyui"):
        assert not np.allclose(found[name], base, atol=1e-3), name
    assert np.array_equal(found["tencent"], found["diffusers"])
    assert np.array_equal(found["comfyui"], found["comfyui-as-meant"])
    assert not np.allclose(found["tencent"], found["comfyui"], atol=1e-3)
    without = run(pipe, profile="tencent", **texts)  # nobody's face: nothing of the adapter
    assert np.array_equal(without, base)


def test_tencents_faces_are_a_batch(pipe: ipa.Pipeline) -> None:
    """D3: a list of faces, too, makes a picture of each; of Portrait's kin it is one prompt."""
    faces, texts = [face(1), face(2)], {"negative_prompt": "", "num_inference_steps": 1}
    both = ImagePrompt(adapter="faceid", face=faces, scale=[0.5, 1.0])
    found = run(pipe, both, profile="tencent", **texts)
    drawn = NoiseStream(0).normal((2, 4, 4, 4))
    assert found.shape == drawn.shape
    for number, (one, scale) in enumerate(zip(faces, (0.5, 1.0), strict=True)):
        alone = ImagePrompt(adapter="faceid", face=one, scale=scale)
        row = slice(number, number + 1)
        apart = relative(found[row], run(pipe, alone, latents=drawn[row], **texts))
        assert apart < 3e-6  # 0 here; torch's own, of arrays that lie elsewhere, 9e-7
    joint = ImagePrompt(adapter="unnorm", face=[face(1, 20.0), face(2, 20.0)])
    whole = run(pipe, joint, profile="tencent", **texts)
    assert np.array_equal(whole, run(pipe, joint, **texts))


def test_comfyui_sets_a_face_against_black(pipe: ipa.Pipeline, references: list) -> None:
    """What is seen of it (D1); its identity against zeros."""
    options = {"face": face(1), "profile": "comfyui"}
    seen = pipe.encode_image_prompt(references[0], adapter="plus", **options)
    black = Image.new("RGB", (9, 9))
    away = pipe.encode_image_prompt(black, adapter="plus", **options)
    assert np.array_equal(seen.unconditional, away.conditional)
    assert not seen.unconditional_face.any()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no identity": ({"adapter": "faceid", "image": 0}, "faceid.* needs to know whose face"),
    "no face for a picture": (
        {"adapter": "plus", "image": 0, "face": [face(1), face(2)]},
        "1 pictures, 2 faces",
    ),
    "width": ({"adapter": "faceid", "face": np.ones(128, np.float32)}, "width 512.*128 numbers"),
    "raw": ({"adapter": "faceid", "face": face(1, 19.0)}, "length 1.*length 19.*normed_embedding"),
    "normed": ({"adapter": "unnorm", "face": face(1)}, "as the face network gives.*length 1;"),
    "zeros": ({"adapter": "faceid", "face": np.zeros(512, np.float32)}, "length 1.*length 0"),
    "a face for pictures": ({"adapter": "linear", "image": 0, "face": face(1)}, "not faces"),
    "a shortcut": (
        {"adapter": "faceid", "face": face(1), "shortcut_scale": 0.5},
        "has no shortcut",
    ),
    "noise": ({"adapter": "faceid", "face": face(1), "negative": "noise"}, "noise has none"),
    "too many masks": (
        {"adapter": "faceid", "face": face(1), "mask": [np.ones((8, 8))] * 2},
        "2 entries, 1 needed",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be(name: str, pipe: ipa.Pipeline, references: list) -> None:
    arguments, words = BAD[name]
    if "image" in arguments:
        arguments = arguments | {"image": references[arguments["image"]]}
    with pytest.raises(ipa.RequestError, match=f"(?s){words}"):
        run(pipe, ImagePrompt(**arguments))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.array([np.nan] * 512), "NaN"),
        ("a.jpg", "ipa.Face or a numpy array"),
        ([], "needs a face"),
        (np.zeros((1, 2, 3)), "a vector per face"),
    ],
)
def test_what_is_no_face(given: Any, words: str) -> None:
    with pytest.raises(ipa.RequestError, match=re.escape(words)):
        ImagePrompt(face=given)


def test_a_prompt_needs_something() -> None:
    with pytest.raises(ipa.RequestError, match="needs a picture"):
        ImagePrompt()


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("plus", None, "do not tell which.*faceid-plusv2"),
        ("unnorm", None, "faceid-portrait-unnorm"),
        ("plus", "faceid", "not the structure of a faceid adapter"),
        ("unnorm", "instantid", "InstantID"),
    ],
)
def test_kinds_that_must_be_told(
    name: str, kind: str | None, words: str, own: ipa.Pipeline, files: dict[str, Path]
) -> None:
    with pytest.raises(ipa.IpaError, match=f"(?s){words}"):
        own.load_ip_adapter(files[name], name="again", kind=kind)


def test_no_face_in_a_picture(
    tiny: Path, backend: str, open_pipeline: Open, files: dict[str, Path], references: list
) -> None:
    def embedder(picture: Image.Image) -> list[Face]:
        return [Face(face(1))] if picture.size == (9, 9) else []

    pipe = open_pipeline(tiny, backend)
    pipe.load_ip_adapter(files["faceid"], face_embedder=embedder)
    with pytest.raises(ipa.RequestError, match="no face was found in picture 2"):
        run(pipe, ImagePrompt([Image.new("RGB", (9, 9)), references[0]]))


def test_embeds_of_other_adapters(pipe: ipa.Pipeline, references: list) -> None:
    seen = pipe.encode_image_prompt(references[0], adapter="plus", face=face(1))
    alone = pipe.encode_image_prompt(adapter="faceid", face=face(1))
    with pytest.raises(ipa.RequestError, match="features of another kind"):
        run(pipe, ImagePrompt(alone, adapter="plus"))
    with pytest.raises(ipa.RequestError, match="features of another kind"):
        run(pipe, ImagePrompt(seen, adapter="faceid"))
    with pytest.raises(ipa.RequestError, match="has no image encoder"):
        pipe.embed_images(references[:1], adapter="faceid")
    with pytest.raises(ipa.RequestError, match="sees no pictures"):
        pipe.encoder_views(ImagePrompt(references[0], adapter="faceid"))


@pytest.mark.parametrize("name", ["faceid", "plus", "unnorm"])
@pytest.mark.parametrize("is_face", [False, True], ids=["vector", "Face"])
def test_a_picture_of_a_face_runs_again_alone(
    name: str, is_face: bool, pipe: ipa.Pipeline, references: list, tmp_path: Path
) -> None:
    """The identity lies in the PNG, and of a `Face` its crop; nothing is beside it."""
    length = 20.0 if name == "unnorm" else 1.0
    vector = face(1, length)
    crop = references[0].crop((8, 8, 48, 48))
    given = Face(vector, crop) if is_face else vector
    image = references[1] if name == "plus" else None
    prompt = ImagePrompt(image, adapter=name, face=given, scale=0.8)
    call = SHARED | {"output_type": "pil", "embed_references": True}
    result = pipe(image_prompts=prompt, **call)
    assert result.references is not None and not result.references.missing
    info, chunks = picture_info(result, 0)
    path = tmp_path / "face.png"
    path.write_bytes(picture_file(result.images[0], info, references=chunks).data)
    again = pipe.replay(path)
    assert np.array_equal(again.latents, result.latents)
    other = pipe(image_prompts=replace(prompt, face=face(2, length)), **call)
    assert not np.array_equal(other.latents, result.latents)
