"""ControlNets: diffusers' ControlNetModel, and the files of lllyasviel/ControlNet."""

from __future__ import annotations

from collections.abc import Iterator

from ipa.model.controlnet import ControlNetSpec

from . import ldm
from .layout import Tensor
from .modules import convolution, pointwise
from .rules import Drop, Rename
from .spelling import Names
from .table import Table
from .unet import DOWN_RENAMES, down_tensors

TITLE = "ControlNet"

RENAMES = (
    *DOWN_RENAMES,
    Rename("controlnet_cond_embedding.**", "conditioning_embedding.**"),
)

PREFIX = Rename("control_model.**", "**")
"""The prefix of nearly every file in the original naming, with or without the base model."""

_SCHEDULE = "the noise schedule, which a whole checkpoint repeats"

# Files of the first release hold a whole Stable Diffusion beside the ControlNet.
DROPS = (
    Drop("model.diffusion_model.**", "the base model's UNet, which a whole checkpoint repeats"),
    Drop("first_stage_model.**", "the base model's VAE, which a whole checkpoint repeats"),
    Drop("cond_stage_model.**", "the base model's text encoder, which a whole checkpoint repeats"),
    Drop("model_ema.**", "averages of the base model's UNet, which a whole checkpoint repeats"),
    Drop("betas", _SCHEDULE),
    Drop("alphas_cumprod", _SCHEDULE),
    Drop("alphas_cumprod_prev", _SCHEDULE),
    Drop("sqrt_alphas_cumprod", _SCHEDULE),
    Drop("sqrt_one_minus_alphas_cumprod", _SCHEDULE),
    Drop("log_one_minus_alphas_cumprod", _SCHEDULE),
    Drop("sqrt_recip_alphas_cumprod", _SCHEDULE),
    Drop("sqrt_recipm1_alphas_cumprod", _SCHEDULE),
    Drop("posterior_variance", _SCHEDULE),
    Drop("posterior_log_variance_clipped", _SCHEDULE),
    Drop("posterior_mean_coef1", _SCHEDULE),
    Drop("posterior_mean_coef2", _SCHEDULE),
    Drop("logvar", "a quantity of the training, which inference does not use"),
    Drop("scale_factor", "the VAE's scaling factor, which the base model's config repeats"),
)


def table(spec: ControlNetSpec) -> Table:
    """The table of a ControlNet, also as its first authors spell it, alone or with its base."""
    rows = tuple(tensors(spec))
    names = Names(ldm.controlnet_names((row.name for row in rows), spec))
    return Table(title=TITLE, tensors=rows, renames=RENAMES, aliases=(PREFIX, names), drops=DROPS)


def tensors(spec: ControlNetSpec) -> Iterator[Tensor]:
    """Every tensor, as diffusers names and stores it."""
    yield from down_tensors(spec)
    yield from _conditioning(spec)
    for i, width in enumerate(spec.residual_channels):
        yield from pointwise(f"controlnet_down_blocks.{i}", width, width)
    yield from pointwise("controlnet_mid_block", spec.channels[-1], spec.channels[-1])


def _conditioning(spec: ControlNetSpec) -> Iterator[Tensor]:
    """diffusers' `ControlNetConditioningEmbedding`: every second inner layer halves the picture."""
    path, widths = "controlnet_cond_embedding", spec.embedding_channels
    yield from convolution(f"{path}.conv_in", spec.conditioning_channels, widths[0])
    for i in range(len(widths) - 1):
        yield from convolution(f"{path}.blocks.{2 * i}", widths[i], widths[i])
        yield from convolution(f"{path}.blocks.{2 * i + 1}", widths[i], widths[i + 1])
    yield from convolution(f"{path}.conv_out", widths[-1], spec.channels[0])
