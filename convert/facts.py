"""What can be told of a checkpoint beyond its family, from the shapes of its tensors.

Widths of public models: formats of Stable Diffusion 1.x, 2.x and XL. What shapes cannot tell
(a VAE's base) is said to be open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipa.contract.base_sites import base_name

from . import (
    clip_facts,
    clip_spellings,
    clip_text,
    clip_vision,
    controlnet,
    controlnet_facts,
    ip_adapter,
    unet,
    vae,
)
from .adapter_facts import adapter_facts
from .checkpoint import Checkpoint
from .description import Facts
from .families import LORA
from .lora_facts import lora_facts

_UNET_INPUTS: Mapping[int, str] = {
    4: "text to image",
    5: "depth",
    7: "upscaler",
    8: "instruct-pix2pix",
    9: "inpainting",
}


def facts(family: str, checkpoint: Checkpoint) -> Facts:
    """What is known of a checkpoint of this family."""
    describe = _DESCRIBERS.get(family)
    return describe(checkpoint) if describe else Facts()


def _width(checkpoint: Checkpoint, ending: str, axis: int) -> int:
    """One dimension of the first tensor whose name ends so; 0 if there is none."""
    shapes = (checkpoint.whole_shape(name) for name in checkpoint if name.endswith(ending))
    shape = next(shapes, ())
    return shape[axis] if len(shape) > axis else 0


def _unet(checkpoint: Checkpoint) -> Facts:
    inputs = _width(checkpoint, "conv_in.weight", 3 if checkpoint.converted else 1)
    remarks = []
    if "time_embedding.cond_proj.weight" in checkpoint:
        remarks.append("distilled for few steps (LCM): it takes the guidance scale as an input")
    return Facts(
        variant=_UNET_INPUTS.get(inputs, f"{inputs} input channels"),
        base=base_name(_width(checkpoint, ".attn2.to_k.weight", 1)),
        remarks=tuple(remarks),
    )


def _vae(checkpoint: Checkpoint) -> Facts:
    return Facts(remarks=("all bases' VAEs look alike: config.json tells the scaling factor",))


def _vision(checkpoint: Checkpoint) -> Facts:
    return Facts(
        variant=clip_facts.vision_variant(checkpoint),
        remarks=clip_facts.vision_remarks(checkpoint),
    )


def _text(checkpoint: Checkpoint) -> Facts:
    return Facts(
        variant=clip_facts.text_variant(checkpoint), remarks=clip_facts.text_remarks(checkpoint)
    )


def _whole_clip(checkpoint: Checkpoint) -> Facts:
    return Facts(
        variant=clip_facts.vision_variant(checkpoint),
        remarks=clip_facts.whole_remarks(checkpoint),
    )


def _lora(checkpoint: Checkpoint) -> Facts:
    known = lora_facts(checkpoint)
    return Facts(variant=known.spelling, base=known.base, remarks=known.remarks)


def _controlnet(checkpoint: Checkpoint) -> Facts:
    known = controlnet_facts.describe(checkpoint)
    return Facts(variant=known.variant, base=known.base, remarks=known.remarks)


_DESCRIBERS: Mapping[str, Callable[[Checkpoint], Facts]] = {
    unet.TITLE: _unet,
    vae.TITLE: _vae,
    clip_vision.TITLE: _vision,
    clip_text.TITLE: _text,
    clip_spellings.WHOLE_TITLE: _whole_clip,
    ip_adapter.TITLE: adapter_facts,
    controlnet.TITLE: _controlnet,
    LORA: _lora,
}
