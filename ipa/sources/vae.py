"""Another VAE, and the small decoder of previews: from a name to their files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from ipa.errors import CheckpointError, RequestError, shown
from ipa.model.config import integer
from ipa.model.files import STEMS, container, find_weights, read_json
from ipa.model.folder import ModelFolder, OtherVae
from ipa.model.vae import STEM, TinyVaeFiles, TinyVaeSpec, VaeSpec

from .hub import HubOptions, download, hub_name
from .hub_files import CONFIG, MODEL_INDEX, component_files, weight_files
from .models import resolve_file

_CLASS = "AutoencoderKL"


_IN_MODEL = f"vae/{CONFIG}"


def resolve_vae(
    model: ModelFolder, vae: str | Path | None, *, offline: bool = False
) -> ModelFolder:
    """A model with another VAE in place of its own.

    Args:
        model: The model, which need not have one of its own if it is a single file.
        vae: A diffusers folder (of a VAE, or of a model that has one), a .safetensors or .ckpt file
            in diffusers' or the original names, or the same on the hub (owner/name, or
            owner/name/folder/file). None changes nothing. A folder's config says what it is; a file
            is of the structure and scaling of the model's own, since weights do not tell the
            scaling.
        offline: Use the local cache only.

    Raises:
        CheckpointError: There is none, it is of another kind, or its latents are not the UNet's.
        RequestError: It is no name at all.
    """
    if vae is None:
        return model
    if not isinstance(vae, (str, Path)) or not str(vae):
        raise RequestError(
            "vae must name an autoencoder",
            found=shown(vae),
            remedy="a folder, a file, or a name on the hub",
        )
    path = _found(vae, offline=offline)
    spec = model.vae
    if path.is_dir():
        spec = _spec(path, str(vae), model)
        find_weights(path, STEMS["vae"])
    else:
        container(path)
    return replace(model, vae=spec, other_vae=OtherVae(name=str(vae), path=path))


def _found(vae: str | Path, *, offline: bool) -> Path:
    """The folder of a VAE with its config, or its file."""
    name = hub_name(vae)
    if name is None or name.path:
        path = resolve_file(vae, offline=offline)
    else:
        markers = (CONFIG, _IN_MODEL)
        path = download(
            name.repository,
            lambda names: _files(names, name.repository),
            markers=markers,
            offline=offline,
        )
    if not path.exists():
        raise CheckpointError(f"{vae}: no such VAE", found=f"nothing at {path}")
    return path / "vae" if (path / _IN_MODEL).is_file() else path


def _files(names: Collection[str], where: str) -> Collection[str]:
    """The files of a repository that is a VAE, or of the VAE in a model's."""
    if MODEL_INDEX in names and _IN_MODEL in names:
        return (_IN_MODEL, *weight_files(names, "vae", STEMS["vae"]))
    return component_files(names, where)


def _spec(folder: Path, name: str, model: ModelFolder) -> VaeSpec:
    config, where = read_json(folder / CONFIG), f"{name}/{CONFIG}"
    kind = config.get("_class_name", _CLASS)
    if kind != _CLASS:
        raise CheckpointError(
            f"{where} is of another class",
            found=shown(kind),
            remedy=f"{_CLASS} is needed; a tiny one makes previews: load_preview_decoder",
        )
    found, needed = integer(config, "latent_channels", where, 4), model.unet.out_channels
    if found != needed:
        raise CheckpointError(
            f"{name} does not fit {model.name}",
            found=f"a VAE with {found} latent channels",
            remedy=f"{needed} are needed, those of the UNet: take a VAE of the same family",
        )
    return VaeSpec.from_config(config, where)


def resolve_preview_decoder(
    source: str | Path, model: ModelFolder, **hub: Unpack[HubOptions]
) -> TinyVaeFiles:
    """Find the files of a tiny autoencoder (diffusers' AutoencoderTiny, TAESD).

    Args:
        source: A diffusers folder, a file (taesd_decoder.safetensors, or a whole autoencoder in
            diffusers' names), or the same on the hub, such as "madebyollin/taesd" or
            "madebyollin/taesdxl".
        model: The model whose latents it is for.
        **hub: revision and offline, as all that is loaded takes them (`HubOptions`).

    Raises:
        CheckpointError: There is none, it is of another kind, or for other latents.
    """
    name = hub_name(source)
    if name is None or name.path:
        path = resolve_file(source, **hub)
    else:

        def choose(names: Collection[str]) -> Collection[str]:
            return component_files(names, name.repository)

        path = download(name.repository, choose, markers=(CONFIG,), **hub)
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
