"""An IP-Adapter as a function: image features to tokens, tokens to keys and values per site."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ipa.contract.adapter import AdapterSpec
from ipa.contract.backend import Identity, ImageTokens
from ipa.contract.sites import Site

from .attention import CrossAttention
from .clip import VisionEncoder
from .conditioning import KeyValue
from .loading import fill
from .projectors import PROJECTORS


@dataclass(frozen=True)
class ImageAdapter:
    """Weights of one adapter, next to a base model that it never changes.

    `projections` maps "<site path>.to_k.weight" and "….to_v.weight" to matrices (C, D); `lora` has
    FaceID's matrices, "<attention path>.to_q.down.weight" and so on.
    """

    spec: AdapterSpec
    projector: nn.Module
    projections: dict[str, mx.array]
    lora: dict[str, mx.array]

    @classmethod
    def build(
        cls, spec: AdapterSpec, weights: Iterable[tuple[str, mx.array]], where: str
    ) -> ImageAdapter:
        """From converted tensors; the converters have checked them against the sites."""
        projector = PROJECTORS[spec.projector](spec)
        parts: dict[str, dict[str, mx.array]] = {"projector": {}, "sites": {}, "lora": {}}
        for name, array in weights:
            part, _, rest = name.partition(".")
            parts[part][rest] = array
        fill(projector, parts["projector"].items(), where)
        return cls(spec, projector, parts["sites"], parts["lora"])

    @property
    def nbytes(self) -> int:
        """Bytes of the adapter's own weights, without the encoder."""
        own = (array for _, array in tree_flatten(self.projector.parameters()))
        return sum(a.nbytes for a in (*own, *self.projections.values(), *self.lora.values()))

    def features(self, encoder: VisionEncoder, pixels: mx.array) -> tuple[mx.array, mx.array]:
        """Normalised pixels (N, S, S, 3) to features; see `Backend.encode_images`."""
        if self.spec.feature == "embedding":
            features = encoder.embedding(pixels)
            return features, mx.zeros_like(features[:1])
        features = encoder.states(mx.concatenate([pixels, mx.zeros_like(pixels[:1])]))
        return features[:-1], features[-1:]

    def tokens(
        self, conditional: mx.array, unconditional: mx.array, identity: Identity | None = None
    ) -> ImageTokens:
        """Features of N pictures, and 1 or N rows without, to tokens joined: (1, N·T, D)."""
        count, features = conditional.shape[0], mx.concatenate([conditional, unconditional])
        if identity is None:
            projected = self.projector(features)
        else:
            faces = np.concatenate([identity.conditional, identity.unconditional])
            faces = mx.array(faces).astype(features.dtype)
            projected = self.projector(features, faces, identity.shortcut_scale)
        nothing = projected[count:]
        if nothing.shape[0] != count:
            nothing = mx.tile(nothing, (count, 1, 1))
        return ImageTokens(
            *(rows.reshape(1, -1, rows.shape[-1]) for rows in (projected[:count], nothing))
        )

    def keys_values(
        self, tokens: mx.array, sites: Sequence[Site], attentions: Sequence[CrossAttention]
    ) -> tuple[KeyValue, ...]:
        """Tokens (R, T, D) to keys and values of every site."""
        return tuple(
            attention.split(
                self._project(tokens, f"{site.path}.to_k"),
                self._project(tokens, f"{site.path}.to_v"),
            )
            for site, attention in zip(sites, attentions, strict=True)
        )

    def _project(self, tokens: mx.array, path: str) -> mx.array:
        """Tokens by one of the matrices, which are never quantised."""
        return tokens @ self.projections[f"{path}.weight"].T
