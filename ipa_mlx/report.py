"""A report on a loaded model, for `Pipeline.info` and results."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from .blas import preload
from .residency import Measured


def report(parts: Mapping[str, Measured]) -> dict[str, Any]:
    """The report: versions, device, bytes and quantisation of each part."""
    return {
        "versions": {"mlx": mx.__version__, "python": platform.python_version()},
        "device": str(mx.default_device()),
        "blas": preload(),
        "bytes": {name: part.nbytes for name, part in parts.items()},
        "quantization": {n: dict(p.quantization) for n, p in parts.items() if p.quantization},
    }
