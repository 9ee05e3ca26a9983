"""The UNet of Apple's MLX examples, from a copy that lies somewhere: PyPI has one in diffuse-mlx.

    pip install --no-deps --target FOLDER diffuse-mlx

It is no dependency of this project: a path says where it is. Only its unet.py and config.py are
loaded, which need nothing but MLX.
"""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PACKAGE = "mlx_examples_stable_diffusion"

# What its loader makes of the public configs: blocks of the way up are listed from the top, so
# that its own default, made for SD2.1's deepest block without attention, attends at the wrong end.
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {
        "num_attention_heads": (8,) * 4,
        "cross_attention_dim": (768,) * 4,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": (2,) * 3,
        "transformer_layers_per_block": (1, 2, 10),
        "num_attention_heads": (5, 10, 20),
        "cross_attention_dim": (2048,) * 3,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


def find(folder: Path) -> Path:
    """The package's folder in or below one. Raises SystemExit, with what to do, if it is not."""
    for path in sorted(folder.rglob("unet.py")):
        if "class UNetModel" in path.read_text("utf-8") and (path.parent / "config.py").is_file():
            return path.parent
    raise SystemExit(
        f"no UNet of the MLX examples below {folder}: "
        "pip install --no-deps --target FOLDER diffuse-mlx"
    )


def unet(folder: Path, base: str, config: Mapping[str, Any] | None = None) -> Any:
    """Its UNet of a base ("sd15", "sdxl") or a config, with random weights, not evaluated."""
    if _PACKAGE not in sys.modules:
        package = types.ModuleType(_PACKAGE)
        package.__path__ = [str(find(folder))]
        sys.modules[_PACKAGE] = package
    configs = importlib.import_module(f"{_PACKAGE}.config")
    module = importlib.import_module(f"{_PACKAGE}.unet")
    return module.UNetModel(configs.UNetConfig(**(config or CONFIGS[base])))
