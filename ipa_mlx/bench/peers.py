"""Other programs on MLX, each through a small adapter: their networks, random, by stages.

A program is a folder that has a known package, or a Python file that says how to run it: a function
`open_stage(stage, base, *, height, width, batch, dtype)`, which returns a function that runs once
and waits for the result, or None for a stage that it does not do. `base` is "sd15", "sd2" or
"sdxl"; sizes are of pictures, in pixels; a "step" is of 2 · batch rows, as guidance has it.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ipa.errors import RequestError
from ipa_mlx.networks.weights import DTYPES

from .random_model import draw

_TOKENS, _TIMESTEP, _GUIDANCE = 77, 501.0, 7.5
_OWN = "open_stage"

# What the UNet of the MLX examples is told of a base, as its own loader tells it: blocks of the way
# up from the top, where its default attends at the wrong end. The rest are its defaults.
_UP = ("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",)
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "sd15": {
        "num_attention_heads": (8,) * 4,
        "cross_attention_dim": (768,) * 4,
        "up_block_types": _UP,
    },
    "sd2": {"up_block_types": _UP},
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "layers_per_block": (2, 2, 2),
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
_POOLED = 1280

Run = Callable[[], object]
Size = tuple[int, int, int]
"""Pictures, and their height and width in pixels."""


def open_peer(path: Path, stage: str, base: str, size: Size, dtype: str | None) -> Run:
    """A stage of another program with random weights of a base model.

    Args:
        path: A folder that has its package, or a Python file (see the module).
        stage: "step", "decode", "encode".
        base: The model's structure.
        size: What it is run on.
        dtype: As `ipa.load` takes it.

    Raises:
        RequestError: There is no known program, or it does not do this.
    """
    chosen = dtype or ("float16" if mx.default_device() == mx.gpu else "float32")
    if path.suffix == ".py":
        own = runpy.run_path(str(path)).get(_OWN)
        batch, height, width = size
        run = own and own(stage, base, height=height, width=width, batch=batch, dtype=chosen)
    else:
        package = find_package(path)
        sys.path.insert(0, str(path))
        run = _of_examples(package, stage, base, size, DTYPES[chosen])
    if run is None:
        raise RequestError(f"{path.name} does not do {stage} of {base}", remedy="leave it out")
    return run


def find_package(path: Path) -> str:
    """The known package in a folder. Raises RequestError where there is none."""
    for package in ("diffuse_mlx.stable_diffusion", "stable_diffusion"):
        if Path(path, *package.split("."), "unet.py").is_file():
            return package
    raise RequestError(
        f"{path} has no program that is known here",
        found="neither diffuse_mlx nor stable_diffusion (of the MLX examples) in it",
        remedy=f"name the folder that has one of them, or a Python file with {_OWN}(…)",
    )


def _of_examples(package: str, stage: str, base: str, size: Size, dtype: mx.Dtype) -> Run | None:
    """The networks of the MLX examples, which diffuse-mlx also has."""
    if base not in EXAMPLES:
        return None
    config = importlib.import_module(f"{package}.config")
    batch, height, width = size
    noise = np.random.default_rng(0).standard_normal
    latents = mx.array(noise((batch, height // 8, width // 8, 4), np.float32)).astype(dtype)
    if stage == "step":
        module = importlib.import_module(f"{package}.unet")
        settings = config.UNetConfig(**EXAMPLES[base])
        unet = module.UNetModel(settings)
        draw(unet, dtype)
        text = mx.array(noise((2 * batch, _TOKENS, settings.cross_attention_dim[0]), np.float32))
        return _step(unet, latents, text.astype(dtype), has_sizes=base == "sdxl")
    vae = importlib.import_module(f"{package}.vae").Autoencoder(config.AutoencoderConfig())
    draw(vae, dtype)
    if stage == "decode":
        return lambda: mx.eval(vae.decode(latents))
    if stage == "encode":
        pixels = mx.array(noise((batch, height, width, 3), np.float32)).astype(dtype)
        return lambda: mx.eval(vae.encode(pixels))
    return None


def _step(unet: Any, latents: mx.array, text: mx.array, *, has_sizes: bool) -> Run:
    """A guided step as the examples do it: one evaluation of both halves, and a step along."""
    rows, added = len(text), None
    time = mx.full((rows,), _TIMESTEP)
    if has_sizes:
        added = (mx.zeros((rows, _POOLED), text.dtype), mx.ones((rows, 6)))
    mx.eval(latents, text, time)

    def run() -> None:
        x = mx.concatenate([latents, latents])
        conditional, unconditional = mx.split(unet(x, time, text, text_time=added), 2)
        noise = unconditional + _GUIDANCE * (conditional - unconditional)
        mx.eval(latents - noise)

    return run
