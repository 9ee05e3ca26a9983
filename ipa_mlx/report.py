"""A report on a loaded model, for `Pipeline.info` and results."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .blas import preload
from .networks.weights import quantization


class Encoders(Protocol):
    """The protocol of a store of image encoders, by the folder that each was loaded from."""

    @property
    def encoders(self) -> Mapping[Path, nn.Module]:
        """The encoders, shared by adapters that need the same one."""


class Model(Protocol):
    """The protocol of a loaded model, as far as it is reported."""

    @property
    def unet(self) -> nn.Module:
        """The denoiser."""

    @property
    def vae(self) -> nn.Module:
        """The autoencoder."""

    @property
    def text_encoder(self) -> nn.Module:
        """CLIP's text tower."""

    @property
    def text_encoder_2(self) -> nn.Module | None:
        """SDXL's second text tower."""

    @property
    def adapters(self) -> Encoders:
        """The adapters that are loaded."""


def networks(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """The networks that a backend has loaded, by component; adapters and ControlNets apart."""
    yield from base_networks(model)
    yield from encoders(model)


def base_networks(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """The model's own networks, by component."""
    yield from (("unet", model.unet), ("vae", model.vae))
    yield "text_encoder", model.text_encoder
    if model.text_encoder_2 is not None:
        yield "text_encoder_2", model.text_encoder_2


def encoders(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """The image encoders that were loaded with adapters."""
    for path, encoder in model.adapters.encoders.items():
        yield f"image_encoder:{path.name}", encoder


@dataclass(frozen=True)
class Measured:
    """A network's bytes, and how it is quantised."""

    nbytes: int
    quantization: Mapping[str, int] | None


def measured(networks: Iterable[tuple[str, nn.Module]]) -> dict[str, Measured]:
    """Measure networks by name, once and before LoRAs act in them."""
    return {name: Measured(_nbytes(m), quantization(m)) for name, m in networks}


def report(parts: Mapping[str, Measured]) -> dict[str, Any]:
    """The report: versions, device, bytes and quantisation of each part."""
    return {
        "versions": {"mlx": mx.__version__, "python": platform.python_version()},
        "device": str(mx.default_device()),
        "blas": preload(),
        "bytes": {name: part.nbytes for name, part in parts.items()},
        "quantization": {n: dict(p.quantization) for n, p in parts.items() if p.quantization},
    }


def _nbytes(module: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))
