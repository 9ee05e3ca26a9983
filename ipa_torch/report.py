"""What a loaded model is made of, for `Pipeline.info` and results."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import diffusers
import torch
import transformers

if TYPE_CHECKING:
    from .backend import Runtime


def networks(runtime: Runtime) -> Iterator[tuple[str, torch.nn.Module]]:
    """What a runtime has loaded, adapters and ControlNets apart."""
    yield from base_networks(runtime)
    yield from encoders(runtime)


def base_networks(runtime: Runtime) -> Iterator[tuple[str, torch.nn.Module]]:
    """The model's own."""
    yield from (("unet", runtime.unet), ("vae", runtime.vae))
    yield "text_encoder", runtime.text_encoder
    if runtime.text_encoder_2 is not None:
        yield "text_encoder_2", runtime.text_encoder_2


def encoders(runtime: Runtime) -> Iterator[tuple[str, torch.nn.Module]]:
    """The image encoders that were loaded with adapters."""
    for path, encoder in runtime.adapters.encoders.items():
        yield f"image_encoder:{path.name}", encoder


@dataclass(frozen=True)
class Measured:
    """The bytes of a network."""

    nbytes: int


def measured(networks: Iterable[tuple[str, torch.nn.Module]]) -> dict[str, Measured]:
    """By name; once for what never changes, before LoRAs act in it."""
    return {name: Measured(_nbytes(module)) for name, module in networks}


def report(parts: Mapping[str, Measured]) -> dict[str, Any]:
    """Versions, and bytes of each part."""
    return {
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "bytes": {name: part.nbytes for name, part in parts.items()},
    }


def _nbytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.parameters())
