"""IP-Adapters on MLX: a projector, keys and values at every site, and who owns them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ipa.backend.protocol import Identity, ImageTokens, LoadedAdapter
from ipa.errors import RequestError
from ipa.model.adapter import AdapterSpec
from ipa.model.adapter_kinds import identified
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.model.ignoring import Contents, Ignore
from ipa.model.left_out import LeftOut
from ipa.model.quantization import Quantization
from ipa.model.sites import Site
from ipa.sources.encoders import (
    EncoderFiles,
    find_encoder,
    fingerprint,
    left_out_of,
    loaded_adapter,
)
from ipa_convert import read_adapter, read_component

from .networks.attention import CrossAttention
from .networks.clip import VisionEncoder
from .networks.context import KeyValue
from .networks.low_rank import SiteChanges, site_changes
from .networks.projectors import PROJECTORS
from .networks.weights import arrays, fill, place


@dataclass(frozen=True)
class ImageAdapter:
    """The weights of one adapter, beside a base model that it never changes.

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
        """Build an adapter from converted tensors, which were checked against the sites."""
        projector = PROJECTORS[spec.projector](spec)
        parts: dict[str, dict[str, mx.array]] = {"projector": {}, "sites": {}, "lora": {}}
        for name, array in weights:
            part, _, rest = name.partition(".")
            parts[part][rest] = array
        fill(projector, parts["projector"].items(), where)
        return cls(spec, projector, parts["sites"], parts["lora"])

    @property
    def nbytes(self) -> int:
        """The bytes of the adapter's own weights, without the encoder."""
        parameters = (array for _, array in tree_flatten(self.projector.parameters()))
        return sum(a.nbytes for a in (*parameters, *self.projections.values(), *self.lora.values()))

    def features(self, encoder: VisionEncoder, pixels: mx.array) -> tuple[mx.array, mx.array]:
        """Encode normalised pixels (N, S, S, 3) to features; see `Backend.encode_images`."""
        if self.spec.feature == "embedding":
            features = encoder.embedding(pixels)
            return features, mx.zeros_like(features[:1])
        features = encoder.states(mx.concatenate([pixels, mx.zeros_like(pixels[:1])]))
        return features[:-1], features[-1:]

    def tokens(
        self, conditional: mx.array, unconditional: mx.array, identity: Identity | None = None
    ) -> ImageTokens:
        """Project features of N pictures and 1 or N unconditional rows: (1, N·T, D)."""
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
        """Keys and values of every site, from tokens (R, T, D)."""
        return tuple(
            attention.split(
                self._project(tokens, f"{site.path}.to_k"),
                self._project(tokens, f"{site.path}.to_v"),
            )
            for site, attention in zip(sites, attentions, strict=True)
        )

    def _project(self, tokens: mx.array, path: str) -> mx.array:
        """Multiply tokens by one of the matrices, which are never quantised."""
        return tokens @ self.projections[f"{path}.weight"].T


@dataclass(frozen=True)
class _Attached:
    adapter: ImageAdapter
    encoder: EncoderFiles | None


@dataclass
class Adapters:
    """The loaded adapters by name; `encoders` by their folders, each loaded once."""

    model: ModelFolder
    precision: mx.Dtype
    quantization: Quantization | None
    encoders: dict[Path, VisionEncoder] = field(default_factory=dict)
    _contents: dict[Path, Contents] = field(default_factory=dict)
    _attached: dict[str, _Attached] = field(default_factory=dict)

    def load(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """See `Backend.load_adapter`."""
        where = files.weights.name
        spec, converted = read_adapter(
            files.weights, self.model.sites, self.model.unet.context_width, ignore=files.ignore
        )
        spec = identified(spec, files.kind, where)
        encoder = find_encoder(spec, files, self.model)
        adapter = ImageAdapter.build(spec, arrays(converted, self.precision), where)
        contents, found = [converted.contents()], None
        if encoder is not None:
            found, of_encoder = self._encoder(encoder, files.ignore)
            contents.append(of_encoder)
        files.ignore.check_all(where, *contents)
        if encoder is not None and found is not None:
            self.encoders[encoder.folder], self._contents[encoder.folder] = found, contents[1]
        self._attached[name] = _Attached(adapter, encoder)
        left_out = LeftOut.of(where, left_out_of(files.ignore, *contents))
        sha256 = _fingerprint(found) if found else ""
        return loaded_adapter(spec, encoder, sha256, adapter.nbytes, left_out)

    def unload(self, name: str) -> None:
        """See `Backend.unload_adapter`."""
        del self._attached[name]
        used = {a.encoder.folder for a in self._attached.values() if a.encoder}
        self.encoders = {k: v for k, v in self.encoders.items() if k in used}

    def frozen(self) -> Adapters:
        """See `Backend.frozen`."""
        return replace(self, encoders=dict(self.encoders), _attached=dict(self._attached))

    def __getitem__(self, name: str) -> ImageAdapter:
        return self._attached[name].adapter

    def __iter__(self) -> Iterator[ImageAdapter]:
        return (attached.adapter for attached in self._attached.values())

    def encoder(self, name: str) -> VisionEncoder:
        """An adapter's image encoder. Raises RequestError if it has none."""
        files = self._attached[name].encoder
        if files is None:
            raise RequestError(f"{name} has no image encoder", remedy="it takes faces alone")
        return self.encoders[files.folder]

    def changes(self, lora_scales: Mapping[str, float]) -> tuple[SiteChanges, ...]:
        """The LoRA changes of all attentions by adapters at these strengths."""
        return site_changes(self._loras(lora_scales), self.model.sites)

    def _loras(
        self, lora_scales: Mapping[str, float]
    ) -> Iterator[tuple[Mapping[str, mx.array], float]]:
        for name, scale in lora_scales.items():
            yield self[name].lora, scale

    def _encoder(self, files: EncoderFiles, ignore: Ignore) -> tuple[VisionEncoder, Contents]:
        """An encoder, loaded unless it is already, and the names in its files."""
        if files.folder in self.encoders:
            return self.encoders[files.folder], self._contents[files.folder]
        converted = read_component(
            "image_encoder", files.folder, files.spec, variant=files.variant, ignore=ignore
        )
        encoder = VisionEncoder(files.spec)
        place(encoder, converted, self.precision, str(files.folder), self.quantization)
        return encoder, converted.contents()


def _fingerprint(encoder: VisionEncoder) -> str:
    last = [layer.feed_forward.proj_out.bias for layer in encoder.layers]
    weights = [encoder.class_embedding, encoder.position_embedding.weight, *last]
    return fingerprint(np.array(array.astype(mx.float32)) for array in weights)
