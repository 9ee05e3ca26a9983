"""A tiny decoder by name: found, and its structure checked against the model's latents."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ipa.contract.errors import CheckpointError
from ipa.contract.files import container, find_weights, read_json
from ipa.contract.model import ModelFolder
from ipa.contract.tiny_vae_spec import STEM, TinyVaeFiles, TinyVaeSpec

from .hub import download
from .hub_files import CONFIG, component_files
from .hub_name import hub_name
from .sources import resolve_file


def resolve_preview_decoder(
    source: str | Path, model: ModelFolder, *, revision: str | None = None, offline: bool = False
) -> TinyVaeFiles:
    """The files of a tiny autoencoder (diffusers' AutoencoderTiny, TAESD).

    Args:
        source: A diffusers folder, a file (taesd_decoder.safetensors, or a whole autoencoder in
            diffusers' names), or the same on the hub, such as "madebyollin/taesd" or
            "madebyollin/taesdxl".
        model: The model whose latents it is for.
        revision: Branch, tag or commit on the hub.
        offline: Use the local cache only.

    Raises:
        CheckpointError: There is none, it is of another kind, or for other latents.
    """
    name = hub_name(source)
    if name is None or name.path:
        path = resolve_file(source, revision=revision, offline=offline)
    else:

        def choose(names: Collection[str]) -> Collection[str]:
            return component_files(names, name.repository)

        path = download(
            name.repository, choose, markers=(CONFIG,), revision=revision, offline=offline
        )
    if not path.exists():
        raise CheckpointError(f"{source}: no such preview decoder", found=f"nothing at {path}")
    needed = model.unet.out_channels
    if path.is_dir():
        spec = TinyVaeSpec.from_config(read_json(path / CONFIG), f"{source}/{CONFIG}")
        find_weights(path, STEM)
    else:
        spec = TinyVaeSpec.from_config({"latent_channels": needed}, str(source))
        container(path)
    if spec.latent_channels != needed:
        raise CheckpointError(
            f"{source} does not fit {model.name}",
            found=f"a tiny VAE with {spec.latent_channels} latent channels",
            remedy=f"{needed} are needed, those of the UNet",
        )
    return TinyVaeFiles(name=str(source), path=path, spec=spec)
