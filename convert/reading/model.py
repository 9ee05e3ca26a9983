"""All components of a model, from a folder or from a single file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from ipa.errors import CheckpointError
from ipa.model.folder import ModelFolder, SingleFile
from ipa.model.ignoring import NOTHING, Ignore
from ipa.model.vae import VaeSpec

from ..containers.checkpoint import open_file
from ..tables.converted import Converted
from ..tables.matching import convert
from .components import TABLES, Component, Spec, read_component
from .single_file import Parts, is_single_file, parts


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
    read: dict[Component, Converted] = {}
    if source.other_vae is not None and "vae" in wanted:
        del wanted["vae"]
        read["vae"] = read_vae(source.other_vae.path, source.vae, source.ignore)
    if source.single_file is not None:
        found = _parts(source.single_file, specs, optional=("vae",) if source.other_vae else ())
        read = {**_from_file(found, wanted, source.ignore), **read}
    else:
        read |= {
            component: read_component(
                component,
                source.path / component,
                spec,
                variant=source.variant_of(component),
                ignore=source.ignore,
            )
            for component, spec in wanted.items()
        }
    _check_ignore(source, read)
    return read


def _check_ignore(source: ModelFolder, read: Mapping[Component, Converted]) -> None:
    """Raise RequestError for a pattern of `ignore` that matches no tensor of the model."""
    gone = [name for part in read.values() for name in part.dropped]
    names = [tensor.stored.name for part in read.values() for tensor in part.values()]
    source.ignore.check(gone, names, source.name)


def read_vae(path: Path, spec: VaeSpec, ignore: Ignore = NOTHING) -> Converted:
    """Read a VAE that is not its model's own: from a folder, a file, or the file of a model.

    Raises:
        CheckpointError: The weights are damaged, or are not exactly those of that structure.
    """
    if path.is_dir():
        return read_component("vae", path, spec, ignore=ignore)
    checkpoint = open_file(path)
    if is_single_file(checkpoint):
        checkpoint = parts(checkpoint).components.get("vae", checkpoint)
    return convert(checkpoint, TABLES["vae"](spec), ignore)


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


def _parts(
    file: SingleFile, specs: Mapping[Component, Spec], optional: Collection[str] = ()
) -> Parts:
    """The components in a file, which must be exactly the model's but for optional ones."""
    found = parts(open_file(file.path), ema=file.ema)
    needed = [component for component in specs if component not in optional]
    missing = [component for component in needed if component not in found.components]
    if missing:
        raise CheckpointError(
            f"{file.path} does not hold a whole model",
            found=f"no tensors of {', '.join(missing)}",
            remedy="use a file that is not pruned of them; a VAE may be given beside it, with vae=",
        )
    spare = [component for component in found.components if component not in specs]
    if spare:
        raise CheckpointError(
            f"{file.path} holds more than the model's configs say",
            found=f"tensors of {', '.join(spare)}",
            remedy="file and configs must be of one model",
        )
    return found


def _from_file(
    found: Parts, specs: Mapping[Component, Spec], ignore: Ignore
) -> dict[Component, Converted]:
    converted = {c: convert(found.components[c], TABLES[c](s), ignore) for c, s in specs.items()}
    if not converted:
        return {}
    # What belongs to no component is accounted for with the first.
    first = next(iter(converted))
    dropped = {**found.dropped, **converted[first].dropped}
    return converted | {first: replace(converted[first], dropped=dropped)}
