"""Random T2I-Adapters for the tiny models, and diffusers' own pipelines with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    MultiAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionXLAdapterPipeline,
    T2IAdapter,
)

from ipa_torch.files.weights import quiet
from oracle import models
from oracle.pipelines import diffusers_pipeline

UNET: dict[str, Any] = models.FOUR_LEVELS | {"block_out_channels": (16, 32, 32, 32)}
"""The last two levels are as wide as each other, as of Stable Diffusion 1.5: light ones need it."""
FULL: dict[str, Any] = {"channels": (16, 32, 32, 32), "num_res_blocks": 2}
LIGHT: dict[str, Any] = {
    "channels": (16, 32, 32),
    "num_res_blocks": 3,
    "adapter_type": "light_adapter",
}
XL: dict[str, Any] = {
    "channels": (16, 32, 48, 48),
    "num_res_blocks": 1,
    "downscale_factor": 16,
    "adapter_type": "full_adapter_xl",
}
"""Of `models.XL_UNET`: the fourth is added to the middle."""


def adapter(seed: int, **config: Any) -> T2IAdapter:
    """All tensors random and distinct."""
    with torch.random.fork_rng(devices=[]):
        return models.randomize(T2IAdapter(**config), seed)


def write_t2i_adapter(folder: Path, seed: int, **config: Any) -> T2IAdapter:
    """A folder of diffusers."""
    net = adapter(seed, **config)
    net.save_pretrained(folder, safe_serialization=True)
    return net


def original(net: T2IAdapter) -> dict[str, torch.Tensor]:
    """The same values as TencentARC's modules name them: read off the module tree, not looked up.

    A full adapter there is one list of residual blocks, the first of a level holding what comes
    before it; a light one has a list in each of its four.
    """
    found: dict[str, torch.Tensor] = {}

    def put(name: str, module: torch.nn.Module) -> None:
        found.update({f"{name}.{key}": value for key, value in module.state_dict().items()})

    is_light, number = net.config.adapter_type == "light_adapter", 0
    if not is_light:
        put("conv_in", net.adapter.conv_in)
    for level, block in enumerate(net.adapter.body):
        first = f"body.{level if is_light else number}"
        if block.in_conv is not None:
            put(f"{first}.in_conv", block.in_conv)
        for rank, resnet in enumerate(block.resnets):
            put(f"{first}.body.{rank}" if is_light else f"body.{number}", resnet)
            number += 1
        if is_light:
            put(f"{first}.out_conv", block.out_conv)
    return found


def adapted_pipeline(
    folder: Path, nets: Sequence[Path], adapters: Sequence[Path] = ()
) -> DiffusionPipeline:
    """Stock diffusers with T2I-Adapters; for SDXL with IP-Adapters too, if any."""
    base = diffusers_pipeline(folder, adapters)
    loaded = read(nets)
    parts = {**base.components, "adapter": MultiAdapter(loaded) if len(loaded) > 1 else loaded[0]}
    if "text_encoder_2" in parts:
        zeros = base.config.force_zeros_for_empty_prompt
        pipe = StableDiffusionXLAdapterPipeline(**parts, force_zeros_for_empty_prompt=zeros)
    else:
        parts.pop("image_encoder", None)
        pipe = StableDiffusionAdapterPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def read(nets: Sequence[Path]) -> list[T2IAdapter]:
    """By diffusers' own loader."""
    with quiet():
        return [T2IAdapter.from_pretrained(path) for path in nets]


def inject(
    pipe: DiffusionPipeline, features: Sequence[torch.Tensor], steps: Mapping[int, float]
) -> None:
    """Have a pipeline that knows no T2I-Adapters hand features to its UNet, by the step's number.

    For what diffusers has no pipeline for: with IP-Adapters on Stable Diffusion 1.5, and with
    ControlNets. `steps` has the weight of each step that gets any.
    """
    forward, calls = pipe.unet.forward, iter(range(1000))

    def adapted(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        weight = steps.get(next(calls))
        if weight is not None:
            kwargs["down_intrablock_additional_residuals"] = [
                (weight * feature).expand(len(sample), -1, -1, -1) for feature in features
            ]
        return forward(sample, *args, **kwargs)

    pipe.unet.forward = adapted
