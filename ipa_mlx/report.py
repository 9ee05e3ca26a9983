"""What a loaded model is made of, for `Pipeline.info` and results."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .blas import preload
from .loading import quantization

if TYPE_CHECKING:
    from .backend import Runtime


def networks(runtime: Runtime) -> Iterator[tuple[str, nn.Module]]:
    """What a runtime has loaded, adapters and ControlNets apart."""
    yield from base_networks(runtime)
    yield from encoders(runtime)


def base_networks(runtime: Runtime) -> Iterator[tuple[str, nn.Module]]:
    """The model's own."""
    yield from (("unet", runtime.unet), ("vae", runtime.vae))
    yield "text_encoder", runtime.text_encoder
    if runtime.text_encoder_2 is not None:
        yield "text_encoder_2", runtime.text_encoder_2


def encoders(runtime: Runtime) -> Iterator[tuple[str, nn.Module]]:
    """The image encoders that were loaded with adapters."""
    for path, encoder in runtime.adapters.encoders.items():
        yield f"image_encoder:{path.name}", encoder


@dataclass(frozen=True)
class Measured:
    """The bytes of a network, and how it is quantised."""

    nbytes: int
    quantization: Mapping[str, int] | None


def measured(networks: Iterable[tuple[str, nn.Module]]) -> dict[str, Measured]:
    """By name; once for what never changes, before LoRAs act in it."""
    return {name: Measured(_nbytes(m), quantization(m)) for name, m in networks}


def report(parts: Mapping[str, Measured]) -> dict[str, Any]:
    """Versions, device, bytes and quantisation of each part."""
    return {
        "versions": {"mlx": mx.__version__, "python": platform.python_version()},
        "device": str(mx.default_device()),
        "blas": preload(),
        "bytes": {name: part.nbytes for name, part in parts.items()},
        "quantization": {n: dict(p.quantization) for n, p in parts.items() if p.quantization},
    }


def _nbytes(module: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))
