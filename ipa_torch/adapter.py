"""An IP-Adapter as a function, its weights read and numbered by diffusers' own code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from ipa.contract.adapter import AdapterSpec, Shapes
from ipa.contract.adapter_shapes import detect_adapter
from ipa.contract.backend import ImageTokens
from ipa.contract.errors import CheckpointError
from ipa.contract.sites import Site

from .attention import keys_values
from .conditioning import KeyValue
from .loading import MALFORMED, quiet, read_shapes, read_tensors, reason

_ASSUMED = {"linear": ("tokens", 4), "resampler": ("layers", 4)}  # by diffusers' loaders


@dataclass(frozen=True)
class ImageAdapter:
    """Weights of one adapter, next to a base model that it never changes.

    `projections` has (to_k, to_v), each (C, D), for every site in the order of site numbers.
    """

    spec: AdapterSpec
    projector: torch.nn.Module
    projections: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    @classmethod
    def read(
        cls, path: Path, unet: UNet2DConditionModel, sites: Sequence[Site], context_width: int
    ) -> ImageAdapter:
        """From an original file. Raises CheckpointError if it does not fit the UNet."""
        spec = check_file(path, sites, context_width)
        parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, tensor in read_tensors(path, unet.dtype).items():
            part, _, rest = key.partition(".")
            parts[part][rest] = tensor.to(unet.device)
        try:
            with quiet():
                # Without low_cpu_mem_usage: with it, missing and spare tensors pass unnoticed.
                projector = unet._convert_ip_adapter_image_proj_to_diffusers(
                    parts["image_proj"], low_cpu_mem_usage=False
                )
                processors: Any = unet._convert_ip_adapter_attn_to_diffusers([parts])
        except MALFORMED as error:
            raise CheckpointError(
                f"{path.name}: its projector cannot be loaded",
                found=reason(error),
                remedy="download the file again",
            ) from error
        found = [processors[f"{site.path}.processor"] for site in sites]
        projections = tuple((p.to_k_ip[0].weight.data, p.to_v_ip[0].weight.data) for p in found)
        projector = projector.to(unet.device, unet.dtype).eval().requires_grad_(requires_grad=False)
        return cls(spec, projector, projections)

    @property
    def nbytes(self) -> int:
        """Bytes of the adapter's own weights, without the encoder."""
        own = [*self.projector.parameters(), *(w for pair in self.projections for w in pair)]
        return sum(tensor.nbytes for tensor in own)

    def features(
        self, encoder: torch.nn.Module, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised pixels (N, 3, S, S) to features; see `Backend.encode_images`."""
        if self.spec.feature == "embedding":
            features = encoder(pixels).image_embeds
            return features, torch.zeros_like(features[:1])
        features = encoder(pixels, output_hidden_states=True).hidden_states[-2]
        grey = torch.zeros_like(pixels[:1])
        return features, encoder(grey, output_hidden_states=True).hidden_states[-2]

    def tokens(self, conditional: torch.Tensor, unconditional: torch.Tensor) -> ImageTokens:
        """Features of N pictures, and 1 or N rows without, to tokens joined: (1, N·T, D)."""
        image, nothing = self.projector(conditional), self.projector(unconditional)
        repeats = len(image) // len(nothing)
        return ImageTokens(
            image.flatten(0, 1)[None], nothing.repeat(repeats, 1, 1).flatten(0, 1)[None]
        )

    def keys_values(
        self, tokens: torch.Tensor, attentions: Sequence[Attention]
    ) -> tuple[KeyValue, ...]:
        """Tokens (R, T, D) to keys and values of every site."""
        return tuple(
            keys_values(tokens, weights, attention.heads)
            for weights, attention in zip(self.projections, attentions, strict=True)
        )


def check_file(path: Path, sites: Sequence[Site], context_width: int) -> AdapterSpec:
    """The adapter's kind, from its header alone, if diffusers can load it into this UNet."""
    shapes = read_shapes(path)
    spec = detect_adapter(shapes, path.name)
    spec.check_context(context_width, path.name)
    spec.check_unet(shapes, tuple(sites), path.name)
    _refuse_spare(shapes, spec, sites, path.name)
    field, needed = _ASSUMED.get(spec.projector, ("", 0))
    if field and getattr(spec, field) != needed:
        raise CheckpointError(
            f"{path.name}: the reference cannot load this {spec.projector} adapter",
            found=f"{getattr(spec, field)} {field}; diffusers assumes {needed}",
            remedy="use the mlx backend",
        )
    return spec


def _refuse_spare(shapes: Shapes, spec: AdapterSpec, sites: Sequence[Site], where: str) -> None:
    """What the projector holds is checked by torch; beside it there are keys and values alone.

    FaceID files are refused as a whole, by `find_encoder`.
    """
    if not spec.is_runnable:
        return
    known = {f"ip_adapter.{site.number}.to_{letter}_ip.weight" for site in sites for letter in "kv"}
    spare = sorted(k for k in shapes if k not in known and not k.startswith("image_proj."))
    if spare:
        raise CheckpointError(
            f"{where} has tensors that no supported adapter has",
            found=f"{len(spare)}: {', '.join(spare[:3])}",
            remedy="supported: base, light, vit-G; plus, plus-face; full-face",
        )
