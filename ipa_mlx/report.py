"""What a loaded model is made of, for `Pipeline.info` and results."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
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
    yield from (("unet", runtime.unet), ("vae", runtime.vae))
    yield "text_encoder", runtime.text_encoder
    if runtime.text_encoder_2 is not None:
        yield "text_encoder_2", runtime.text_encoder_2
    for path, encoder in runtime.adapters.encoders.items():
        yield f"image_encoder:{path.name}", encoder


def report(parts: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Versions, device, bytes and quantisation of each part."""
    return {
        "versions": {"mlx": mx.__version__, "python": platform.python_version()},
        "device": str(mx.default_device()),
        "blas": preload(),
        "bytes": {name: _nbytes(module) for name, module in parts.items()},
        "quantization": {n: found for n, m in parts.items() if (found := quantization(m))},
    }


def _nbytes(module: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))
