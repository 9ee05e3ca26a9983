"""One component on its own: a folder with its config, or a file, whose config is found or given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from ipa.errors import CheckpointError
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.control_files import ControlFiles
from ipa.model.controlnet import ControlNetSpec
from ipa.model.files import STEMS, read_json
from ipa.model.ignoring import Ignore
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec

from ..containers.checkpoint import Checkpoint, open_file, open_folder
from ..tables import (
    clip_spellings,
    clip_text,
    clip_vision,
    controlnet,
    families,
    ip_adapter,
    t2i_adapter,
    unet,
    vae,
)
from ..tables.converted import Converted
from ..tables.matching import convert
from .clip_configs import detect_text, detect_vision
from .components import TABLES, Component, Spec, read_component
from .controlnet_config import open_controlnet
from .t2i_adapter_config import detect_t2i_adapter

Config: TypeAlias = Mapping[str, Any]
Kind: TypeAlias = Literal["model", "adapter", "lora"] | Component

# What a file of a family is.
_KINDS: Mapping[str, Kind] = {
    families.SINGLE_FILE: "model",
    families.CONTROLLED: "model",
    ip_adapter.TITLE: "adapter",
    families.LORA: "lora",
    unet.TITLE: "unet",
    families.ORIGINAL_UNET: "unet",
    vae.TITLE: "vae",
    families.ORIGINAL_VAE: "vae",
    clip_text.TITLE: "text_encoder",
    clip_vision.TITLE: "image_encoder",
    clip_spellings.WHOLE_TITLE: "image_encoder",  # the tower that there is no other source for
    controlnet.TITLE: "controlnet",
    t2i_adapter.TITLE: "t2i_adapter",
}
# Classes in config.json.
_CLASSES: Mapping[str, Component] = {
    "UNet2DConditionModel": "unet",
    "AutoencoderKL": "vae",
    "ControlNetModel": "controlnet",
    "T2IAdapter": "t2i_adapter",
    "CLIPTextModel": "text_encoder",
    "CLIPTextModelWithProjection": "text_encoder",
    "CLIPVisionModelWithProjection": "image_encoder",
}
_SPECS: Mapping[Component, Callable[[Config, str], Spec]] = {
    "unet": UNetSpec.from_config,
    "vae": VaeSpec.from_config,
    "controlnet": ControlNetSpec.from_config,
    "t2i_adapter": T2IAdapterSpec.from_config,
    "text_encoder": ClipTextSpec.from_config,
    "text_encoder_2": ClipTextSpec.from_config,
    "image_encoder": ClipVisionSpec.from_config,
}
# Those whose config the weights tell.
_DETECTED: Mapping[Component, Callable[[Checkpoint], dict[str, Any]]] = {
    "text_encoder": detect_text,
    "image_encoder": detect_vision,
    "t2i_adapter": detect_t2i_adapter,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoneComponent:
    """A component, its structure checked against its tensors, no value read.

    Attributes:
        component: Which part of a model.
        config: Its config.json.
        converted: Its tensors.
    """

    component: Component
    config: Config
    converted: Converted


def kind_of(path: Path) -> Kind:
    """What kind of file this is to convert: a model, an adapter, a LoRA, or a component by name.

    Args:
        path: A file of weights, or a folder with config.json or model_index.json.

    Raises:
        CheckpointError: Nothing that is supported; the message says what it is instead.
    """
    if path.is_dir():
        if (path / "model_index.json").is_file():
            return "model"
        return _class(read_json(path / "config.json"), path)
    family = families.family(open_file(path))
    if family not in _KINDS:
        raise CheckpointError(
            f"{path} cannot be converted",
            found=family,
            remedy="`ipa-mlx inspect` says more; models, their components, IP-Adapters and LoRAs "
            "of Stable Diffusion 1.x, 2.x and XL are supported",
        )
    return _KINDS[family]


def read_control(files: ControlFiles) -> Converted:
    """The tensors of a ControlNet or T2I-Adapter, whose structure is known.

    Raises:
        CheckpointError: The weights are damaged, or are not exactly those of the structure.
        RequestError: Something is to be ignored that there is not, or that is needed.
    """
    is_net = isinstance(files.spec, ControlNetSpec)
    component: Component = "controlnet" if is_net else "t2i_adapter"
    if files.path.is_file():
        return open_component(files.path, files.config, files.ignore.patterns, component).converted
    converted = read_component(
        component, files.path, files.spec, variant=files.variant, ignore=files.ignore
    )
    files.ignore.check_all(str(files.path), converted.contents())
    return converted


def open_component(
    path: Path,
    config: Config | None = None,
    ignore: Sequence[str] | None = None,
    component: Component | None = None,
) -> LoneComponent:
    """A component from its folder or from one file.

    Args:
        path: The folder, with config.json; or the file.
        config: For a file: what config.json would say. None: the weights tell, which they do for
            ControlNets, T2I-Adapters and CLIP's towers of public sizes.
        ignore: Names of tensors that the component does not know and that may be left out.
        component: Which it is; None: the file tells. A ControlNet may lie beside a whole model.

    Raises:
        CheckpointError: The weights are damaged, are not exactly those of the config, or do not
            tell what it would say.
    """
    component = component or cast("Component", kind_of(path))
    if path.is_dir():
        config = read_json(path / "config.json")
        checkpoint = open_folder(path, STEMS[component])
    elif component == "controlnet":
        config, checkpoint = open_controlnet(path, None if config is None else dict(config))
    else:
        checkpoint = open_file(path)
    if config is None:
        config = _detected(component, checkpoint)
    spec = _SPECS[component](config, f"{path}: config")
    asked = Ignore.of(ignore)
    converted = convert(checkpoint, TABLES[component](spec), asked)
    asked.check(converted.dropped, [t.name for t in checkpoint.values()], checkpoint.where)
    return LoneComponent(component=component, config=config, converted=converted)


def _detected(component: Component, checkpoint: Checkpoint) -> Config:
    if component not in _DETECTED:
        raise CheckpointError(
            f"{checkpoint.where}: the weights of a {component} alone do not tell its config",
            remedy="say which base model it is of, or give a folder with its config.json",
        )
    return _DETECTED[component](checkpoint)


def _class(config: Config, path: Path) -> Component:
    names = [config.get("_class_name"), *(config.get("architectures") or ())]
    found = next((_CLASSES[name] for name in names if name in _CLASSES), None)
    if found is None:
        raise CheckpointError(
            f"{path}/config.json is of no supported class",
            found=", ".join(str(name) for name in names if name) or "no class at all",
            remedy=f"one of {', '.join(_CLASSES)}",
        )
    return found
