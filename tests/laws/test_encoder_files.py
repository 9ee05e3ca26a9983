"""An image encoder in one file is the encoder of its folder, bit for bit, wherever it lies.

The encoders are transformers' own, of fresh random weights, beside ComfyUI's folders.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import ipa
from ipa import CheckpointError, ImagePrompt, Pipeline
from ipa_convert.reading import clip_configs
from ipa_torch.files.weights import quiet
from oracle import clip_spellings

Open = Callable[..., Pipeline]
VISION = clip_spellings.vision_config(clip_spellings.WIDE) | {
    "architectures": ["CLIPVisionModelWithProjection"],
    "num_channels": 3,
}


@pytest.fixture
def comfy(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """models/ipadapter, models/clip_vision and, as transformers saves it, folder/."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    towers = {**clip_configs.VISION_TOWERS, "tiny": VISION}
    monkeypatch.setattr(clip_configs, "VISION_TOWERS", towers)
    for name in ("ipadapter", "clip_vision"):
        (tmp_path / "models" / name).mkdir(parents=True)
    shutil.copy(tiny / "linear.safetensors", tmp_path / "models" / "ipadapter")
    whole = clip_spellings.whole(clip_spellings.WIDE)
    tensors = {n: t.contiguous() for n, t in clip_spellings.vision_of(whole).items()}
    save_file(tensors, tmp_path / "models" / "clip_vision" / "Y.safetensors")
    with quiet():
        tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        tower.load_state_dict(tensors, strict=False)
        tower.save_pretrained(tmp_path / "folder")
    shutil.copytree(tiny, tmp_path / "bare", ignore=shutil.ignore_patterns("image_encoder"))
    index = json.loads((tiny / "model_index.json").read_text())
    index["image_encoder"] = [None, None]
    (tmp_path / "bare" / "model_index.json").write_text(json.dumps(index))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(model: Path, backend: str, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
    pipe = ipa.load(model, backend=backend, dtype="float32")
    pipe.load_ip_adapter("models/ipadapter/linear.safetensors", **options)
    picture = Image.radial_gradient("L").resize((40, 40))
    result = pipe(
        image_prompts=[ImagePrompt(picture)],
        num_inference_steps=2,
        guidance_scale=3,
        output_type="latent",
    )
    return np.asarray(result.latents), pipe.info()["adapters"]["linear"]


@pytest.fixture
def expected(comfy: Path, tiny: Path, backend: str) -> np.ndarray:
    latents, told = made(tiny, backend, image_encoder_folder=str(comfy / "folder"))
    assert told["image_encoder"] == str(comfy / "folder")
    own, _ = made(tiny, backend)
    assert not np.array_equal(own, latents)  # the model's own is another
    return latents


@pytest.mark.parametrize(
    "given",
    [
        "models/clip_vision/Y.safetensors",  # from the current folder
        Path("models/clip_vision/Y.safetensors"),
        "../clip_vision/Y.safetensors",  # from the adapter's
        "folder/model.safetensors",  # with its config beside it
        "folder",
    ],
)
def test_a_file_is_its_folder(
    comfy: Path, tiny: Path, backend: str, expected: np.ndarray, given: str | Path
) -> None:
    latents, told = made(tiny, backend, image_encoder_folder=given)
    assert np.array_equal(latents, expected)
    assert told["image_encoder"].endswith(str(given))


def test_comfyuis_folder_is_looked_into(comfy: Path, backend: str, expected: np.ndarray) -> None:
    """Others that lie there and do not fit, or are none, are passed over."""
    others = comfy / "models" / "clip_vision"
    shutil.copy(comfy / "models" / "ipadapter" / "linear.safetensors", others / "Z.safetensors")
    latents, told = made(comfy / "bare", backend)
    assert np.array_equal(latents, expected)
    assert told["image_encoder"].endswith("clip_vision/Y.safetensors")


def test_several_that_fit_are_named(comfy: Path, backend: str) -> None:
    folder = comfy / "models" / "clip_vision"
    shutil.copy(folder / "Y.safetensors", folder / "X.safetensors")
    with pytest.raises(CheckpointError, match=r"found: X.safetensors, Y.safetensors.*_folder="):
        made(comfy / "bare", backend)


def test_none_that_fits(comfy: Path, backend: str) -> None:
    (comfy / "models" / "clip_vision" / "Y.safetensors").unlink()
    with pytest.raises(CheckpointError, match="needs an image encoder"):
        made(comfy / "bare", backend)


def test_the_models_own_comes_first(comfy: Path, tiny: Path, backend: str) -> None:
    _, told = made(tiny, backend)
    assert told["image_encoder"] == str(tiny / "image_encoder")


def test_what_is_no_encoder(comfy: Path, tiny: Path, backend: str) -> None:
    with pytest.raises(CheckpointError, match="none at nowhere either"):
        made(tiny, backend, image_encoder_folder="nowhere")
    with pytest.raises(CheckpointError, match=r"is no image encoder|cannot be converted"):
        made(tiny, backend, image_encoder_folder=str(tiny / "plus.safetensors"))


def test_other_spellings(comfy: Path, tiny: Path, backend: str, expected: np.ndarray) -> None:
    """MLX reads OpenCLIP's names; the reference says that it does not, and who does."""
    whole = clip_spellings.to_open_clip(clip_spellings.whole(clip_spellings.WIDE))
    path = comfy / "open_clip.safetensors"
    save_file({n: t.contiguous() for n, t in whole.items()}, path)
    if backend == "torch":
        with pytest.raises(CheckpointError, match=r"transformers' names.*mlx backend"):
            made(tiny, backend, image_encoder_folder=path)
    else:
        assert np.array_equal(made(tiny, backend, image_encoder_folder=path)[0], expected)


def test_a_damaged_file(comfy: Path, tiny: Path, backend: str) -> None:
    from safetensors.torch import load_file

    path = comfy / "folder" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("visual_projection.weight")
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"visual_projection"):
        made(tiny, backend, image_encoder_folder=path)
