"""Hashes of all weights of a run, by which two runs are known to be of the same model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from ipa.model.folder import ModelFolder
from ipa.model.ignoring import NOTHING
from ipa.prepare.image_prompts.attached import AttachedAdapter
from ipa.prepare.text.tags import TEXTS
from ipa.request.batch import make_batch
from ipa.sources.encoders import find_encoder

from .call_loras import named_files
from .snapshot import Snapshot

if TYPE_CHECKING:
    from ipa_convert import Converted

Fingerprint: TypeAlias = Mapping[str, str]
"""The sha256 of weights by precision: see `ipa_convert.inspection.fingerprint`."""

_MODEL = ("unet", "vae", "text_encoder", "text_encoder_2")


def fingerprints(
    loaded: Snapshot, call: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, dict[str, str]]:
    """Hashes of the weights in a pipeline's files, whatever the backend.

    With a call's arguments also of the LoRAs that its prompt names. By component: "unet", "vae",
    "text_encoder", "text_encoder_2", "adapter.NAME" and "adapter.NAME.image_encoder",
    "controlnet.NAME" (or T2I-Adapter's), "lora.NAME". All weights are read: seconds for each GB,
    most of it in hashing.

    Raises:
        CheckpointError: A file is gone, or damaged since.
    """
    import ipa_convert  # numpy alone; a program that makes pictures with torch goes without it

    model = loaded.model
    parts = _model(model) | dict(_adapters(model, loaded.adapters))
    for name, control in loaded.controlnets.items():
        parts[f"controlnet.{name}"] = ipa_convert.read_control(control.files)
    hashes = {name: ipa_convert.fingerprint(part) for name, part in parts.items()}
    targets = ipa_convert.LoraTargets(
        unet=model.unet, text_encoder=model.text_encoder, text_encoder_2=model.text_encoder_2
    )
    loras = {name: (lora.path, lora.ignore) for name, lora in loaded.loras.items()}
    named = {name: (path, NOTHING) for name, path in _named(call, loaded)}
    for name, (path, ignore) in (named | loras).items():
        lora = ipa_convert.read_lora(path, targets, ignore=ignore)
        hashes[f"lora.{name}"] = ipa_convert.lora_fingerprint(lora)
    return hashes


def _named(call: Mapping[str, Any], loaded: Snapshot) -> Iterator[tuple[str, Path]]:
    """The LoRAs that a call's prompts name, each with the file that is loaded for the call."""
    texts = {name: call[name] for name in (*TEXTS, "prompt_syntax") if name in call}
    for request in make_batch([], texts).requests:
        yield from named_files(request, loaded).items()


def agreement(a: Fingerprint, b: Fingerprint) -> str | None:
    """The precision in which two components are equal; see `ipa_convert.inspection.fingerprint`."""
    from ipa_convert import agreement as found

    return found(a, b)


def _model(model: ModelFolder) -> dict[str, Converted]:
    """The model's parts; an image encoder that adapters use is hashed with them."""
    from ipa_convert import read_model

    alone = replace(model, image_encoder=None)
    return {name: part for name, part in read_model(alone).items() if name in _MODEL}


def _adapters(
    model: ModelFolder, adapters: Mapping[str, AttachedAdapter]
) -> Iterator[tuple[str, Converted]]:
    from ipa_convert import read_adapter, read_component

    for name, attached in adapters.items():
        files = attached.files
        yield (
            f"adapter.{name}",
            read_adapter(files.weights, model.sites, model.unet.context_width, ignore=files.ignore)[
                1
            ],
        )
        encoder = find_encoder(attached.loaded.spec, files, model)
        if encoder is not None:
            yield (
                f"adapter.{name}.image_encoder",
                read_component(
                    "image_encoder",
                    encoder.folder,
                    encoder.spec,
                    variant=encoder.variant,
                    ignore=files.ignore,
                ),
            )
