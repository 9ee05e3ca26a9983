"""diffusers' UNets of the true configs, without memory: on torch's meta device."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import IPAdapterMixin
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

from ipa import bases


@functools.cache
def true_unet(base: bases.Base) -> UNet2DConditionModel:
    """A UNet of a public base; its values are never looked at."""
    config = json.loads((bases.folder(base) / "unet" / "config.json").read_text())
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


@functools.cache
def with_adapter(base: bases.Base) -> UNet2DConditionModel:
    """The same with an IP-Adapter's processor at every cross-attention."""
    config = json.loads((bases.folder(base) / "unet" / "config.json").read_text())
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        for name, module in unet.named_modules():
            if name.endswith(".attn2"):
                processor = IPAdapterAttnProcessor2_0(
                    module.inner_dim, module.cross_attention_dim, num_tokens=(4,), scale=[9.0]
                )
                module.set_processor(processor)
    return unet


def scales_of_diffusers(base: bases.Base, scale: Any) -> dict[str, float]:
    """What `set_ip_adapter_scale` leaves on each processor, by the path of its attention."""
    unet = with_adapter(base)
    IPAdapterMixin.set_ip_adapter_scale(SimpleNamespace(unet=unet), scale)
    return {
        name.removesuffix(".processor"): processor.scale[0]
        for name, processor in unet.attn_processors.items()
        if isinstance(processor, IPAdapterAttnProcessor2_0)
    }


@functools.cache
def transformers_as_run(base: bases.Base) -> tuple[str, ...]:
    """Paths of the Transformer2DModels in the order in which a forward pass calls them."""
    unet, called, hooks = true_unet(base), list[str](), []
    for name, module in unet.named_modules():
        if type(module).__name__ == "Transformer2DModel":
            hooks.append(
                module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
            )
    width = unet.config.cross_attention_dim
    added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    with torch.device("meta"), torch.no_grad():
        meta = {key: value.to("meta") for key, value in added.items()}
        unet(
            torch.empty(1, 4, 32, 32),
            torch.empty(1),
            torch.empty(1, 77, width),
            added_cond_kwargs=meta,
        )
    for hook in hooks:
        hook.remove()
    return tuple(called)
