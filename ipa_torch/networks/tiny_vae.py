"""A tiny autoencoder's decoder, diffusers' AutoencoderTiny: latents to pixels, for previews."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderTiny

from ipa.arrays import Floats
from ipa.backend.protocol import PreviewDecoder
from ipa.errors import CheckpointError
from ipa.model.vae import TinyVaeFiles

from ..files.weights import load_component, read_tensors, reason


def load_tiny(files: TinyVaeFiles, device: str) -> PreviewDecoder:
    """Load the autoencoder in float32; of a file its decoder alone is filled.

    Raises:
        CheckpointError: Its weights are damaged, or are not exactly those of its structure.
    """
    if files.path.is_dir():
        loaded: Any = load_component(AutoencoderTiny, "vae", files.path, torch.float32, None)
        return partial(_pictures, loaded.to(device))
    return partial(_pictures, _from_file(files).to(device))


def _from_file(files: TinyVaeFiles) -> AutoencoderTiny:
    spec = files.spec
    module = AutoencoderTiny(
        latent_channels=spec.latent_channels,
        decoder_block_out_channels=(spec.width,) * len(spec.blocks),
        num_decoder_blocks=spec.blocks,
    )
    tensors = read_tensors(files.path, torch.float32)
    if not any(name.startswith("decoder.") for name in tensors):
        tensors = {_renamed(name): tensor for name, tensor in tensors.items()}
    weights = {
        k.removeprefix("decoder."): v for k, v in tensors.items() if not k.startswith("encoder.")
    }
    try:
        module.decoder.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{files.name} is no tiny VAE decoder for this model",
            found=reason(error),
            remedy=f"one for {spec.latent_channels} latent channels, such as madebyollin/taesd",
        ) from error
    return module.eval().requires_grad_(requires_grad=False)


@torch.inference_mode()
def _pictures(decoder: AutoencoderTiny, latents: torch.Tensor) -> Floats:
    pictures = decoder.decode(latents / decoder.config.scaling_factor).sample
    shown: Floats = (pictures / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return shown


def _renamed(name: str) -> str:
    """Tensors under diffusers' names; the original counts its clamp as a layer."""
    number, _, rest = name.partition(".")
    return f"layers.{int(number) - 1}.{rest}" if number.isdigit() else name
