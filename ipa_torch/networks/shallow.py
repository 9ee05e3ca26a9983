"""The shallow layers of diffusers' networks alone: the ends of a UNet, the first of a ControlNet.

diffusers runs its networks whole. Here their own modules are called one by one, as its forwards
do; of a block that is not done whole, the parts. Hooks on modules see what is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from ipa.backend.deep import DeepPart
from ipa.backend.past import PastFeatures

Tensors = list[torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What all layers of one evaluation are given, in the words of diffusers' forwards."""

    temb: torch.Tensor
    encoder_hidden_states: torch.Tensor
    cross_attention_kwargs: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        net: UNet2DConditionModel | ControlNetModel,
        rows: torch.Tensor,
        timestep: torch.Tensor,
        added: Mapping[str, torch.Tensor],
        *,
        guidance: torch.Tensor | None = None,
        **given: Any,
    ) -> Inputs:
        """With the timestep embedded, and what SDXL adds to it."""
        waves = net.time_proj(timestep.expand(len(rows))).to(rows.dtype)
        time = net.time_embedding(waves, guidance)
        if net.config.addition_embed_type is not None:
            sizes = net.add_time_proj(added["time_ids"].flatten()).reshape(len(rows), -1)
            pooled = torch.cat([added["text_embeds"], sizes], dim=-1)
            time = time + net.add_embedding(pooled.to(time.dtype))
        return cls(temb=time, **given)

    def attention(self, block: torch.nn.Module) -> dict[str, Any]:
        """The arguments of a block for its attentions, if it has any."""
        if not getattr(block, "has_cross_attention", False):
            return {}
        return {
            "encoder_hidden_states": self.encoder_hidden_states,
            "cross_attention_kwargs": self.cross_attention_kwargs,
        }

    def layer(self, block: Any, number: int, x: torch.Tensor) -> torch.Tensor:
        """A resnet of a block, with its transformer if there is one."""
        x = block.resnets[number](x, self.temb)
        attention = self.attention(block)
        return block.attentions[number](x, **attention, return_dict=False)[0] if attention else x


def begin(
    net: UNet2DConditionModel | ControlNetModel,
    x: torch.Tensor,
    inputs: Inputs,
    count: int,
    features: Sequence[torch.Tensor] = (),
) -> Tensors:
    """The first `count` results of the way down, from `conv_in`'s, which is one of them.

    `features` are what T2I-Adapters add to the blocks.
    """
    results, waiting = [x], iter(features)
    for block in net.down_blocks:
        missing, feature = count - len(results), next(waiting, None)
        if missing <= 0:
            break
        if missing < len(block.resnets) + (block.downsamplers is not None):
            results += _begin_block(block, results[-1], inputs, missing, feature)
        else:
            results += _whole_block(block, results[-1], inputs, feature)
    return results


def _begin_block(
    block: Any, x: torch.Tensor, inputs: Inputs, count: int, feature: torch.Tensor | None
) -> Tensors:
    results = []
    for number in range(count):
        x = inputs.layer(block, number, x)
        results.append(x)
    if feature is not None and inputs.attention(block) and count == len(block.resnets):
        results[-1] = x + feature
    return results


def _whole_block(
    block: Any, x: torch.Tensor, inputs: Inputs, feature: torch.Tensor | None
) -> Tensors:
    attention = inputs.attention(block)
    if attention:
        attention["additional_residuals"] = feature
    results = list(block(hidden_states=x, temb=inputs.temb, **attention)[1])
    if not attention and feature is not None:
        results[-1] = results[-1] + feature
    return results


def first_residuals(
    net: ControlNetModel, rows: torch.Tensor, embedding: torch.Tensor, inputs: Inputs, count: int
) -> Tensors:
    """A ControlNet's residuals of the first `count` results, not weighted.

    `embedding` is that of its picture (`networks.controlnet.embed`).
    """
    x = net.conv_in(rows) + embedding
    layers = net.controlnet_down_blocks[:count]
    found = [layer(r) for layer, r in zip(layers, begin(net, x, inputs, count), strict=True)]
    if not net.config.global_pool_conditions:
        return found
    return [residual.mean(dim=(2, 3), keepdim=True) for residual in found]


def reused(
    unet: UNet2DConditionModel, results: Tensors, inputs: Inputs, deep: DeepPart
) -> torch.Tensor:
    """The UNet's output, of the first results of the way down and of the deep feature."""
    x = deep.feature[-len(results[0]) :]
    for block, count in _last_layers(unet, len(results)):
        results, taken = results[:-count], results[-count:]
        size = results[-1].shape[2:] if results else None
        if count == len(block.resnets):
            x = block(
                hidden_states=x,
                temb=inputs.temb,
                res_hidden_states_tuple=tuple(taken),
                upsample_size=size,
                **inputs.attention(block),
            )
            continue
        for number, result in enumerate(reversed(taken), start=len(block.resnets) - count):
            x = inputs.layer(block, number, torch.cat([x, result], dim=1))
        for upsampler in block.upsamplers or ():
            x = upsampler(x, size)
    return last_layers(unet, x)


def last_layers(unet: UNet2DConditionModel, x: torch.Tensor) -> torch.Tensor:
    """The UNet's output, of what enters its last norm."""
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


def _last_layers(unet: UNet2DConditionModel, count: int) -> Iterator[tuple[Any, int]]:
    """The blocks that have the last `count` layers of the way up, and how many each has."""
    left_out = sum(len(block.resnets) for block in unet.up_blocks) - count
    for block in unet.up_blocks:
        layers = len(block.resnets) - max(left_out, 0)
        left_out -= len(block.resnets)
        if layers > 0:
            yield block, layers


@contextmanager
def noted(unet: UNet2DConditionModel, deep: DeepPart | None) -> Iterator[None]:
    """A context in which an evaluation of all of the UNet gives a deep part its feature."""
    if deep is None:
        yield
        return
    block, count = next(_last_layers(unet, deep.shallow))
    resnet = block.resnets[len(block.resnets) - count]

    def note(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        # Beside it lies a result of the way down, which would stay in memory with it.
        deep.feature = args[0][:, : _width_below(unet, deep.shallow)].clone()

    handle = resnet.register_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _width_below(unet: UNet2DConditionModel, shallow: int) -> int:
    """The channels of the deep feature: of what the last `shallow` layers are given from below."""
    layers = [resnet for block in unet.up_blocks for resnet in block.resnets]
    before = layers[: len(layers) - shallow]
    return int((before or unet.mid_block.resnets)[-1].out_channels)


@contextmanager
def kept(unet: UNet2DConditionModel, past: PastFeatures | None) -> Iterator[None]:
    """A context in which an evaluation of all of the UNet gives its last feature to be kept."""
    if past is None:
        yield
        return

    def note(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        past.keep(args[0])

    handle = unet.conv_norm_out.register_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()
