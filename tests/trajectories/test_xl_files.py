"""SDXL from other files and in other precisions: single files, and the VAE in half precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

import ipa
import ipa_convert
from ipa.errors import CheckpointError
from ipa.sources.model_folder import open_model_folder
from ipa.sources.models import resolve_model
from ipa_mlx import backend as mlx_backend
from ipa_torch import backend as torch_backend
from ipa_torch.files.weights import quiet
from oracle import models, single_files
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline
from oracle.single_files import Tensors

CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "width": 64,
    "height": 48,
    "output_type": "latent",
    "prompt_2": "a ring",
}
SECOND = "conditioner.embedders.1.model."


def load(model: Any, backend: str, **options: Any) -> ipa.Pipeline:
    device = {"device": "cpu"} if backend == "torch" else {}
    return ipa.load(model, backend=backend, **({"dtype": "float32"} | device | options))


@pytest.fixture(scope="module")
def configs(tiny_xl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's configs without its weights."""
    return single_files.configs(tiny_xl, tmp_path_factory.mktemp("xl") / "configs")


def written(folder: Path, tensors: Tensors) -> Path:
    return single_files.write(folder / "m.safetensors", tensors, "safetensors")


def test_single_file_is_the_folder(
    tiny_xl: Path, backend: str, configs: Path, tmp_path: Path, references: list[Image.Image]
) -> None:
    """With an adapter, whose image encoder comes from the folder."""
    file = written(tmp_path, single_files.sdxl(tiny_xl))
    found = []
    for model in (resolve_model(file, config=configs), tiny_xl):
        pipe = load(model, backend)
        pipe.load_ip_adapter(tiny_xl / "plus.safetensors", image_encoder_folder="image_encoder")
        found.append(pipe("a star", ip_adapter_image=references[0], **CALL).latents)
    # The same weights; torch's matrix product rounds by where they lie in memory. Relative L2:
    # measured 0 (mlx), 7e-7 (torch).
    assert relative(*found) < 5e-6
    assert np.array_equal(*found) or backend == "torch"


def test_converted_folder_is_the_original(tiny_xl: Path, tmp_path: Path) -> None:
    """Also quantised, against quantising on loading."""
    plain = ipa_convert.convert_model(open_model_folder(tiny_xl, name="xl"), tmp_path / "mlx")
    expected = load(tiny_xl, "mlx")("a star", **CALL).latents
    assert np.array_equal(load(plain, "mlx")("a star", **CALL).latents, expected)
    back = ipa_convert.convert_model(
        open_model_folder(plain, name="xl"), tmp_path / "back", layout="diffusers"
    )
    stock = load(tiny_xl, "torch")("a star", **CALL).latents
    assert np.array_equal(load(back, "torch")("a star", **CALL).latents, stock)
    few = ipa_convert.convert_model(
        open_model_folder(tiny_xl, name="xl"), tmp_path / "few", quantize=8
    )
    rounded = load(tiny_xl, "mlx", quantize=8)("a star", **CALL)
    assert "text_encoder_2" in rounded.info["quantization"]
    assert np.array_equal(load(few, "mlx")("a star", **CALL).latents, rounded.latents)
    assert not np.array_equal(rounded.latents, expected)


def without(end: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if not k.endswith(end)}


def layer(tensors: Tensors) -> Tensors:
    """One more layer in the second text encoder than its config says."""
    path = f"{SECOND}transformer.resblocks."
    more = {
        k.replace(f"{path}2.", f"{path}3."): v + 1 for k, v in tensors.items() if f"{path}2." in k
    }
    return tensors | more


WRONG: dict[str, Callable[[Tensors], Tensors]] = {
    "no projection": without("text_projection"),
    "a missing tensor": without("resblocks.1.ln_2.bias"),
    "a missing tensor of the first": without("layers.1.layer_norm2.bias"),
    "a layer too many": layer,
    "not a number": lambda t: t | {f"{SECOND}ln_final.bias": torch.full((64,), torch.nan)},
    "a wrong width": lambda t: t | {f"{SECOND}ln_final.bias": torch.zeros(40)},
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_text_encoders_are_refused(
    tiny_xl: Path, backend: str, configs: Path, tmp_path: Path, case: str
) -> None:
    file = written(tmp_path, WRONG[case](single_files.sdxl(tiny_xl)))
    with pytest.raises(CheckpointError, match=r"m\.safetensors") as caught:
        load(resolve_model(file, config=configs), backend)
    assert any(word in str(caught.value) for word in ("fit", "finite", "NaN", "expected shape"))


def test_reference_s_text_is_diffusers_to_the_bit(tiny_xl: Path) -> None:
    stock = diffusers_pipeline(tiny_xl)
    runtime = torch_backend.load(open_model_folder(tiny_xl, name="xl"), dtype="float32")
    with torch.no_grad():
        expected = stock.encode_prompt("a red star", "a ring", "cpu", 1, False)
    texts = (stock.tokenizer("a red star"), stock.tokenizer_2("a ring"))
    ids = [
        own.pad({"input_ids": text.input_ids}, padding="max_length", max_length=77).input_ids
        for own, text in zip((stock.tokenizer, stock.tokenizer_2), texts, strict=True)
    ]
    assert ids[0][-1] != ids[1][-1]
    found = runtime.encode_text(np.array(ids, np.int32))
    assert torch.equal(found.states, expected[0])
    assert torch.equal(found.pooled, expected[2])


def vae_in(folder: Path, dtype: torch.dtype) -> AutoencoderKL:
    """diffusers' autoencoder with weights of `dtype`, computing in float32."""
    with quiet():
        return AutoencoderKL.from_pretrained(folder / "vae", dtype=dtype).float().eval()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("force", [True, False])
def test_vae_is_widened_where_it_would_overflow(
    dtype: str, force: bool, tiny_xl: Path, backend: str, tmp_path: Path
) -> None:
    """diffusers' rule: float16 and force_upcast; afterwards everything is as it was."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_xl, folder)
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"force_upcast": force}))
    package = {"mlx": mlx_backend, "torch": torch_backend}[backend]
    runtime = package.load(open_model_folder(folder, name="xl"), dtype=dtype)
    draw = np.random.default_rng(3)
    latents = draw.standard_normal((2, 4, 5, 6), dtype=np.float32)
    pixels = np.tanh(draw.standard_normal((1, 3, 48, 40), dtype=np.float32))
    vae = vae_in(folder, getattr(torch, dtype))
    with torch.no_grad():
        scaled = torch.from_numpy(latents) / models.VAE["scaling_factor"]
        shown = (vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        mean = vae.encode(torch.from_numpy(pixels)).latent_dist.mean
    hidden = (mean * models.VAE["scaling_factor"]).numpy()
    before = weight(runtime)
    distances = (
        relative(runtime.decode(runtime.from_numpy(latents)), shown),
        relative(runtime.encode(pixels)[0], hidden),
    )
    # Relative L2 to float32 on the same weights: measured 8e-7 widened, 5e-4 and more if not.
    is_wide = force and dtype == "float16"
    assert all((distance < 3e-6) == is_wide for distance in distances), distances
    assert weight(runtime).dtype == before.dtype
    assert not runtime.describe()["warnings"]


def weight(runtime: Any) -> Any:
    return runtime.vae.decoder.conv_in.weight


def test_half_precision_of_the_whole(tiny_xl: Path, backend: str) -> None:
    """Relative L2 of latents to the backend's own float32.

    Measured on mlx and torch: float16 3.0e-3 and 3.2e-3, bfloat16 3.0e-2 and 3.1e-2.
    """
    exact = load(tiny_xl, backend)("a star", **CALL).latents
    for dtype, limit in (("float16", 6e-3), ("bfloat16", 6e-2)):
        found = load(tiny_xl, backend, dtype=dtype)("a star", **CALL).latents
        assert 1e-6 < relative(found, exact) < limit
