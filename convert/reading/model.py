"""All components of a model, from a folder or from a single file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from ipa.contract.errors import CheckpointError
from ipa.contract.model import ModelFolder, SingleFile

from ..containers.checkpoint import open_file
from ..tables.converted import Converted
from ..tables.plan import convert
from .components import TABLES, Component, Spec, read_component
from .single_file import Parts, parts


def read_model(
    source: ModelFolder, components: Collection[Component] | None = None
) -> Mapping[Component, Converted]:
    """The components of a model, their headers checked, no value read.

    Args:
        source: The model.
        components: Those that are wanted; None: all.

    Raises:
        CheckpointError: Weights are damaged, or are not exactly those of the model's configs.
    """
    specs = component_specs(source)
    wanted = {
        name: spec for name, spec in specs.items() if components is None or name in components
    }
    if source.single_file is not None:
        return _from_file(_parts(source.single_file, specs), wanted)
    return {
        component: read_component(component, source.path / component, spec, variant=source.variant)
        for component, spec in wanted.items()
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


def _parts(file: SingleFile, specs: Mapping[Component, Spec]) -> Parts:
    """The components in a file, which are exactly the model's."""
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
    return found


def _from_file(found: Parts, specs: Mapping[Component, Spec]) -> dict[Component, Converted]:
    converted = {c: convert(found.components[c], TABLES[c](s)) for c, s in specs.items()}
    # What belongs to no component is accounted for with the first.
    first = next(iter(converted))
    dropped = {**found.dropped, **converted[first].dropped}
    return converted | {first: replace(converted[first], dropped=dropped)}
