"""Opening a model in diffusers' folder layout: its configs, before any weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ipa.contract.errors import CheckpointError
from ipa.contract.files import STEMS, find_weights, read_json
from ipa.contract.model import ModelFolder
from ipa.contract.specs import ClipTextSpec, ClipVisionSpec, VaeSpec
from ipa.contract.unet_spec import UNetSpec

_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
}


def open_model_folder(path: Path, *, name: str, variant: str | None = None) -> ModelFolder:
    """Parse a model's configs and see that its weights are there.

    Raises:
        CheckpointError: The folder is missing, incomplete, or of a family that is not supported.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{name}: no such model folder",
            found=f"{path} is a file" if path.is_file() else f"nothing at {path}",
            remedy='give a diffusers folder (with model_index.json), a hub id, or "demo"',
        )
    _check_classes(read_json(path / "model_index.json"), path)
    unet = UNetSpec.from_config(_config(path, "unet"), f"{name}/unet/config.json")
    vae = VaeSpec.from_config(_config(path, "vae"), f"{name}/vae/config.json")
    text = ClipTextSpec.from_config(
        _config(path, "text_encoder"), f"{name}/text_encoder/config.json"
    )
    _check_widths(unet, vae, text, name)
    for component in _CLASSES:
        find_weights(path / component, STEMS[component], variant, pickles=True)
    has_encoder = (path / "image_encoder" / "config.json").is_file()
    return ModelFolder(
        name=name,
        path=path,
        variant=variant,
        unet=unet,
        vae=vae,
        text_encoder=text,
        image_encoder=ClipVisionSpec.from_config(
            _config(path, "image_encoder"), f"{name}/image_encoder/config.json"
        )
        if has_encoder
        else None,
        scheduler=read_json(path / "scheduler" / "scheduler_config.json"),
    )


def _config(path: Path, component: str) -> dict[str, Any]:
    return read_json(path / component / "config.json")


def _check_classes(index: dict[str, Any], path: Path) -> None:
    if "text_encoder_2" in index:
        raise CheckpointError(
            f"{path} is a model with two text encoders (SDXL)",
            remedy="this version supports the Stable Diffusion 1.x family",
        )
    for component, needed in _CLASSES.items():
        entry = index.get(component)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        if found != needed:
            raise CheckpointError(
                f"{path}/model_index.json: {component} must be a {needed}",
                found=repr(found),
                remedy="this version supports the Stable Diffusion 1.x family",
            )


def _check_widths(unet: UNetSpec, vae: VaeSpec, text: ClipTextSpec, name: str) -> None:
    if unet.context_width != text.width:
        raise CheckpointError(
            f"{name}: text encoder and UNet do not fit each other",
            found=f"text states of width {text.width}, the UNet takes {unet.context_width}",
            remedy="take both from one model",
        )
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        raise CheckpointError(
            f"{name}: the UNet takes {unet.in_channels} channels and gives {unet.out_channels}",
            found=f"a VAE with {vae.latent_channels} latent channels",
            remedy="inpainting and other special UNets are not supported by this version",
        )
