"""What the weights of a component, an adapter or a LoRA leave out: configs of the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ipa import bases
from ipa.errors import RequestError
from ipa.model.clip import ClipTextSpec
from ipa.model.files import read_json
from ipa.model.sites import Site, cross_attention_sites
from ipa.model.unet import UNetSpec

_BASES = ("sd15", "sd2", "sdxl")
_NAMES = {"SD1.5": "sd15", "SD2": "sd2", "SDXL": "sdxl"}  # of `ipa_convert`'s inspection
_OF_BASE = ("unet", "vae")  # components whose config is the base's


def component_config(
    path: Path, component: str, *, base: str | None = None, folder: Path | None = None
) -> dict[str, Any] | None:
    """The config of a component that is one file.

    Args:
        path: The file, or a folder with its own config.json.
        component: What it is.
        base: "sd15", "sd2" or "sdxl", where the weights do not tell (a VAE's never do).
        folder: A folder with config.json to take in place of all that.

    Returns:
        The config; None where the folder has it, or the weights tell it.

    Raises:
        CheckpointError: The UNet is of no known base.
        RequestError: There is no such base, or it is needed and missing.
    """
    if folder is not None:
        return read_json(folder / "config.json")
    if path.is_dir() or component not in _OF_BASE:
        return None
    changes: dict[str, Any] = {}
    if component == "unet":
        import ipa_convert

        found = ipa_convert.recognise_unet(path)
        base = base or found.base
        changes = dict(found.changes.get("unet/config.json", {}))
    if base is None:
        raise RequestError(
            f"{path}: which base model is this {component} of?",
            found="weights that look alike for all of them",
            remedy=f"give base: {', '.join(_BASES)}; or config, a folder with its config.json",
        )
    return {**read_json(_folder(base) / component / "config.json"), **changes}


def adapter_sites(folder: Path) -> tuple[Site, ...]:
    """The cross-attentions of the model in a folder, for an adapter of no public base.

    Raises:
        CheckpointError: The folder has no unet/config.json, or one that is not supported.
    """
    path = folder / "unet" / "config.json"
    return cross_attention_sites(UNetSpec.from_config(read_json(path), str(path)))


def lora_networks(path: Path, base: str | None = None) -> dict[str, Any]:
    """The structures of the networks that a LoRA changes, as `ipa_convert.LoraTargets` takes them.

    Args:
        path: The LoRA.
        base: "sd15", "sd2" or "sdxl"; None: its shapes tell.

    Raises:
        RequestError: There is no such base, or the shapes do not tell.
    """
    import ipa_convert

    found = base or _NAMES.get(ipa_convert.inspect(path).base)
    if found is None:
        raise RequestError(
            f"{path}: which base model is this LoRA for?",
            found="no layer that tells the width of the context",
            remedy=f"give base: {', '.join(_BASES)}",
        )
    folder = _folder(found)
    second = folder / "text_encoder_2" / "config.json"
    return {
        "unet": UNetSpec.from_config(read_json(folder / "unet" / "config.json")),
        "text_encoder": ClipTextSpec.from_config(
            read_json(folder / "text_encoder" / "config.json")
        ),
        "text_encoder_2": ClipTextSpec.from_config(read_json(second)) if second.is_file() else None,
    }


def _folder(base: str) -> Path:
    if base not in _BASES:
        raise RequestError("unknown base model", found=repr(base), remedy=", ".join(_BASES))
    return bases.folder(cast("bases.Base", base))
