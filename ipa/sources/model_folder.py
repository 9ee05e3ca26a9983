"""A model as it lies on disk: a folder of diffusers, or one file with all components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ipa import bases
from ipa.errors import CheckpointError, shown
from ipa.model.clip import ClipTextSpec, ClipVisionSpec
from ipa.model.files import STEMS, find_weights, has_weights, read_json
from ipa.model.folder import ModelFolder, SingleFile
from ipa.model.unet import UNetSpec
from ipa.model.vae import VaeSpec
from ipa.prepare.samplers.families import unread_scheduler
from ipa.prepare.text.tokenizer import has_words

from .pipeline_classes import require_supported, unread_index
from .public_models import MODELS, near_names

if TYPE_CHECKING:
    from ipa.bases import Base
    from ipa_convert import PredictionType


_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
}


_SECOND = ("text_encoder_2", "CLIPTextModelWithProjection")  # of SDXL


_ENCODER = "image_encoder"


def open_model_folder(path: Path, *, name: str, variant: str | None = None) -> ModelFolder:
    """Open a model's folder: its configs are parsed, its weights are there.

    Args:
        path: A folder in diffusers' layout, original or converted.
        name: What the user called it.
        variant: "fp16" and the like, in the weights' file names. A component that has none of
            that name is taken plain, as diffusers does, but one must have it.

    Raises:
        CheckpointError: The folder is missing, incomplete, or of a family that is not supported.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{name}: no such model folder",
            found=f"{path} is a file" if path.is_file() else f"nothing at {path}",
            remedy=f"{near_names(path, MODELS)}Give a diffusers folder (with model_index.json), a "
            "file such as ~/Models/dreamshaper_8.safetensors, a hub id, or a short name: demo, "
            + ", ".join(MODELS),
        )
    components = [*_component_classes(path), _ENCODER]
    plain = _without(components, path, variant)
    for component in components:
        if component != _ENCODER:
            of_component = None if component in plain else variant
            find_weights(path / component, STEMS[component], of_component)
    model = _parse(_Configs(path, name, {}), variant=variant, single_file=None)
    return replace(model, plain=plain, warnings=(*model.warnings, *_mixture(plain, variant)))


def _without(components: Sequence[str], path: Path, variant: str | None) -> frozenset[str]:
    """Components of a folder without files of a variant. Raises CheckpointError if none has any.

    Those that have no weights at all are not among them: what is missing is told elsewhere.
    """
    if variant is None:
        return frozenset()
    having = [c for c in components if has_weights(path / c, STEMS[c], variant)]
    if not having:
        raise CheckpointError(
            f"{path} has no weights of the variant {variant!r}",
            found=", ".join(sorted(_tags(path, components))) or "no weights at all",
            remedy="variant= is a part of file names, such as fp16 of *.fp16.safetensors; leave it "
            "out for plain files",
        )
    return frozenset(c for c in components if c not in having and has_weights(path / c, STEMS[c]))


def _tags(path: Path, components: Sequence[str]) -> set[str]:
    """The names of the components' weight files."""
    names = {STEMS[c] for c in components} | {"pytorch_model"}
    found = (file.name for c in components for file in sorted((path / c).glob("*")))
    return {name for name in found if name.startswith(tuple(names))}


def _mixture(plain: frozenset[str], variant: str | None) -> list[str]:
    if not plain:
        return []
    listed = ", ".join(sorted(plain))
    return [f"there are no files of the variant {variant!r} of {listed}: the plain ones are taken"]


def open_configs(path: Path, *, name: str, single_file: SingleFile) -> ModelFolder:
    """Parse the configs of a model whose weights are one file.

    Args:
        path: A folder in diffusers' layout; weights in it are not looked at.
        name: What the user called it.
        single_file: The file, and what it changes in those configs.

    Raises:
        CheckpointError: A config is missing or says what is not supported.
    """
    configs = _Configs(path, name, single_file.changes)
    return _parse(configs, variant=None, single_file=single_file)


class _Configs:
    """The configs of a folder, with changes."""

    def __init__(self, path: Path, name: str, changes: Mapping[str, Mapping[str, Any]]) -> None:
        self.path, self.name, self._changes = path, name, changes

    def read(self, file: str) -> dict[str, Any]:
        return {**read_json(self.path / file), **self._changes.get(file, {})}

    def has(self, component: str) -> bool:
        return (self.path / component / "config.json").is_file()

    def component(self, component: str) -> tuple[dict[str, Any], str]:
        """A component's config, and its name for messages."""
        file = f"{component}/config.json"
        return self.read(file), f"{self.name}/{file}"


def _parse(
    configs: _Configs, *, variant: str | None, single_file: SingleFile | None
) -> ModelFolder:
    classes = _component_classes(configs.path)
    index = configs.read("model_index.json")
    scheduler = configs.read("scheduler/scheduler_config.json")
    unet = UNetSpec.from_config(*configs.component("unet"))
    vae = VaeSpec.from_config(*configs.component("vae"))
    text = ClipTextSpec.from_config(*configs.component("text_encoder"))
    second = None
    if _SECOND[0] in classes:
        second = ClipTextSpec.from_config(*configs.component(_SECOND[0]))
    _check_widths(unet, text, second, configs.name)
    _check_channels(unet, vae, configs.name)
    encoder = None
    if configs.has(_ENCODER):
        encoder = ClipVisionSpec.from_config(*configs.component(_ENCODER))
    return ModelFolder(
        name=configs.name,
        path=configs.path,
        variant=variant,
        unet=unet,
        vae=vae,
        text_encoder=text,
        text_encoder_2=second,
        force_zeros_for_empty_prompt=second is not None and _forces_zeros(configs),
        image_encoder=encoder,
        scheduler=scheduler,
        single_file=single_file,
        warnings=(
            *unread_index(index, f"{configs.name}/model_index.json"),
            *unread_scheduler(scheduler, f"{configs.name}/scheduler/scheduler_config.json"),
        ),
    )


def _forces_zeros(configs: _Configs) -> bool:
    """Whether an empty negative prompt is zeros (SDXL), with that pipeline's default."""
    key = "force_zeros_for_empty_prompt"
    value = configs.read("model_index.json").get(key, True)
    if not isinstance(value, bool):
        raise CheckpointError(
            f"{configs.name}/model_index.json: {key} must be true or false", found=shown(value)
        )
    return value


def _component_classes(path: Path) -> dict[str, str]:
    """The components with weights and the classes that they must have, from the index."""
    index = read_json(path / "model_index.json")
    require_supported(index, f"{path}/model_index.json")
    classes = _CLASSES | (dict([_SECOND]) if _SECOND[0] in index else {})
    for component, needed in classes.items():
        entry = index.get(component)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        if found != needed:
            raise CheckpointError(
                f"{path}/model_index.json: {component} must be a {needed}",
                found=shown(found),
                remedy="this version supports Stable Diffusion 1.x, 2.x and XL",
            )
    return classes


def _check_widths(
    unet: UNetSpec, text: ClipTextSpec, second: ClipTextSpec | None, name: str
) -> None:
    """Check that text encoders fit the UNet: the width of states, and of SDXL's pooled text."""
    width = text.width + (second.width if second else 0)
    if unet.context_width != width:
        raise CheckpointError(
            f"{name}: text encoder and UNet do not fit each other",
            found=f"text states of width {width}, the UNet takes {unet.context_width}",
            remedy="take both from one model",
        )
    pooled = second.projection if second else None
    needed = unet.addition.pooled_width if unet.addition else None
    if pooled != needed:
        raise CheckpointError(
            f"{name}: second text encoder and UNet do not fit each other",
            found=f"pooled text of width {pooled}, the UNet takes {needed}",
            remedy="take both from one model",
        )


def _check_channels(unet: UNetSpec, vae: VaeSpec, name: str) -> None:
    inputs = {vae.latent_channels, 2 * vae.latent_channels + 1}
    if unet.in_channels not in inputs or unet.out_channels != vae.latent_channels:
        raise CheckpointError(
            f"{name}: the UNet takes {unet.in_channels} channels and gives {unet.out_channels}",
            found=f"a VAE with {vae.latent_channels} latent channels",
            remedy="plain and inpainting UNets are supported, depth, upscaling and editing ones "
            "are not",
        )


def open_single_file(
    path: Path,
    *,
    name: str,
    config: Path | None = None,
    prediction_type: str | None = None,
    ema: bool = False,
) -> ModelFolder:
    """Open a single file of Stable Diffusion 1.x, 2.x or XL with its base's configs.

    Args:
        path: A .safetensors or .ckpt file.
        name: What the user called it.
        config: A folder in diffusers' layout with the configs, for a model of other widths.
        prediction_type: "epsilon" or "v_prediction", where the file does not tell.
        ema: Take the UNet's averaged weights, which training checkpoints also hold.

    Raises:
        CheckpointError: It is no such model.
    """
    import ipa_convert

    found = ipa_convert.recognise(
        path,
        prediction_type=cast("PredictionType | None", prediction_type),
        configured=config is not None,
    )
    if config is not None and not (config / "model_index.json").is_file():
        raise CheckpointError(
            f"{config} holds no configs of a model", remedy="a folder with model_index.json"
        )
    words = config / "tokenizer" if config else None
    vocabulary = words if words and has_words(words) else bases.vocabulary()
    return open_configs(
        config or bases.folder(cast("Base", found.base)),
        name=name,
        single_file=SingleFile(
            path=path, vocabulary=vocabulary, changes=found.changes, notes=found.notes, ema=ema
        ),
    )
