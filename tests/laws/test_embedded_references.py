"""A PNG with embedded references runs again alone, bit for bit, on both backends."""

from __future__ import annotations

import copy
import hashlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Control, Face, ImagePrompt, RequestError
from ipa.metadata.reading import read_told
from ipa.metadata.writing import picture_file
from ipa.pipeline.documents.array_files import face_file, read_face
from ipa.pipeline.documents.one_picture import picture_info
from ipa.request.result import Result
from oracle import controlled, loras, models, t2i_adapters
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline

Open = Callable[..., ipa.Pipeline]
SIZE = (64, 48)
UNET = t2i_adapters.UNET
NEAR = 1e-6
"""Of latents, relative L2. Measured on both backends: 0 of one picture, also of embeds; 1.1e-7 to
1.7e-7 of two side by side, whose sums have another order. Other processors have others again."""
CALL: dict[str, Any] = {"num_inference_steps": 2, "width": 64, "height": 48, "seed": 5}


def drawn(seed: int, size: tuple[int, int] = (70, 50)) -> Image.Image:
    """A picture of smooth colours, no square."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


A, B, START = drawn(1), drawn(2, (50, 90)), drawn(3, SIZE)
EDGES = Image.fromarray(controlled.edges(SIZE, 1)).convert("RGB")
LEFT = np.zeros((48, 64), np.float32)
LEFT[:, :30] = 1.0
SOFT = np.linspace(0.0, 1.0, 64, dtype=np.float32)[None].repeat(48, axis=0)  # not of 8 bits
HOLED = np.where(LEFT[..., None] > 0.5, -1.0, np.asarray(EDGES) / np.float32(255.0))
NOISE = np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, two adapters, a ControlNet, a T2I-Adapter and a LoRA."""
    root = tmp_path_factory.mktemp("embedded")
    models.build_with_adapters(root, models.Tiny(unet=UNET), seed=8)
    controlled.write_controlnet(root / "net", UNET, seed=7)
    t2i_adapters.write_t2i_adapter(root / "sketch", 9, **t2i_adapters.FULL)
    pairs = loras.random_pairs(loras.layers(diffusers_pipeline(root)), seed=1, ranks=(2,))
    loras.write(root / "wash.safetensors", loras.peft(loras.weak(pairs)))
    return root


@pytest.fixture(scope="module")
def pipe(root: Path, backend: str, open_pipeline: Open) -> ipa.Pipeline:
    pipe = open_pipeline(root, backend, "linear", "plus")
    pipe.load_controlnet(root / "net")
    pipe.load_t2i_adapter(root / "sketch")
    pipe.load_lora(root / "wash.safetensors")
    return pipe


CASES: dict[str, dict[str, Any]] = {
    "several adapters": {
        "image_prompts": [
            ImagePrompt(A, adapter="linear", scale=0.7, fit="pad", sharpen=0.4),
            ImagePrompt([A, B], adapter="plus", scale=[0.5, 0.2], negative=B, end=0.5),
        ]
    },
    "masks": {
        "image_prompts": [
            ImagePrompt(A, adapter="linear", mask=LEFT),
            ImagePrompt(START, adapter="plus", mask=SOFT, encoder_mask=LEFT),
        ]
    },
    "tiles and closer looks": {
        "image_prompts": [
            ImagePrompt(A, adapter="linear", fit="tile", negative="noise:fade:0.5:3"),
            ImagePrompt(B, adapter="plus", enhance_tiles=2),
        ]
    },
    "a ControlNet": {
        "controls": [
            Control(EDGES, name="net", scale=0.5, mask=LEFT),
            Control(A, name="net", preprocessor=lambda picture: picture.rotate(9)),
        ]
    },
    "a control with holes": {"controls": Control(HOLED.astype(np.float32), name="net")},
    "a T2I-Adapter": {"controls": Control(EDGES, name="sketch", end=0.5)},
    "a start picture": {"image": START, "strength": 0.8, "num_inference_steps": 3},
    "inpainting": {"image": START, "mask_image": LEFT, "overlay": True, "mask_blur": 1.5},
    "a LoRA": {
        "image_prompts": ImagePrompt(A, adapter="linear"),
        "loras": {"wash": 0.4},
    },
    "a batch": {
        "prompt": ["a ring", "a star"],
        "num_images": 2,
        "image_prompts": ImagePrompt([A, B], adapter="linear", batched=True),
        "image": [START, A, B, EDGES],
    },
    "given noise": {"latents": NOISE, "num_images": 2},
    "one generator": {
        "profile": "tencent",
        "num_images": 2,
        "image_prompts": ImagePrompt(A, adapter="linear"),
    },
    "ComfyUI's pixels": {
        "profile": "comfyui",
        "image_prompts": ImagePrompt(A, adapter="plus", fit="pad"),
    },
}


def files_of(result: Result, folder: Path) -> list[Path]:
    """The pictures of a result as PNGs."""
    paths = []
    for number, image in enumerate(result.images):
        info, references = picture_info(result, number)
        path = folder / f"{number}.png"
        path.write_bytes(picture_file(image, info, references=references).data)
        paths.append(path)
    return paths


def check(pipe: ipa.Pipeline, result: Result, folder: Path) -> None:
    """Each of its files makes its picture again, with nothing beside it."""
    assert result.references is not None and not result.references.missing
    for number, path in enumerate(files_of(result, folder)):
        assert [entry.name for entry in folder.iterdir()].count(path.name) == 1
        told = read_told(path).ours
        assert told is not None
        again = pipe.replay(path)
        assert again.info["replay"]["not_restored"] == []
        which = told["request"].get("picture", 1) - 1
        made, wanted = again.latents[which], result.latents[number]
        is_alone = told["request"].get("picture") or len(result.info["request"]["seeds"]) == 1
        if told["backend"] == "mlx" and is_alone:
            assert np.array_equal(made, wanted)
            assert np.array_equal(
                np.asarray(again.images[which]), np.asarray(result.images[number])
            )
        assert relative(made, wanted) < NEAR


@pytest.mark.parametrize("name", CASES)
def test_it_runs_again_alone(name: str, pipe: ipa.Pipeline, tmp_path: Path) -> None:
    call = {"prompt": "a ring", "embed_references": True, **CALL, **CASES[name]}
    check(pipe, pipe(**call), tmp_path)


def test_embeds(pipe: ipa.Pipeline, tmp_path: Path) -> None:
    embeds = pipe.encode_image_prompt([A, B], adapter="plus")
    away = pipe.encode_image_prompt(B, adapter="plus")
    own = ImagePrompt(embeds, adapter="plus", negative=away)
    check(pipe, pipe("x", image_prompts=own, embed_references=True, **CALL), tmp_path)
    path = tmp_path / "alone.png"
    result = pipe("x", image_prompts=ImagePrompt(embeds, adapter="plus"), **CALL)
    path.write_bytes(picture_file(result.images[0], picture_info(result, 0)[0]).data)
    with pytest.raises(RequestError, match="was made with image embeds"):
        pipe.replay(path)
    embeds.save(tmp_path / "e.safetensors")
    again = pipe.replay(path, pictures=[tmp_path])
    assert relative(again.latents, result.latents) < NEAR


def test_what_is_embedded_is_small_and_is_what_the_encoder_sees(
    pipe: ipa.Pipeline, tmp_path: Path
) -> None:
    """Of a large picture its view alone; off by default, since whoever gets it can see it."""
    large = drawn(4, (900, 700))
    own = ImagePrompt(large, adapter="linear")
    assert pipe("x", image_prompts=own, **CALL).references is None
    result = pipe("x", image_prompts=own, embed_references=True, **CALL)
    assert result.references is not None
    (file,) = result.references.files
    (view,) = pipe.encoder_views(own)
    assert np.array_equal(Image.open(io.BytesIO(file.data)), view)
    assert len(file.data) < 10_000


def test_pictures_at_hand_come_first(pipe: ipa.Pipeline, tmp_path: Path) -> None:
    """Then the request is as it was, also what the embedded one replaced."""
    own = ImagePrompt(A, adapter="linear", fit="pad")
    result = pipe("x", image_prompts=own, embed_references=True, **CALL)
    (path,) = files_of(result, tmp_path)
    A.save(tmp_path / "a.png")
    again = pipe.replay(path, pictures=[tmp_path / "a.png"])
    assert again.info["request"] == result.info["request"]
    inside = pipe.replay(path, seed=6, prompt="y")
    assert inside.info["request"]["image_prompts"][0]["fit"] == "center-crop"
    assert (inside.info["request"]["seed"], inside.info["request"]["prompt"]) == (6, "y")


def test_what_is_too_large_is_named(
    pipe: ipa.Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ipa.pipeline.documents.references.MAX_BYTES", 500)
    result = pipe("x", image=START, embed_references=True, **CALL)
    assert result.references is not None
    (words,) = result.references.missing
    assert words.startswith("the start picture: ")
    with pytest.raises(RequestError, match="not at hand"):
        pipe.replay(files_of(result, tmp_path)[0])


def test_references_that_are_gone_or_damaged(pipe: ipa.Pipeline, tmp_path: Path) -> None:
    """A program that saves a PNG leaves private chunks out."""
    own = ImagePrompt(A, adapter="linear")
    result = pipe("x", image_prompts=own, embed_references=True, **CALL)
    info, _ = picture_info(result, 0)
    path = tmp_path / "x.png"
    for references in ((), (b"other",)):
        path.write_bytes(picture_file(result.images[0], info, references=references).data)
        with pytest.raises(RequestError, match="is gone"):
            pipe.replay(path)
    for damaged in ([1], {"version": 2, "request": {}, "files": []}, {"files": [3]}):
        path.write_bytes(picture_file(result.images[0], {**info, "references": damaged}).data)
        with pytest.raises(RequestError, match=r"damaged|another version"):
            pipe.replay(path)


Planted = Callable[[list[dict[str, Any]], list[bytes]], None]


def _byte(listed: list[dict[str, Any]], chunks: list[bytes]) -> None:
    data = bytearray(chunks[0])
    data[len(data) // 2] ^= 1
    chunks[0] = bytes(data)


def _swapped(listed: list[dict[str, Any]], chunks: list[bytes]) -> None:
    """Each has the other's file, and the list agrees: what is in it does not."""
    chunks[0], chunks[1] = chunks[1], chunks[0]
    for entry, chunk in zip(listed, chunks, strict=True):
        entry["file_sha256"] = hashlib.sha256(chunk).hexdigest()


def _mask_file(listed: list[dict[str, Any]], chunks: list[bytes]) -> None:
    del chunks[_mask_of(listed)]


def _mask_entry(listed: list[dict[str, Any]], chunks: list[bytes]) -> None:
    del chunks[_mask_of(listed)]
    del listed[_mask_of(listed)]


def _mask_values(listed: list[dict[str, Any]], chunks: list[bytes]) -> None:
    """A mask that is a sound picture, of other values."""
    file = io.BytesIO()
    Image.fromarray(LEFT[:, ::-1] > 0.5).save(file, "PNG")
    place = _mask_of(listed)
    chunks[place] = file.getvalue()
    listed[place]["file_sha256"] = hashlib.sha256(file.getvalue()).hexdigest()


def _mask_of(listed: list[dict[str, Any]]) -> int:
    return next(n for n, entry in enumerate(listed) if entry["kind"] == "mask")


PLANTED: dict[str, tuple[Planted, str]] = {
    "a changed byte": (_byte, "left it out, or damaged it"),
    "references swapped": (_swapped, "not at hand"),
    "a mask's file is missing": (_mask_file, "is gone"),
    "a mask is on no list": (_mask_entry, "not at hand"),
    "another mask": (_mask_values, "not at hand"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, made_of_two: Result, pipe: ipa.Pipeline) -> None:
    """Never another picture in silence: of each fault the file says what is wrong, and runs not."""
    plant, words = PLANTED[name]
    info, references = picture_info(made_of_two, 0)
    told = copy.deepcopy(info)
    chunks = list(references)
    assert [entry["kind"] for entry in told["references"]["files"]][:2] == ["picture", "picture"]
    plant(told["references"]["files"], chunks)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.png")
        path.write_bytes(picture_file(made_of_two.images[0], told, references=chunks).data)
        with pytest.raises(RequestError, match=words):
            pipe.replay(path)


@pytest.fixture(scope="module")
def made_of_two(pipe: ipa.Pipeline) -> Result:
    """A picture of two references, one of them with a mask."""
    prompts = [
        ImagePrompt([A, B], adapter="plus"),
        ImagePrompt(A, adapter="linear", mask=LEFT),
    ]
    return pipe("x", image_prompts=prompts, embed_references=True, **CALL)


def test_faces_are_embedded(pipe: ipa.Pipeline) -> None:
    """A face comes back as it was given: a vector, or a `Face` with its crop."""
    vector = np.linspace(0.0, 1.0, 512, dtype=np.float32)
    found = read_face(face_file(vector))
    assert isinstance(found, np.ndarray) and np.array_equal(found, vector)
    face = read_face(face_file(Face(vector, A)))
    assert isinstance(face, Face) and np.array_equal(face.embedding, vector)
    assert np.array_equal(np.asarray(face.crop), np.asarray(A))
    with pytest.raises(RequestError, match="damaged"):
        read_face(b"\x08" + bytes(7) + b"[[[[[[[[")


def test_what_is_not_loaded_is_named(pipe: ipa.Pipeline, root: Path, tmp_path: Path) -> None:
    result = pipe("x", image_prompts=ImagePrompt(A, adapter="plus"), embed_references=True, **CALL)
    (path,) = files_of(result, tmp_path)
    with pytest.raises(RequestError, match=r"'plus' \(plus.safetensors.*load_ip_adapter"):
        other = ipa.load(root, backend=result.info["backend"])
        other.replay(path)
