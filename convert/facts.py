"""What can be told of a checkpoint beyond its family, from the shapes of its tensors.

Widths of public models: formats of Stable Diffusion 1.x, 2.x and XL, and of the encoders of
h94/IP-Adapter. What shapes cannot tell (a VAE's base) is said to be open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipa.contract.bases import base_name

from . import clip_text, clip_vision, ip_adapter, unet, vae
from .adapter_facts import adapter_facts
from .checkpoint import Checkpoint
from .description import Facts

_UNET_INPUTS: Mapping[int, str] = {
    4: "text to image",
    5: "depth",
    7: "upscaler",
    8: "instruct-pix2pix",
    9: "inpainting",
}
_IMAGE_ENCODERS: Mapping[int, str] = {
    1024: "OpenAI ViT-L/14",
    1280: "OpenCLIP ViT-H/14 (SD1.5 adapters, and SDXL's vit-h ones)",
    1664: "OpenCLIP ViT-bigG/14 (SDXL adapters, and SD1.5's vit-G)",
}
_TEXT_ENCODERS: Mapping[int, str] = {
    768: "OpenAI ViT-L/14 (SD1.5, SDXL's first)",
    1024: "OpenCLIP ViT-H/14 (SD2)",
    1280: "OpenCLIP ViT-bigG/14 (SDXL's second)",
}


def facts(family: str, checkpoint: Checkpoint) -> Facts:
    """What is known of a checkpoint of this family."""
    describe = _DESCRIBERS.get(family)
    return describe(checkpoint) if describe else Facts()


def _width(checkpoint: Checkpoint, ending: str, axis: int) -> int:
    """One dimension of the first tensor whose name ends so; 0 if there is none."""
    shapes = (t.shape for name, t in checkpoint.items() if name.endswith(ending))
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
    width = _width(checkpoint, "class_embedding", 0)
    return Facts(variant=_IMAGE_ENCODERS.get(width, f"width {width}"))


def _text(checkpoint: Checkpoint) -> Facts:
    width = _width(checkpoint, "token_embedding.weight", 1)
    return Facts(variant=_TEXT_ENCODERS.get(width, f"width {width}"))


_DESCRIBERS: Mapping[str, Callable[[Checkpoint], Facts]] = {
    unet.TITLE: _unet,
    vae.TITLE: _vae,
    clip_vision.TITLE: _vision,
    clip_text.TITLE: _text,
    ip_adapter.TITLE: adapter_facts,
}
