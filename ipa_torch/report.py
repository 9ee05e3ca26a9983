"""What a loaded model is made of, for `Pipeline.info` and results."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import diffusers
import torch
import transformers


def report(parts: Mapping[str, torch.nn.Module]) -> dict[str, Any]:
    """Versions, and bytes of each part."""
    return {
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "bytes": {name: _nbytes(module) for name, module in parts.items()},
    }


def _nbytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.parameters())
