"""Bad input gets an error that names what, found and remedy, on both backends, before any work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import ipa
from ipa import CheckpointError, ImagePrompt, Pipeline, RequestError

Open = Callable[..., Pipeline]
GREY = Image.new("RGB", (8, 8), "grey")
NAN = np.full((4, 4, 3), np.nan, np.float32)
WHITE = np.ones((4, 4), np.float32)
QUICK: dict[str, Any] = {"num_inference_steps": 1, "output_type": "latent"}


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> Pipeline:
    return open_pipeline(tiny, backend, "linear", "plus")


def named(image: Any = GREY, **options: Any) -> dict[str, Any]:
    return {"image_prompts": [ImagePrompt(image, **({"adapter": "linear"} | options))]}


# How to call, and what the message must say.
CALLS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "size": (lambda: {"width": 60}, r"multiples of 8; found: 60 × .*try 64"),
    "huge size": (lambda: {"height": 8200}, "height must be an integer from 1 to 8192"),
    "negative size": (lambda: {"width": -8}, "width"),
    "steps": (lambda: {"num_inference_steps": 1001}, "num_inference_steps"),
    "scale NaN": (lambda: named(scale=float("nan")), "scale must be a finite number; found: nan"),
    "scale text": (lambda: named(scale="strong"), "scale must be a finite number"),
    "scale in a block": (lambda: named(scale={"up": {"block_0": [float("inf")]}}), "block_0"),
    "no such block": (lambda: named(scale={"up": {"block_7": 1.0}}), "block_7.*cross-attention is"),
    "list too long": (lambda: named(scale={"mid": [1.0, 2.0]}), "one entry per transformer"),
    "window": (lambda: named(start=0.8, end=0.2), "0 ≤ start ≤ end ≤ 1"),
    "NaN in a picture": (lambda: named(NAN), "NaN"),
    "picture out of range": (lambda: named(np.full((4, 4, 3), 200.0)), r"\[0, 1\].*divide by 255"),
    "picture of a wrong shape": (lambda: named(np.zeros((4, 4, 7), np.uint8)), r"\(4, 4, 7\)"),
    "picture without pixels": (lambda: named(np.zeros((0, 4, 3), np.uint8)), "shape"),
    "a path for a picture": (lambda: named("style.png"), "open_image"),
    "no picture": (lambda: named([]), "empty list"),
    "a ribbon": (lambda: named(Image.new("L", (1, 100000))), "crop it nearer to a square"),
    "unknown adapter": (lambda: named(adapter="other"), "loaded: linear, plus"),
    "which adapter": (lambda: {"image_prompts": [ImagePrompt(GREY)]}, "must name a loaded adapter"),
    "more pictures than adapters": (
        lambda: {"ip_adapter_image": [GREY, GREY, GREY]},
        r"one entry per loaded adapter; found: 3 entries; loaded: linear, plus.*\[\[a, b\]\]",
    ),
    "fewer pictures than adapters": (lambda: {"ip_adapter_image": GREY}, "found: 1 entries"),
    "both forms": (lambda: named() | {"ip_adapter_image": [GREY, GREY]}, "not both"),
    "latents of another size": (
        lambda: {"latents": np.zeros((1, 4, 3, 3), np.float32)},
        r"\(1, 4, 3, 3\).*\(1, 4, ",
    ),
    "latents NaN": (
        lambda: {"width": 8, "height": 8, "latents": np.full((1, 4, 1, 1), np.nan, np.float32)},
        "latents hold NaN",
    ),
    "sampler": (lambda: {"scheduler": "dpmpp"}, "did you mean 'dpmpp_2m'"),
    "output": (lambda: {"output_type": "jpeg"}, '"pil", "np" or "latent"'),
    "argument": (lambda: {"heigth": 64}, "no such argument; found: heigth=; remedy: use height="),
    "diffusers' argument": (lambda: {"generator": 0}, "use seed="),
    "layers": (lambda: named(layers="stile"), "no preset of layers.*'stile'.*mean 'style'"),
    "layers of other bases": (lambda: named(layers="style"), "known for SDXL and SD1.5 only"),
    "layers as a number": (lambda: named(layers=0.5), "the name of a preset"),
    "curve": (lambda: named(curve="fadeout"), "no curve of this name.*did you mean 'fade_out'"),
    "curve backwards": (lambda: named(curve=[(0.5, 1), (0, 1)]), "never go back"),
    "site": (lambda: named(scale={4: 1.0}), "sites that this UNet does not have; found: 4"),
    "two scales, one picture": (
        lambda: named(scale=[0.5, 0.5]),
        r"ImagePrompt\(adapter='linear'\)\.scale has one entry per picture.*2 entries, 1 needed",
    ),
    "list of lists of scales": (lambda: named(scale=[[0.5]]), "a number or a dict of blocks"),
    "more masks than pictures": (
        lambda: named(mask=[WHITE, WHITE]),
        r"ImagePrompt\(adapter='linear'\)\.mask has one entry per picture.*2 entries, 1 needed",
    ),
    "fewer masks than pictures": (
        lambda: named([GREY, GREY, GREY], mask=[WHITE]),
        "one entry per picture.*1 entries, 3 needed",
    ),
    "mask of rank 3": (
        lambda: named([GREY, GREY], mask=[WHITE, np.ones((4, 4, 3))]),
        r"'linear'\)\.mask\[1\] must be \(H, W\).*found: an array of shape \(4, 4, 3\)",
    ),
    "empty mask": (lambda: named(mask=WHITE[:0]), r"'linear'\)\.mask must be.*shape \(0, 4\)"),
    "NaN in a mask": (lambda: named(mask=NAN[..., 0]), r"'linear'\)\.mask holds NaN"),
    "mask out of range": (
        lambda: named(mask=WHITE * 255),
        r"'linear'\)\.mask must lie in \[0, 1\]; found: values from 255 to 255.*divide by 255",
    ),
    "negative mask": (lambda: named(mask=WHITE - 1.5), r"values from -0\.5"),
    "mask of integers": (lambda: named(mask=np.ones((4, 4), int)), "found: int64.*uint8"),
    "a path for a mask": (lambda: named(mask="mask.png"), "found: str.*a PIL picture"),
    "partly transparent mask": (
        lambda: named(mask=Image.new("LA", (8, 8), (255, 100))),
        "its colours or its transparency.*getchannel",
    ),
    "mask fit": (
        lambda: named(mask=WHITE, mask_fit="fill"),
        "mask_fit is unknown; found: 'fill'.*'crop'",
    ),
    "mask of another aspect": (
        lambda: {"width": 64, "height": 48} | named([GREY, GREY], mask=[None, np.ones((30, 30))]),
        r"image_prompts\[0\] \(adapter 'linear'\): mask 1 has another aspect.*found: 30 × 30, "
        "needed 64 × 48.*mask_fit='stretch' or mask_fit='crop'",
    ),
    "prompt": (lambda: {"prompt": None}, "prompt must be a string"),
    "half a character": (lambda: {"prompt": "\ud83d"}, "surrogate"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_cannot_be_honoured(name: str, pipe: Pipeline) -> None:
    make, words = CALLS[name]
    with pytest.raises(RequestError, match=words):
        pipe.stream(**(QUICK | make()))  # told at once, before the first event


def test_pictures_that_cannot_be_decoded(pipe: Pipeline, tmp_path: Path) -> None:
    """A PIL image is lazy: damage shows only when it is used."""
    path = tmp_path / "cut.png"
    Image.effect_noise((200, 200), 90).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(RequestError, match="cannot be read"):
        pipe.stream(**named(Image.open(path)))


def test_without_adapters(tiny: Path, backend: str, open_pipeline: Open) -> None:
    bare = open_pipeline(tiny, backend)
    with pytest.raises(RequestError, match=r"loaded: no adapter.*load_ip_adapter"):
        bare(ip_adapter_image=GREY)
    for wrong in (lambda: bare.set_ip_adapter_scale(1.0), lambda: bare.embed_images([GREY])):
        with pytest.raises(RequestError):
            wrong()
    with pytest.raises(RequestError, match="no such adapter"):
        bare.unload_ip_adapter("style")


def test_adapter_calls(own: Pipeline, tiny: Path) -> None:
    wrong: dict[str, Callable[[], Any]] = {
        "an adapter of this name is loaded": lambda: own.load_ip_adapter(
            tiny / "linear.safetensors"
        ),
        "scale must be a finite": lambda: own.set_ip_adapter_scale(float("nan")),
        "one entry per adapter": lambda: own.set_ip_adapter_scale([0.1, 0.2, 0.3]),
        "block_9": lambda: own.set_ip_adapter_scale({"down": {"block_9": 1}}),
    }
    before = own.info()
    for words, call in wrong.items():
        with pytest.raises(RequestError, match=words):
            call()
    assert own.info() == before


def damaged(tiny: Path, folder: Path, change: Callable[[Path], None]) -> Path:
    shutil.copytree(tiny, folder)
    change(folder)
    return folder


def _poison(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["mid_block.resnets.0.conv1.weight"][0, 0, 1, 1] = np.nan
    save_file(tensors, path)


def _edit_config(component: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / component / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


UNET = "unet/diffusion_pytorch_model.safetensors"
MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (lambda f: (f / UNET).unlink(), "no weights called"),
    "no config": (lambda f: (f / "vae/config.json").unlink(), "vae/config.json"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), "tokenizer.json, or vocab.json"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json"),
    "LFS pointer": (
        lambda f: (f / UNET).write_text("version https://git-lfs.github.com/spec/v1\n"),
        "Git LFS pointer.*git lfs pull",
    ),
    "web page": (lambda f: (f / UNET).write_text("<!DOCTYPE html>"), "a web page"),
    "cut off": (lambda f: (f / UNET).write_bytes((f / UNET).read_bytes()[:-8]), "unet"),
    "NaN in weights": (_poison, "mid_block.resnets.0.conv1.weight"),
    "wider than its weights": (_edit_config("unet", cross_attention_dim=44), "width"),
    "deeper than its weights": (_edit_config("text_encoder", num_hidden_layers=9), "missing"),
    "unknown option": (_edit_config("unet", dual_cross_attention=True), "dual_cross_attention"),
    "for inpainting": (_edit_config("unet", in_channels=9), "conv_in"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_not_in_order(
    name: str, tiny: Path, backend: str, open_pipeline: Open, tmp_path: Path
) -> None:
    change, words = MODELS[name]
    with pytest.raises(CheckpointError, match=words) as caught:
        open_pipeline(damaged(tiny, tmp_path / "model", change), backend)
    assert "remedy" in str(caught.value) or "found" in str(caught.value)


def test_no_such_model(backend: str, open_pipeline: Open, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing at"):
        open_pipeline(tmp_path / "none", backend)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_pipeline(tmp_path / "file", backend)


def test_an_adapter_of_another_base(own: Pipeline) -> None:
    before = own.info()
    with pytest.raises(CheckpointError, match=r"another base model; found: context width 128"):
        own.load_ip_adapter(ipa.demo.adapter("base"))
    assert own.info() == before


def test_an_image_encoder_of_the_wrong_size(
    tiny: Path, backend: str, open_pipeline: Open, tmp_path: Path
) -> None:
    """The message names what was found and which encoder is needed."""
    folder = damaged(tiny, tmp_path / "m", _edit_config("image_encoder", projection_dim=20))
    own = open_pipeline(folder, backend)
    with pytest.raises(CheckpointError, match=r"projection_dim 20; needed: embedding of width 36"):
        own.load_ip_adapter(folder / "linear.safetensors")
    assert own.info()["adapters"] == {}
    with pytest.raises(CheckpointError, match="holds no image encoder"):
        own.load_ip_adapter(folder / "linear.safetensors", image_encoder_folder="elsewhere")


def test_load_arguments(tiny: Path, backend: str) -> None:
    with pytest.raises(RequestError, match="unknown dtype"):
        ipa.load(tiny, backend=backend, dtype="int8")
    with pytest.raises(ipa.BackendError, match="unknown backend"):
        ipa.load(tiny, backend="jax")
    for nothing in (None, "", 7):
        with pytest.raises(RequestError, match="must name a model"):
            ipa.load(nothing, backend=backend)
