"""A report on a loaded model, for `Pipeline.info` and results."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import diffusers
import torch
import transformers


class Encoders(Protocol):
    """The protocol of a store of image encoders, by the folder that each was loaded from."""

    @property
    def encoders(self) -> Mapping[Path, torch.nn.Module]:
        """The encoders, shared by adapters that need the same one."""


class Model(Protocol):
    """The protocol of a loaded model, as far as it is reported."""

    @property
    def unet(self) -> torch.nn.Module:
        """The denoiser."""

    @property
    def vae(self) -> torch.nn.Module:
        """The autoencoder."""

    @property
    def text_encoder(self) -> torch.nn.Module:
        """CLIP's text tower."""

    @property
    def text_encoder_2(self) -> torch.nn.Module | None:
        """SDXL's second text tower."""

    @property
    def adapters(self) -> Encoders:
        """The adapters that are loaded."""


def networks(model: Model) -> Iterator[tuple[str, torch.nn.Module]]:
    """The networks that a backend has loaded, by component; adapters and ControlNets apart."""
    yield from base_networks(model)
    yield from encoders(model)


def base_networks(model: Model) -> Iterator[tuple[str, torch.nn.Module]]:
    """The model's own networks, by component."""
    yield from (("unet", model.unet), ("vae", model.vae))
    yield "text_encoder", model.text_encoder
    if model.text_encoder_2 is not None:
        yield "text_encoder_2", model.text_encoder_2


def encoders(model: Model) -> Iterator[tuple[str, torch.nn.Module]]:
    """The image encoders that were loaded with adapters."""
    for path, encoder in model.adapters.encoders.items():
        yield f"image_encoder:{path.name}", encoder


@dataclass(frozen=True)
class Measured:
    """A network's bytes."""

    nbytes: int


def measured(networks: Iterable[tuple[str, torch.nn.Module]]) -> dict[str, Measured]:
    """Measure networks by name, once and before LoRAs act in them."""
    return {name: Measured(network_bytes(module)) for name, module in networks}


def report(parts: Mapping[str, Measured]) -> dict[str, Any]:
    """The report: versions, and bytes of each part."""
    return {
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "bytes": {name: part.nbytes for name, part in parts.items()},
    }


def network_bytes(module: torch.nn.Module) -> int:
    """The bytes of a network's weights."""
    return sum(tensor.nbytes for tensor in module.parameters())
