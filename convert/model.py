"""All components of a model, from a folder or from a single file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ipa.contract.errors import CheckpointError
from ipa.contract.model import ModelFolder, SingleFile

from .checkpoint import open_file
from .components import TABLES, Component, Spec, read_component
from .converted import Converted
from .plan import convert
from .single_file import parts


def read_model(source: ModelFolder) -> Mapping[Component, Converted]:
    """All components of a model, their headers checked, no value read.

    Raises:
        CheckpointError: Weights are damaged, or are not exactly those of the model's configs.
    """
    specs = component_specs(source)
    if source.single_file is not None:
        return _from_file(source.single_file, specs)
    return {
        component: read_component(component, source.path / component, spec, variant=source.variant)
        for component, spec in specs.items()
    }


def component_specs(source: ModelFolder) -> dict[Component, Spec]:
    """The components that a model has, and their structures."""
    specs: dict[Component, Spec] = {
        "unet": source.unet,
        "vae": source.vae,
        "text_encoder": source.text_encoder,
    }
    if source.text_encoder_2 is not None:
        specs["text_encoder_2"] = source.text_encoder_2
    if source.image_encoder is not None and source.single_file is None:
        specs["image_encoder"] = source.image_encoder
    return specs


def _from_file(file: SingleFile, specs: Mapping[Component, Spec]) -> dict[Component, Converted]:
    found = parts(open_file(file.path), ema=file.ema)
    missing = [component for component in specs if component not in found.components]
    if missing:
        raise CheckpointError(
            f"{file.path} does not hold a whole model",
            found=f"no tensors of {', '.join(missing)}",
            remedy="use a file that is not pruned of them",
        )
    spare = [component for component in found.components if component not in specs]
    if spare:
        raise CheckpointError(
            f"{file.path} holds more than the model's configs say",
            found=f"tensors of {', '.join(spare)}",
            remedy="file and configs must be of one model",
        )
    converted = {c: convert(found.components[c], TABLES[c](s)) for c, s in specs.items()}
    # What belongs to no component is accounted for with the first.
    unet = converted["unet"]
    return converted | {"unet": replace(unet, dropped={**found.dropped, **unet.dropped})}
