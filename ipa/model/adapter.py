"""An IP-Adapter's structure, and what it fits: base models, image encoders, this version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ipa.errors import CheckpointError

from .clip import ClipVisionSpec
from .sites import Site

Shapes = Mapping[str, tuple[int, ...]]
Projector = Literal["linear", "resampler", "mlp", "faceid", "faceid_plus"]
Feature = Literal["embedding", "states", "face"]

HEAD_WIDTH = 64  # of every released resampler (ip_adapter/resampler.py, dim_head)
FACE_WIDTH = 512
"""Width of an ArcFace embedding (insightface)."""

# Widths of the public encoders' outputs, for messages that name them.
_ENCODERS: Mapping[tuple[Feature, int], str] = {
    ("embedding", 1024): "OpenCLIP ViT-H/14 (h94/IP-Adapter models/image_encoder)",
    ("embedding", 1280): "OpenCLIP ViT-bigG/14 (h94/IP-Adapter sdxl_models/image_encoder)",
    ("states", 1280): "OpenCLIP ViT-H/14 (h94/IP-Adapter models/image_encoder)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterSpec:
    """An IP-Adapter's structure.

    Attributes:
        projector: "linear" (base, light, vit-G), "resampler" (plus, plus-face), "mlp" (full-face),
            "faceid" (FaceID, FaceID-Portrait), "faceid_plus" (FaceID-Plus v1 and v2).
        feature: What feeds it: the image encoder's pooled, projected "embedding", the hidden
            "states" that enter the encoder's last layer, or the embedding of a "face".
        feature_width: Width of that feature.
        tokens: Image tokens per picture (or face). For "mlp" it is one per hidden state: 0 here.
        context_width: Width of a token: the UNet's cross_attention_dim.
        width: Inner width of the projector (resampler, mlp, faceid, faceid_plus).
        layers: Depth of the resampler.
        heads: Attention heads of the resampler.
        face_width: Width of the face embedding that goes in; 0 where none does. "faceid_plus"
            takes it beside the states.
        lora_rank: Rank of the low-rank change of every attention that the file brings; 0 without.
        kind: The public name that a person gave it, where shapes cannot tell (`adapter_kinds`).
    """

    projector: Projector
    feature: Feature
    feature_width: int
    tokens: int
    context_width: int
    width: int = 0
    layers: int = 0
    heads: int = 0
    face_width: int = 0
    lora_rank: int = 0
    kind: str = ""

    @property
    def encoder_needed(self) -> str:
        """The encoder that fits, in words."""
        face = f"face embeddings of width {self.face_width} (ArcFace)"
        if self.feature == "face":
            return f"no image encoder, but {face}"
        row = _ENCODERS.get((self.feature, self.feature_width))
        kind = "projection_dim" if self.feature == "embedding" else "hidden_size"
        encoder = row or f"a CLIP vision model with {kind} {self.feature_width}"
        return f"{encoder}, and {face}" if self.face_width else encoder

    @property
    def is_runnable(self) -> bool:
        """Whether this version generates with it; the others are converted and inspected."""
        return self.kind != "instantid"

    @property
    def takes_raw_face(self) -> bool:
        """Whether identities go in as the face network gives them; else they have the length 1."""
        return self.kind == "faceid-portrait-unnorm"

    @property
    def has_shortcut(self) -> bool:
        """Whether the identity's tokens are added to what was seen of the face (FaceID-Plus v2)."""
        return self.kind == "faceid-plusv2"

    @property
    def takes_several_faces(self) -> bool:
        """Whether it was trained on several faces of one person at once: Portrait and its kin."""
        return self.feature == "face" and not self.lora_rank

    def with_kind(self, kind: str) -> AdapterSpec:
        """The same structure with this public name."""
        return replace(self, kind=kind)

    def check_runnable(self, where: str) -> None:
        """Raise CheckpointError unless this version generates with such adapters."""
        if not self.is_runnable:
            raise CheckpointError(
                f"{where}: InstantID's adapter can be converted, but not generated with",
                found="an adapter that works with a ControlNet of its own",
                remedy="use a FaceID adapter",
            )

    def check_unet(self, shapes: Shapes, sites: tuple[Site, ...], where: str) -> None:
        """Raise CheckpointError unless K and V have one pair per site, of that site's width."""
        needed = {
            f"ip_adapter.{site.number}.to_{letter}_ip.weight": site
            for site in sites
            for letter in "kv"
        }
        for key, site in needed.items():
            found, wanted = shapes.get(key), (site.width, self.context_width)
            if found not in {None, wanted}:
                raise CheckpointError(
                    f"{where} was made for another base model: {key} does not fit {site.path}",
                    found=f"{found}, needed {wanted}",
                    remedy="use the adapter made for this base (context width 768 for SD1.5, "
                    "2048 for SDXL)",
                )
        given = [key for key in shapes if key.endswith((".to_k_ip.weight", ".to_v_ip.weight"))]
        spare = [key for key in given if key not in needed]
        if spare:
            raise CheckpointError(
                f"{where} was made for another base model",
                found=f"{len(given)} keys and values of cross-attention sites, the model has "
                f"{len(needed)}; it has none for {spare[0]}",
                remedy="use the adapter made for this base",
            )
        absent = [key for key in needed if key not in shapes]
        if absent:
            raise CheckpointError(
                f"{where} lacks keys or values of {len(absent)} of {len(needed)} places: it is "
                "incomplete, or made for a smaller base model",
                found=f"no {absent[0]}, for {needed[absent[0]].path}",
                remedy="download it again, or use the adapter made for this base",
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
        if self.feature == "face":
            return False
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
