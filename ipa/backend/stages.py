"""The stages of a run that can be watched, and what each of them is.

A name is "<phase>/<path>". Phases, in the order of a run: "encode" (a picture to start from),
"start", "text.positive", "text.negative", "image.N" (image prompt N), "condition" (what all steps
share), "step.NNN" (one evaluation of the UNet and what is made of it), "decode". A path is a result
of the phase ("latents"), or a module of a network by diffusers' or transformers' own name for it,
less "text_model.", "vision_model." and "encoder." of CLIP's. Where a module runs more than once in
a phase, "@2" and so on tell its later runs: of the picture that stands for none, for one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Literal, TypeAlias

from ipa.errors import RequestError

Level: TypeAlias = Literal["result", "block", "layer", "operation"]

UNET = r"(unet|controlnet\.\w+)\."
VAE = r"vae\.(encoder|decoder)\."
CLIP = r"(text_encoder|text_encoder_2|image_encoder)\."
_BLOCK = r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)"
_TRANSFORMER = rf"{UNET}{_BLOCK}\.attentions\.\d+"
_SITE = rf"{_TRANSFORMER}\.transformer_blocks\.\d+"
_UNET_SITE = _SITE.replace(UNET, r"unet\.")


@dataclass(frozen=True, slots=True)
class StageKind:
    """Stages whose path matches a pattern.

    `once`: it is the same in every step, and told in the phase "condition" alone.
    """

    pattern: str
    meaning: str
    level: Level
    once: bool = False

    def matches(self, path: str) -> bool:
        """Whether a path, less its "@2", is of this kind."""
        return re.fullmatch(self.pattern, path) is not None


RESULTS = (
    StageKind(r"mean|deviation", "the VAE's posterior of the starting picture", "result"),
    StageKind(r"pixels", "what the image encoder is given, normalised", "result"),
    StageKind(r"features\.(un)?conditional", "what the image encoder says", "result"),
    StageKind(r"tokens\.(un)?conditional", "the projector's image tokens", "result"),
    StageKind(r"states", "the text as the UNet attends to it", "result"),
    StageKind(r"pooled", "SDXL's pooled text", "result"),
    StageKind(
        r"image\.\d+\.[\w.]+\.to_[kv]", "an image prompt's keys or values at a site", "operation"
    ),
    StageKind(r"image\.\d+\.[\w.]+\.mask", "an image prompt's mask at a site", "operation"),
    StageKind(r"sizes", "SDXL's six numbers of every text", "result"),
    StageKind(r"timestep", "the timestep that the UNet is given", "result"),
    StageKind(r"prediction", "what the UNet predicts", "result"),
    StageKind(r"guided", "the prediction after guidance", "result"),
    StageKind(r"denoised", "the estimate of the finished latents", "result"),
    StageKind(r"latents", "the latents", "result"),
    StageKind(r"image", "the finished picture, in [0, 1]", "result"),
)

MODULES = (
    StageKind(rf"{UNET}time_proj", "the timestep's sinusoid", "operation"),
    StageKind(rf"{UNET}time_embedding(\.linear_[12])?", "the timestep, embedded", "operation"),
    StageKind(
        rf"{UNET}add_embedding(\.input|\.linear_[12])?",
        "SDXL's pooled text and its sizes as sinusoids; the same, embedded",
        "operation",
        True,
    ),
    StageKind(rf"{UNET}controlnet_cond_embedding", "the control picture, embedded", "layer", True),
    StageKind(rf"{UNET}controlnet_(mid_block|down_blocks\.\d+)", "a ControlNet's result", "layer"),
    StageKind(rf"{UNET}{_BLOCK}", "a level of the UNet", "block"),
    StageKind(rf"({UNET}|{VAE})conv_(in|norm_out|out|out\.input)", "first and last", "operation"),
    StageKind(rf"{VAE}(conv_in\.input)", "latents or pixels as the VAE takes them", "operation"),
    StageKind(rf"{VAE}(down_blocks\.\d+|mid_block)", "a level of the VAE", "block"),
    StageKind(rf"({UNET}|{VAE}){_BLOCK}\.resnets\.\d+", "a resnet", "layer"),
    StageKind(
        rf"({UNET}|{VAE}){_BLOCK}\.resnets\.\d+\."
        r"(norm[12]|conv[12](\.input)?|time_emb_proj|conv_shortcut)",
        "a part of a resnet; the convolutions' inputs are the norms', activated",
        "operation",
    ),
    StageKind(rf"({UNET}|{VAE}){_BLOCK}\.(down|up)samplers\.0\.conv", "a resampling", "operation"),
    StageKind(
        rf"{VAE}mid_block\.attentions\.0(\.(group_norm|to_[qkv]|attended|to_out\.0))?",
        "the VAE's self-attention",
        "operation",
    ),
    StageKind(r"vae\.(post_)?quant_conv(\.input)?", "between latents and the VAE", "operation"),
    StageKind(_TRANSFORMER, "a transformer", "layer"),
    StageKind(rf"{_TRANSFORMER}\.(norm|proj_in|proj_out)", "a transformer's ends", "operation"),
    StageKind(_SITE, "a transformer block", "layer"),
    StageKind(rf"{_SITE}\.norm[123]", "a norm before attention or feed-forward", "operation"),
    StageKind(rf"{_SITE}\.attn1(\.(to_[qkv]|attended|to_out\.0))?", "self-attention", "operation"),
    StageKind(
        rf"{_SITE}\.attn2\.to_[kv]", "the text's keys or values at a site", "operation", True
    ),
    StageKind(rf"{_UNET_SITE}\.attn2\.text", "what a site gets of the text", "operation"),
    StageKind(
        rf"{_UNET_SITE}\.attn2\.image\.\d+", "what a site gets of an image prompt", "operation"
    ),
    StageKind(rf"{_SITE}\.attn2(\.(to_q|attended|to_out\.0))?", "cross-attention", "operation"),
    StageKind(
        rf"{_SITE}\.ff(\.net\.(0\.proj|0|2))?", "the feed-forward; net.0 is GEGLU", "operation"
    ),
    StageKind(
        rf"{CLIP}(pixels|embeddings\.patch_embedding|embeddings|pre_layrnorm)",
        "what enters a tower of CLIP",
        "operation",
    ),
    StageKind(rf"{CLIP}layers\.\d+", "a layer of CLIP", "layer"),
    StageKind(
        rf"{CLIP}layers\.\d+\.(layer_norm[12]|self_attn|mlp|"
        r"self_attn\.([qkv]_proj|attended|out_proj)|mlp\.(fc[12]|activation_fn))",
        "a part of a layer of CLIP",
        "operation",
    ),
    StageKind(
        rf"{CLIP}(post_layernorm|text_projection|visual_projection)",
        "what leaves a tower of CLIP",
        "operation",
    ),
    StageKind(r"projector\.layers\.\d+", "a layer of the projector", "layer"),
    StageKind(
        r"projector\.((layers\.\d+\.(ln[01]|attn\.(to_q|attended|to_out\.0)|ff\.(0|1\.net\.(0|2))))|"
        r"image_embeds|proj_in|proj_out|norm|norm_out|(ff|proj)\.net\.(0\.proj|0|2))",
        "a part of the projector",
        "operation",
    ),
)

INPUTS = {
    "add_embedding.linear_1": "add_embedding.input",
    "conv1": "conv1.input",
    "conv2": "conv2.input",
    "conv_out": "conv_out.input",
    "conv_in": "conv_in.input",
    "quant_conv": "quant_conv.input",
    "post_quant_conv": "post_quant_conv.input",
    "to_out.0": "attended",
    "self_attn.out_proj": "self_attn.attended",
    "embeddings.patch_embedding": "pixels",
}
"""Names of the inputs that are stages of their own, by the end of the module's name."""


@cache
def kind_of(path: str) -> StageKind | None:
    """The kind of a path, "unet.conv_in" or "latents@2"; None if it is no stage."""
    bare = path.partition("@")[0]
    return next((kind for kind in (*RESULTS, *MODULES) if kind.matches(bare)), None)


def input_of(path: str, names: Mapping[str, str] = INPUTS) -> str | None:
    """The name of a module's input; None where that is no stage."""
    for end, name in names.items():
        head = path.removesuffix(end)
        if head != path and head[-1:] in {"", "."}:
            return head + name if kind_of(head + name) else None
    return None


def is_sequence(path: str) -> bool:
    """Whether a map is told as a sequence (B, H·W, C): diffusers' modules differ in that."""
    return ".attentions." in path and path.endswith((".proj_in", ".proj_out", ".group_norm"))


def split(stage: str) -> tuple[str, str]:
    """A stage's phase and path."""
    phase, _, path = stage.partition("/")
    return phase, path


def step_of(stage: str) -> int | None:
    """The number of a stage's step, None outside of steps."""
    found = re.match(r"step\.(\d+)/", stage)
    return int(found[1]) if found else None


def level_of(stage: str) -> Level:
    """The level of a stage: how deep it is."""
    kind = kind_of(split(stage)[1])
    return "operation" if kind is None else kind.level


def chosen(patterns: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """The known stages that a pattern matches ("*" and "?" are any characters, "/" too).

    Raises:
        RequestError: A pattern matches nothing; the nearest names are told.
    """
    names = list(known)
    found: set[str] = set()
    for pattern in patterns:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            near = difflib.get_close_matches(pattern, names, 3, 0.3)
            raise RequestError(
                f"no stage is called {pattern!r}",
                found=f"{len(names)} stages",
                remedy=f"the nearest: {', '.join(near)}" if near else "see ipa/backend/stages.py",
            )
        found.update(matched)
    return frozenset(found)
