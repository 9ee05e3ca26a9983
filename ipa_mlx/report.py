"""What a loaded model is made of, for `Pipeline.info` and results."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .blas import preload
from .loading import quantization


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
