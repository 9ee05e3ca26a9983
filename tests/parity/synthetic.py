"""Comparisons of any size over the names of a small UNet, with errors as real runs have them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ipa.parity.capture.capture import Side
from ipa.parity.compare.comparison import Comparison, Pictures, Swap
from ipa.parity.compare.measures import Difference, Measures

SITE = "transformer_blocks.0"
HOSTILE = "step.000/controlnet.<script>alert('1')&amp;</script>\"\u2028"
TORCH = Side(
    "torch float32", "torch", "float32", {"chip": "x86", "torch": "2.13.0", "TF32": "off"}, 3.25
)
MLX = Side("MLX float16", "mlx", "float16", {"chip": "Apple M4", "mlx": "0.32.1", "TF32": "off"})


def _resnet(path: str) -> Iterator[str]:
    for part in ("norm1", "conv1.input", "conv1", "time_emb_proj", "norm2", "conv2.input", "conv2"):
        yield f"{path}.{part}"
    yield path


def _transformer(path: str) -> Iterator[str]:
    yield from (f"{path}.{part}" for part in ("norm", "proj_in", f"{SITE}.norm1"))
    yield from (f"{path}.{SITE}.attn1.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0"))
    yield from (f"{path}.{SITE}.{part}" for part in ("attn1", "norm2", "attn2.to_q"))
    yield from (f"{path}.{SITE}.attn2.{part}" for part in ("text", "image.0", "to_out.0"))
    yield from (f"{path}.{SITE}.{part}" for part in ("attn2", "norm3", "ff.net.0.proj", "ff.net.2"))
    yield from (f"{path}.{SITE}.ff", f"{path}.{SITE}", f"{path}.proj_out", path)


def unet_paths() -> list[str]:
    """In the order in which they are computed."""
    names = ["unet.conv_in", "unet.time_proj", "unet.time_embedding"]
    blocks = ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1")
    for block in (f"unet.{name}" for name in blocks):
        names += _resnet(f"{block}.resnets.0")
        if not block.endswith("down_blocks.0"):
            names += _transformer(f"{block}.attentions.0")
        names.append(block)
    return [*names, "unet.conv_norm_out", "unet.conv_out"]


def stage_names(steps: int) -> list[str]:
    names = ["start/latents"]
    for phase in ("text.positive", "text.negative"):
        names += [f"{phase}/text_encoder.layers.{layer}.self_attn.q_proj" for layer in range(2)]
        names.append(f"{phase}/states")
    names += ["image.0/pixels", "image.0/image_encoder.layers.0", "image.0/tokens.conditional"]
    names.append(f"condition/image.0.down_blocks.1.attentions.0.{SITE}.attn2.to_k")
    unet, results = unet_paths(), ["prediction", "guided", "denoised", "latents"]
    for step in range(steps):
        names += [f"step.{step:03d}/{path}" for path in (*unet, *results)]
    return [*names, "decode/vae.decoder.conv_in", "decode/image"]


def measures(relative_l2: float, **other: Any) -> Measures:
    error = relative_l2
    made = Measures(
        relative_l2=error,
        max_abs=9 * error,
        cosine=1 - error**2 / 2,
        psnr_db=20.0 - 20 * np.log10(error) if error else float("inf"),
        quantiles=(error / 2, 2 * error, 4 * error, 7 * error),
        slope=1 + error / 9,
        bias=error / 99,
    )
    return replace(made, **other)


def differences(names: list[str], *, floor: float | None, bad_from: int) -> list[Difference]:
    """Errors near the floor that grow along the flow; 0.3 and less from one stage on."""
    draw = np.random.default_rng(6)
    found = []
    for number, name in enumerate(names):
        grown = (floor or 3e-7) * (1 + 2 * number / len(names))
        error = grown * draw.uniform(0.7, 1.3) if number < bad_from else draw.uniform(0.1, 0.3)
        limit = 2 * grown if floor else 2e-6
        known = grown if floor else None
        made = Difference(name, (2, 4, 8, 8), measures(error), known, limit, error > limit)
        found.append(made)
    return found


def comparison(
    steps: int = 2, *, floor: float | None = 5e-4, bad_from: int = 10**9, **other: Any
) -> Comparison:
    names = stage_names(steps)
    picture = np.random.default_rng(7).integers(0, 256, (64, 48, 3), np.uint8)
    pictures = Pictures(picture, picture ^ np.uint8(1), 48.13, 0.998, 0.9991)
    made = Comparison(
        a=TORCH,
        b=MLX,
        mode="free-running",
        request={"prompt": "a <b>red</b> heart", "steps": steps, "image_prompts": [{"scale": 0.7}]},
        differences=tuple(differences(names, floor=floor, bad_from=bad_from)),
        pictures=pictures,
        swaps=(Swap("text encoder", 0.02), Swap("VAE", 0.31)),
        unswapped=0.3,
    )
    return replace(made, **other)
