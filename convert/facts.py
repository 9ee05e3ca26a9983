"""What can be told of a checkpoint beyond its family, from the shapes of its tensors.

Widths of public models: formats of Stable Diffusion 1.x, 2.x and XL, and of the encoders of
h94/IP-Adapter. What shapes cannot tell (plus or plus-face, a VAE's base) is said to be open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ipa.contract.adapter import AdapterSpec
from ipa.contract.errors import CheckpointError

from . import clip_text, clip_vision, ip_adapter, unet, vae
from .checkpoint import Checkpoint

_BASES: Mapping[int, str] = {768: "SD1.5", 1024: "SD2", 1280: "SDXL refiner", 2048: "SDXL"}
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
_FACE_WIDTH = 512  # of an ArcFace embedding

# Adapters that are recognised but not supported: a key that only they have.
_FACE_ADAPTERS = (
    ("image_proj.perceiver_resampler.proj_in.weight", "FaceID-Plus (v1 or v2)"),
    ("ip_adapter.0.to_q_lora.down.weight", "FaceID"),
    ("image_proj.norm.weight", "FaceID-Portrait"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Words for a person; empty where there is nothing to say."""

    variant: str = ""
    base: str = ""
    encoder: str = ""
    remarks: tuple[str, ...] = ()


def facts(family: str, checkpoint: Checkpoint) -> Facts:
    """What is known of a checkpoint of this family."""
    describe = _DESCRIBERS.get(family)
    return describe(checkpoint) if describe else Facts()


def _base(width: int) -> str:
    return _BASES.get(width, f"context width {width}")


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
        base=_base(_width(checkpoint, ".attn2.to_k.weight", 1)),
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


def _adapter(checkpoint: Checkpoint) -> Facts:
    shapes = ip_adapter.canonical_shapes(checkpoint)
    sites = [s for name, s in shapes.items() if name.endswith(".to_k_ip.weight") and len(s) == 2]
    base = _base(sites[0][1]) if sites else ""
    count = f"{len(sites)} cross-attention sites"
    try:
        spec = ip_adapter.detect(checkpoint)
    except CheckpointError as error:
        variant = next((name for key, name in _FACE_ADAPTERS if key in shapes), "unknown")
        return Facts(variant=variant, base=base, remarks=(count, f"not supported: {error.found}"))
    return Facts(
        variant=_adapter_variant(spec),
        base=base,
        encoder=spec.encoder_needed,
        remarks=(count, *_adapter_remarks(spec)),
    )


def _adapter_variant(spec: AdapterSpec) -> str:
    """The public names that files of this structure have."""
    match spec.projector:
        case "linear":
            names = {(768, 1024): "base or light", (768, 1280): "vit-G"}
            return f"linear ({names.get((spec.context_width, spec.feature_width), 'base')})"
        case "mlp":
            return "mlp (full-face)"
        case "resampler" if spec.feature_width == _FACE_WIDTH:
            return "resampler (FaceID-Portrait unnorm or InstantID)"
        case "resampler":
            return "resampler (plus, plus-face or composition)"


def _adapter_remarks(spec: AdapterSpec) -> tuple[str, ...]:
    if spec.feature == "states" and spec.feature_width == _FACE_WIDTH:
        return ("not supported: it takes a face embedding, not an image encoder's states",)
    return (f"{spec.tokens or 'one per patch'} tokens per picture",)


_DESCRIBERS: Mapping[str, Callable[[Checkpoint], Facts]] = {
    unet.TITLE: _unet,
    vae.TITLE: _vae,
    clip_vision.TITLE: _vision,
    clip_text.TITLE: _text,
    ip_adapter.TITLE: _adapter,
}
