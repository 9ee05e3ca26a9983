"""What an IP-Adapter file is, told from the shapes of its tensors and never from its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import CheckpointError
from .sites import Site
from .specs import ClipVisionSpec

Shapes = Mapping[str, tuple[int, ...]]
Projector = Literal["linear", "resampler", "mlp"]
Feature = Literal["embedding", "states"]

HEAD_WIDTH = 64  # of every released resampler (ip_adapter/resampler.py, dim_head)
_LINEAR_TOKENS = 4  # not stored in the file: ip_adapter.py, clip_extra_context_tokens

# Widths of the public encoders' outputs, for messages that name them.
_ENCODERS: Mapping[tuple[Feature, int], str] = {
    ("embedding", 1024): "OpenCLIP ViT-H/14 (h94/IP-Adapter models/image_encoder)",
    ("embedding", 1280): "OpenCLIP ViT-bigG/14 (h94/IP-Adapter sdxl_models/image_encoder)",
    ("states", 1280): "OpenCLIP ViT-H/14 (h94/IP-Adapter models/image_encoder)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSpec:
    """One adapter's structure.

    Attributes:
        projector: "linear" (base, light, vit-G), "resampler" (plus, plus-face), "mlp" (full-face).
        feature: What of the image encoder feeds it: the pooled, projected "embedding", or the
            hidden "states" that enter the encoder's last layer.
        feature_width: Width of that feature.
        tokens: Image tokens per picture. For "mlp" it is one per hidden state, so 0 here.
        context_width: Width of a token: the UNet's cross_attention_dim.
        width: Inner width of the projector (resampler, mlp).
        layers: Depth of the resampler.
        heads: Attention heads of the resampler.
    """

    projector: Projector
    feature: Feature
    feature_width: int
    tokens: int
    context_width: int
    width: int = 0
    layers: int = 0
    heads: int = 0

    @property
    def encoder_needed(self) -> str:
        """The encoder that fits, in words."""
        known = _ENCODERS.get((self.feature, self.feature_width))
        kind = "projection_dim" if self.feature == "embedding" else "hidden_size"
        return known or f"a CLIP vision model with {kind} {self.feature_width}"

    @classmethod
    def from_shapes(cls, shapes: Shapes, where: str) -> AdapterSpec:
        """Detect the variant from `image_proj.*` and `ip_adapter.*` keys.

        Raises:
            CheckpointError: The file is no IP-Adapter, or of a kind that is not implemented.
        """
        projector = {
            k.removeprefix("image_proj."): s
            for k, s in shapes.items()
            if k.startswith("image_proj.")
        }
        keys = [k for k in shapes if k.startswith("ip_adapter.")]
        if not projector or not keys:
            raise CheckpointError(
                f"{where} is not an IP-Adapter file",
                found=f"tensors such as {', '.join(sorted(shapes)[:3]) or 'none'}",
                remedy="both image_proj.* and ip_adapter.* tensors are needed",
            )
        key_value = [shapes[k] for k in keys if k.endswith((".to_k_ip.weight", ".to_v_ip.weight"))]
        widths = {s[1] for s in key_value if len(s) == 2}
        if len(widths) != 1:
            raise CheckpointError(
                f"{where}: to_k_ip and to_v_ip must share one context width",
                found=str(sorted(widths)),
            )
        return _from_projector(projector, widths.pop(), where)

    def check_unet(self, shapes: Shapes, sites: tuple[Site, ...], where: str) -> None:
        """Raise CheckpointError unless K and V have one pair per site, of that site's width."""
        for site in sites:
            for letter in "kv":
                key = f"ip_adapter.{site.number}.to_{letter}_ip.weight"
                found = shapes.get(key)
                if found == (site.width, self.context_width):
                    continue
                raise CheckpointError(
                    f"{where} was made for another base model: {key} does not fit {site.path}",
                    found=f"{'no such tensor' if found is None else found}, "
                    f"needed ({site.width}, {self.context_width})",
                    remedy="use the adapter made for this base (context width 768 for SD1.5, "
                    "2048 for SDXL)",
                )
        spare = sum(k.endswith(".to_k_ip.weight") for k in shapes) - len(sites)
        if spare:
            raise CheckpointError(
                f"{where} was made for another base model",
                found=f"{len(sites) + spare} cross-attention sites, the model has {len(sites)}",
                remedy="use the adapter made for this base",
            )

    def check_context(self, context_width: int, where: str) -> None:
        """Raise CheckpointError unless the adapter's tokens fit the UNet's context."""
        if self.context_width != context_width:
            raise CheckpointError(
                f"{where} was made for another base model",
                found=f"context width {self.context_width}, the model's is {context_width}",
                remedy="use the adapter made for this base (SD1.5: 768, SD2: 1024, SDXL: 2048)",
            )

    def fits_encoder(self, encoder: ClipVisionSpec) -> bool:
        """Whether an encoder gives features of the width that the projector takes."""
        given = encoder.projection if self.feature == "embedding" else encoder.width
        return given == self.feature_width

    def check_encoder(self, encoder: ClipVisionSpec, where: str) -> None:
        """Raise CheckpointError unless the encoder fits."""
        if not self.fits_encoder(encoder):
            raise CheckpointError(
                f"{where}: the image encoder does not fit this {self.projector} adapter",
                found=f"an encoder with hidden_size {encoder.width} and projection_dim "
                f"{encoder.projection}; needed: {self.feature} of width {self.feature_width}",
                remedy=f"use {self.encoder_needed}, with image_encoder_folder=",
            )


def _linear(shapes: Shapes, context_width: int, where: str) -> AdapterSpec:
    rows, feature_width = _matrix(shapes, "proj.weight", where)
    if rows % context_width:
        raise CheckpointError(
            f"{where}: image_proj.proj.weight has {rows} rows",
            found=f"no multiple of the context width {context_width}",
        )
    return AdapterSpec(
        projector="linear",
        feature="embedding",
        feature_width=feature_width,
        tokens=rows // context_width,
        context_width=context_width,
    )


def _mlp(shapes: Shapes, context_width: int, where: str) -> AdapterSpec:
    width, feature_width = _matrix(shapes, "proj.0.weight", where)
    return AdapterSpec(
        projector="mlp",
        feature="states",
        feature_width=feature_width,
        tokens=0,
        context_width=context_width,
        width=width,
    )


def _resampler(shapes: Shapes, context_width: int, where: str) -> AdapterSpec:
    latents = shapes["latents"]
    if len(latents) != 3:
        raise CheckpointError(f"{where}: image_proj.latents must be (1, T, C)", found=str(latents))
    numbers = {key.split(".")[1] for key in shapes if key.startswith("layers.")}
    return AdapterSpec(
        projector="resampler",
        feature="states",
        feature_width=_matrix(shapes, "proj_in.weight", where)[1],
        tokens=latents[1],
        context_width=context_width,
        width=latents[2],
        layers=len(numbers),
        heads=_matrix(shapes, "layers.0.0.to_q.weight", where)[0] // HEAD_WIDTH,
    )


# The tensor that only this kind of projector has, and how to read the rest.
_PROJECTORS = {"proj.weight": _linear, "proj.3.weight": _mlp, "latents": _resampler}


def _from_projector(shapes: Shapes, context_width: int, where: str) -> AdapterSpec:
    for key, read in _PROJECTORS.items():
        if key in shapes:
            return read(shapes, context_width, where)
    raise CheckpointError(
        f"{where}: this kind of IP-Adapter is not supported",
        found=f"image_proj tensors {', '.join(sorted(shapes)[:4])}",
        remedy="supported: base, light, vit-G; plus, plus-face; full-face",
    )


def _matrix(shapes: Shapes, key: str, where: str) -> tuple[int, int]:
    shape = shapes.get(key, ())
    if len(shape) != 2:
        raise CheckpointError(f"{where}: image_proj.{key} must be a matrix", found=f"shape {shape}")
    return shape[0], shape[1]
