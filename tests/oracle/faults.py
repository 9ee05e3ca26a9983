"""Faults that people make when they port a diffusion model, to be planted in one backend.

Each says at which stage, of all that are watched, it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from PIL import Image

import ipa
import ipa.prepare.images.clip
import ipa.prepare.scaling.masks
import ipa_mlx.adapters
import ipa_mlx.backend
import ipa_mlx.networks.attention
import ipa_mlx.networks.context
import ipa_mlx.networks.layers
import ipa_mlx.text
import ipa_torch.adapters
import ipa_torch.conditioning
import ipa_torch.networks.attention
import ipa_torch.prediction
import ipa_torch.sampler
import ipa_torch.vae_codec

Patch = pytest.MonkeyPatch
Plant = Callable[[ipa.Pipeline, Patch], None]
FIRST, SECOND = (
    f"down_blocks.0.attentions.{number}.transformer_blocks.0.attn2" for number in (0, 1)
)
"""Two sites of equal shape."""


@dataclass(frozen=True)
class Fault:
    """`family` is "sd" or "xl", `backend` the one that it is planted in."""

    name: str
    stage: str
    plant: Plant
    backend: str = "mlx"
    family: str = "sd"


def _epsilon(pipe: ipa.Pipeline, patch: Patch) -> None:
    norm = pipe._loaded.backend.unet.down_blocks[0].attentions[0].norm
    patch.setattr(norm, "eps", 10 * norm.eps)


def _keys_for_values(pipe: ipa.Pipeline, patch: Patch) -> None:
    _exchange(pipe, patch, f"{SECOND}.to_k.weight", f"{SECOND}.to_v.weight")


def _sites(pipe: ipa.Pipeline, patch: Patch) -> None:
    for part in ("to_k", "to_v"):
        _exchange(pipe, patch, f"{FIRST}.{part}.weight", f"{SECOND}.{part}.weight")


def _exchange(pipe: ipa.Pipeline, patch: Patch, first: str, second: str) -> None:
    projections = pipe._loaded.backend.adapters["plus"].projections
    a, b = projections[first], projections[second]
    patch.setitem(projections, first, b)
    patch.setitem(projections, second, a)


def _quick_gelu(pipe: ipa.Pipeline, patch: Patch) -> None:
    ((_, encoder),) = pipe._loaded.backend.adapters.encoders()
    layer = encoder.get().layers[1].feed_forward
    patch.setattr(layer, "activation", ipa_mlx.networks.layers.quick_gelu)


def _transposed(pipe: ipa.Pipeline, patch: Patch) -> None:
    layer = pipe._loaded.backend.text_encoder_2.projection
    patch.setitem(layer, "weight", mx.contiguous(layer.weight.T))


def _penultimate(pipe: ipa.Pipeline, patch: Patch) -> None:
    def taken(tower: Any, layers: Any, skip: int, *, normed: bool) -> mx.array:
        return tower.final_norm(layers[-2 - skip])

    patch.setattr(ipa_mlx.text, "_taken", taken)


def _timestep(pipe: ipa.Pipeline, patch: Patch) -> None:
    predict = ipa_torch.prediction.predict
    patch.setattr(
        ipa_torch.backend, "predict", lambda net, x, time, *rest: predict(net, x, time - 1, *rest)
    )


def _rows(pipe: ipa.Pipeline, patch: Patch) -> None:
    guide = ipa_torch.sampler.guide
    patch.setattr(ipa_torch.backend, "guide", lambda output, *rest: guide(output.flip(0), *rest))


def _scaling_factor(pipe: ipa.Pipeline, patch: Patch) -> None:
    vae = pipe._loaded.backend.vae
    patch.setattr(vae, "spec", replace(vae.spec, scaling_factor=0.3))


def _without_antialias(pipe: ipa.Pipeline, patch: Patch) -> None:
    clip_pixels = ipa.prepare.images.clip.clip_pixels

    def aliased(pictures: Any, preprocessing: Any, *rest: Any, **options: Any) -> Any:
        side = preprocessing["crop_size"]["height"]
        return clip_pixels([_small(p, side) for p in pictures], preprocessing, *rest, **options)

    patch.setattr(ipa.prepare.image_prompts.encoding, "clip_pixels", aliased)


def _small(picture: Image.Image, side: int) -> Image.Image:
    pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(pixels, (side, side), mode="bicubic", antialias=False)
    return Image.fromarray(small[0].clamp(0, 255).round().byte().permute(1, 2, 0).numpy())


def _nearest_mask(pipe: ipa.Pipeline, patch: Patch) -> None:
    def nearest(mask: Any, rows: int, columns: int) -> Any:
        y, x = (
            np.arange(n) * size // n for n, size in zip((rows, columns), mask.shape, strict=True)
        )
        return mask[y][:, x].astype(np.float32)

    patch.setattr(ipa.prepare.scaling.masks, "resample", nearest)


def _bfloat16(pipe: ipa.Pipeline, patch: Patch) -> None:
    class Low(nn.Linear):
        def __call__(self, x: mx.array) -> mx.array:
            sums = x.astype(mx.bfloat16) @ self.weight.T.astype(mx.bfloat16)
            return sums.astype(x.dtype) + self.bias

    layer = pipe._loaded.backend.unet.up_blocks[0].attentions[1].transformer_blocks[0].ff.proj_out
    patch.setattr(layer, "__class__", Low)


def _bias(pipe: ipa.Pipeline, patch: Patch) -> None:
    layer = pipe._loaded.backend.unet.up_blocks[1].resnets[2].conv1
    patch.setitem(layer, "bias", mx.zeros_like(layer.bias))


def _padded_scale(pipe: ipa.Pipeline, patch: Patch) -> None:
    attend = ipa_mlx.networks.attention.attend

    def padded(q: mx.array, *others: Any, **options: Any) -> mx.array:
        wrong = (q.shape[-1] / 16) ** 0.5 if q.shape[-1] == 12 else 1.0
        return attend(q * wrong, *others, **options)

    patch.setattr(ipa_mlx.networks.attention, "attend", padded)


def _black(pipe: ipa.Pipeline, patch: Patch) -> None:
    def features(self: Any, encoder: Any, pixels: mx.array) -> tuple[mx.array, mx.array]:
        rows = encoder.states(mx.concatenate([pixels, mx.full(pixels[:1].shape, -1.8)]))
        return rows[:-1], rows[-1:]

    patch.setattr(ipa_mlx.adapters.ImageAdapter, "features", features)


def _stale_scale(pipe: ipa.Pipeline, patch: Patch) -> None:
    weighted = ipa_mlx.networks.context.KeyValue.weighted
    patch.setattr(
        ipa_mlx.networks.context.KeyValue, "weighted", lambda self, _: weighted(self, 0.3)
    )


def _sine_first(pipe: ipa.Pipeline, patch: Patch) -> None:
    patch.setattr(pipe._loaded.backend.unet.time_embedding.time_proj, "flip", False)


def _gate_first(pipe: ipa.Pipeline, patch: Patch) -> None:
    class Turned(ipa_mlx.networks.layers.FeedForward):
        def __call__(self, x: mx.array) -> mx.array:
            gate, value = mx.split(self.proj_in(x), 2, axis=-1)
            return self.proj_out(value * ipa_mlx.networks.layers.gelu(gate))

    block = pipe._loaded.backend.unet.mid_block.attentions[0].transformer_blocks[0]
    patch.setattr(block.ff, "__class__", Turned)


def _skips(pipe: ipa.Pipeline, patch: Patch) -> None:
    block = pipe._loaded.backend.unet.up_blocks[1]
    original = type(block)

    class Reversed(original):  # type: ignore[misc, valid-type]
        def __call__(self, x: mx.array, skips: list[mx.array], *rest: Any) -> mx.array:
            return super().__call__(x, [skips[0], skips[2], skips[1]], *rest)

    patch.setattr(block, "__class__", Reversed)


def _one_row_less(pipe: ipa.Pipeline, patch: Patch) -> None:
    """Keys of pictures in the wrong row: the picture's in the unconditional one."""
    steered = ipa_torch.conditioning.steered

    def turned(pairs: Any, branch: Any) -> Any:
        own = steered(pairs, branch)
        return tuple(replace(p, keys=p.keys.flip(0), values=p.values.flip(0)) for p in own)

    patch.setattr(ipa_torch.backend, "steered", turned)


def _sum_of_branches(pipe: ipa.Pipeline, patch: Patch) -> None:
    """The text's share is taken by 1 - λ, as if branches were mixed."""

    class Mixing(ipa_mlx.networks.context.Context):
        __slots__ = ()

        def observe(self, part: str, array: mx.array) -> mx.array:
            return super().observe(part, array * 0.3 if part == "text" else array)

    patch.setattr("ipa_mlx.conditioning.Context", Mixing)


def _last_alpha(pipe: ipa.Pipeline, patch: Patch) -> None:
    advance = ipa_torch.sampler.advance

    def wrong(step: Any, *rest: Any) -> Any:
        return advance(replace(step, x_denoised=step.x_denoised * 1.0005), *rest)

    patch.setattr(ipa_torch.backend, "advance", wrong)


def _latents_not_scaled(pipe: ipa.Pipeline, patch: Patch) -> None:
    encode = ipa_torch.vae_codec.encode

    def unscaled(vae: Any, *rest: Any, **options: Any) -> Any:
        mean, deviation = encode(vae, *rest, **options)
        return mean / vae.config.scaling_factor, deviation / vae.config.scaling_factor

    patch.setattr(ipa_torch.backend, "encode", unscaled)


_SITE = f"unet.{FIRST}"
FAULTS = (
    Fault("group-norm epsilon", "step.000/unet.down_blocks.0.attentions.0.norm", _epsilon),
    Fault("keys for values at a site", f"condition/image.0.{SECOND}.to_k", _keys_for_values),
    Fault("two sites exchanged", f"condition/image.0.{FIRST}.to_k", _sites),
    Fault(
        "quick-gelu for gelu",
        "image.0/image_encoder.layers.1.mlp.activation_fn",
        _quick_gelu,
    ),
    Fault(
        "square projection not transposed",
        "text.positive/text_encoder_2.text_projection",
        _transposed,
        family="xl",
    ),
    Fault("penultimate layer of text", "text.positive/states", _penultimate),
    Fault("timestep off by one", "step.000/unet.time_proj", _timestep, "torch", "xl"),
    Fault("rows of guidance exchanged", "step.000/guided", _rows, "torch"),
    Fault("factor of the VAE", "decode/vae.post_quant_conv.input", _scaling_factor, family="xl"),
    Fault("bicubic without antialias", "image.0/pixels", _without_antialias),
    Fault("mask to the nearest", f"condition/image.0.{FIRST}.mask", _nearest_mask),
    Fault(
        "sums in bfloat16",
        "step.000/unet.up_blocks.0.attentions.1.transformer_blocks.0.ff.net.2",
        _bfloat16,
    ),
    Fault("bias of a convolution", "step.000/unet.up_blocks.1.resnets.2.conv1", _bias),
    Fault(
        "scale of padded heads",
        "step.000/unet.down_blocks.2.attentions.0.transformer_blocks.0.attn1.attended",
        _padded_scale,
    ),
    Fault("black for grey", "image.0/image_encoder.pixels@2", _black),
    Fault("λ of the call before", f"step.000/{_SITE}.image.0", _stale_scale),
    Fault("sine before cosine", "step.000/unet.time_proj", _sine_first),
    Fault(
        "gate for value in GEGLU",
        "step.000/unet.mid_block.attentions.0.transformer_blocks.0.ff.net.0",
        _gate_first,
    ),
    Fault("order of skips", "step.000/unet.up_blocks.1.resnets.0.norm1", _skips),
    Fault("rows of a picture exchanged", f"condition/image.0.{FIRST}.to_k", _one_row_less, "torch"),
    Fault("text's share by 1 - λ", f"step.000/{_SITE}.text", _sum_of_branches, family="sd"),
    Fault("a coefficient of the sampler", "step.000/latents", _last_alpha, "torch", "xl"),
    Fault("latents not scaled", "encode/mean", _latents_not_scaled, "torch"),
)
