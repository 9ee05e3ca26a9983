"""The names of the original implementations, of whole blocks: CompVis' latent-diffusion (Stable
Diffusion 1 and 2) and Stability's generative-models (SDXL), which single files and ComfyUI keep.

Sources: `UNetModel` in openaimodel.py, `Encoder` and `Decoder` in model.py; `ControlNet` in
cldm.py of lllyasviel/ControlNet. Names are computed from
diffusers' to the original ones, never parsed: `input_blocks.1` is a prefix of `input_blocks.10`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ipa.model.controlnet import ControlNetSpec
from ipa.model.unet import DownSpec, UNetSpec
from ipa.model.vae import VaeSpec

# Inside a resnet, and of the layers outside of blocks.
_RESNET: Mapping[str, str] = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS: Mapping[str, str] = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_INNER: Mapping[str, str] = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_VAE_MIDDLE: Mapping[str, str] = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
}
_DEEPEST = 5  # components of the longest block path


def unet_names(names: Iterable[str], spec: UNetSpec) -> dict[str, str]:
    """diffusers' name of every original name, for these tensors (or modules) of a UNet."""
    blocks = {**_UNET_ENDS, **dict(down_blocks(spec)), **dict(_up_blocks(spec))}
    return {original(name, blocks, _RESNET): name for name in names}


def controlnet_names(names: Iterable[str], spec: ControlNetSpec) -> dict[str, str]:
    """diffusers' name of every original name, for a ControlNet."""
    blocks = {**_UNET_ENDS, **dict(down_blocks(spec)), **dict(_control_blocks(spec))}
    return {original(name, blocks, _RESNET): name for name in names}


def vae_names(names: Iterable[str], spec: VaeSpec) -> dict[str, str]:
    """diffusers' name of every original name, for an autoencoder."""
    blocks = dict(_vae_blocks(spec))
    return {original(name, blocks, _VAE_INNER): name for name in names}


def original(name: str, blocks: Mapping[str, str], inner: Mapping[str, str]) -> str:
    """A name with its block, and what lies in the block, in the original's words."""
    parts = name.split(".")
    for depth in range(min(_DEEPEST, len(parts)), 0, -1):
        block = blocks.get(".".join(parts[:depth]))
        if block is not None:
            return ".".join((block, *_inside(parts[depth:], inner)))
    return name


def down_blocks(spec: DownSpec) -> Iterator[tuple[str, str]]:
    """diffusers' and the original path of every block on the way down."""
    number, last = 1, len(spec.channels) - 1
    for level, layers in enumerate(spec.layers):
        path = f"down_blocks.{level}"
        for i in range(layers):
            yield f"{path}.resnets.{i}", f"input_blocks.{number}.0"
            if spec.down_attention[level]:
                yield f"{path}.attentions.{i}", f"input_blocks.{number}.1"
            number += 1
        if level < last:
            yield f"{path}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            number += 1


def _up_blocks(spec: UNetSpec) -> Iterator[tuple[str, str]]:
    """Paths of the blocks on the way up; an upsampler stands behind its block's other modules."""
    number, last = 0, len(spec.channels) - 1
    for block, attends in enumerate(spec.up_attention):
        path, level = f"up_blocks.{block}", last - block
        for i in range(spec.layers[level] + 1):
            yield f"{path}.resnets.{i}", f"output_blocks.{number}.0"
            if attends:
                yield f"{path}.attentions.{i}", f"output_blocks.{number}.1"
            number += 1
        if level > 0:
            place = 2 if attends else 1
            yield f"{path}.upsamplers.0.conv", f"output_blocks.{number - 1}.{place}.conv"


def _control_blocks(spec: ControlNetSpec) -> Iterator[tuple[str, str]]:
    """Paths of what a ControlNet adds; its hint block has an activation after each convolution."""
    hint, inner = "controlnet_cond_embedding", 2 * (len(spec.embedding_channels) - 1)
    convolutions = ("conv_in", *(f"blocks.{i}" for i in range(inner)), "conv_out")
    for i, name in enumerate(convolutions):
        yield f"{hint}.{name}", f"input_hint_block.{2 * i}"
    for i in range(len(spec.residual_channels)):
        yield f"controlnet_down_blocks.{i}", f"zero_convs.{i}.0"
    yield "controlnet_mid_block", "middle_block_out.0"


def _vae_blocks(spec: VaeSpec) -> Iterator[tuple[str, str]]:
    """Paths of the decoder's levels, numbered from the finest; diffusers' from the first to run."""
    last = len(spec.channels) - 1
    for half in ("encoder", "decoder"):
        for here, there in _VAE_MIDDLE.items():
            yield f"{half}.{here}", f"{half}.{there}"
    for level in range(last + 1):
        down, up = f"encoder.down_blocks.{level}", f"decoder.up_blocks.{level}"
        for i in range(spec.layers):
            yield f"{down}.resnets.{i}", f"encoder.down.{level}.block.{i}"
        for i in range(spec.layers + 1):
            yield f"{up}.resnets.{i}", f"decoder.up.{last - level}.block.{i}"
        yield f"{down}.downsamplers.0", f"encoder.down.{level}.downsample"
        yield f"{up}.upsamplers.0", f"decoder.up.{last - level}.upsample"


def _inside(parts: list[str], inner: Mapping[str, str]) -> Iterator[str]:
    """The rest of a path in the original's words; one or two components may differ."""
    for depth in (2, 1):
        word = inner.get(".".join(parts[:depth]))
        if word is not None:
            yield word
            yield from parts[depth:]
            return
    yield from parts
