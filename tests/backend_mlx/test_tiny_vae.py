"""The tiny decoder of both backends, in every spelling, against diffusers' AutoencoderTiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderTiny

import ipa
from oracle import models
from oracle.measure import relative

Tensors = dict[str, torch.Tensor]


def tiny_vae(**config: Any) -> AutoencoderTiny:
    return models.randomize(AutoencoderTiny(**config), seed=21)


def original(tensors: Tensors) -> Tensors:
    """The decoder as taesd_decoder.safetensors spells it: its clamp is layer 0."""
    parts = [(name.split("."), tensor) for name, tensor in tensors.items()]
    return {
        ".".join([str(int(number) + 1), *rest]): tensor
        for (half, _, number, *rest), tensor in parts
        if half == "decoder"
    }


def write(module: AutoencoderTiny, folder: Path, spelling: str) -> Path:
    """A folder, or one file."""
    module.save_pretrained(folder, safe_serialization=True)
    if spelling == "folder":
        return folder
    tensors = safetensors.torch.load_file(next(folder.glob("*.safetensors")))
    tensors = original(tensors) if spelling.startswith("original") else tensors
    if spelling == "original.pth":
        torch.save(tensors, folder / spelling)
    else:
        safetensors.torch.save_file(tensors, folder / f"{spelling}.safetensors")
    return next(folder.glob(f"{spelling.removesuffix('.pth')}.*"))


@pytest.mark.parametrize("spelling", ["folder", "diffusers", "original", "original.pth"])
def test_tiny_decoder(
    tiny: Path, open_pipeline: Any, tmp_path: Path, draw: np.random.Generator, spelling: str
) -> None:
    """Files are of the public structure, folders of what their config says."""
    other = {"num_decoder_blocks": (2, 1), "decoder_block_out_channels": (12, 12)}
    other |= {"scaling_factor": 0.7} | {"encoder_block_out_channels": (8, 8)}
    config = other | {"num_encoder_blocks": (1, 1)} if spelling == "folder" else {}
    module = tiny_vae(**config)
    path = write(module, tmp_path, spelling)
    latents = 3 * draw.standard_normal((2, 4, 3, 5), dtype=np.float32)
    with torch.no_grad():
        sample = module.decode(torch.from_numpy(latents) / module.config.scaling_factor).sample
    expected = (sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 0.05
    for name, limit in (("mlx", 4e-6), ("torch", 0)):  # measured 1.1e-6, 0
        pipe = open_pipeline(tiny, name)
        pipe.load_preview_decoder(path)
        backend = pipe._loaded.backend
        found = backend.preview_decoder(backend.from_numpy(latents))
        assert relative(found, expected) <= limit


@pytest.mark.parametrize("spelling", ["folder", "original"])
def test_a_decoder_for_other_latents_is_refused(
    tiny: Path, backend: str, open_pipeline: Any, tmp_path: Path, spelling: str
) -> None:
    path = write(tiny_vae(latent_channels=16), tmp_path, spelling)
    pipe = open_pipeline(tiny, backend)
    with pytest.raises(ipa.CheckpointError) as error:
        pipe.load_preview_decoder(path)
    assert "16" in str(error.value) and "4" in str(error.value)
    with pytest.raises(ipa.CheckpointError, match="of another class"):
        pipe.load_preview_decoder(tiny / "vae")
    with pytest.raises(ipa.RequestError, match="tiny decoder"):
        pipe.stream("a star", preview="tiny")


def test_a_damaged_decoder_is_refused(
    tiny: Path, backend: str, open_pipeline: Any, tmp_path: Path
) -> None:
    path = write(tiny_vae(), tmp_path, "original")
    tensors = safetensors.torch.load_file(path)
    pipe = open_pipeline(tiny, backend)
    wrongs = (
        {k: v for k, v in tensors.items() if k != "3.conv.0.bias"},
        tensors | {"20.weight": torch.zeros(3)},
        tensors | {"1.weight": torch.full_like(tensors["1.weight"], float("nan"))},
    )
    for number, wrong in enumerate(wrongs):
        safetensors.torch.save_file(wrong, tmp_path / f"{number}.safetensors")
        with pytest.raises(ipa.CheckpointError):
            pipe.load_preview_decoder(tmp_path / f"{number}.safetensors")
    assert pipe._loaded.backend.preview_decoder is None
