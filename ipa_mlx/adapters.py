"""IP-Adapters on MLX: a projector, keys and values at every site, and who owns them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ipa.backend.protocol import Identity, ImageTokens, LoadedAdapter
from ipa.backend.residency import encoder_part
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
from .networks.weights import fill
from .residency import Resident, Source, read_all, resident


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
class _Encoder:
    """An image encoder, the name of its folder or file, and the names in its files."""

    network: Resident[VisionEncoder]
    name: str
    contents: Contents


@dataclass(frozen=True)
class _Attached:
    adapter: Resident[ImageAdapter]
    encoder: Path | None


@dataclass
class Adapters:
    """The loaded adapters by name, and their encoders by folder, each loaded once.

    With `lazy`, weights are read when they are first used.
    """

    model: ModelFolder
    precision: mx.Dtype
    quantization: Quantization | None
    lazy: bool = False
    _encoders: dict[Path, _Encoder] = field(default_factory=dict)
    _attached: dict[str, _Attached] = field(default_factory=dict)

    def load(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """See `Backend.load_adapter`."""
        where = files.weights.name
        spec, converted = read_adapter(
            files.weights, self.model.sites, self.model.unet.context_width, ignore=files.ignore
        )
        spec = identified(spec, files.kind, where)
        encoder = find_encoder(spec, files, self.model)
        source = Source.of(converted, self.precision, where)
        adapter = Resident(source, lambda: ImageAdapter.build(spec, source.arrays(), where))
        contents, found = [converted.contents()], None
        if encoder is not None:
            found = self._encoder(encoder, files.ignore)
            contents.append(found.contents)
        files.ignore.check_all(where, *contents)
        if not self.lazy:
            read_all([adapter] if found is None else [adapter, found.network])
        sha256, place = "", None
        if encoder is not None and found is not None:
            sha256, place = _fingerprint(found.network.source, encoder), _place(encoder)
            self._encoders[place] = found
        self._attached[name] = _Attached(adapter, place)
        left_out = LeftOut.of(where, left_out_of(files.ignore, *contents))
        return loaded_adapter(spec, encoder, sha256, adapter.measured.nbytes, left_out)

    def unload(self, name: str) -> None:
        """See `Backend.unload_adapter`."""
        del self._attached[name]
        used = {attached.encoder for attached in self._attached.values()}
        self._encoders = {k: v for k, v in self._encoders.items() if k in used}

    def frozen(self) -> Adapters:
        """See `Backend.frozen`."""
        return replace(self, _encoders=dict(self._encoders), _attached=dict(self._attached))

    def __getitem__(self, name: str) -> ImageAdapter:
        return self._attached[name].adapter.get()

    def residents(self) -> Iterator[tuple[str, Resident[ImageAdapter]]]:
        """The adapters by name, in memory or not."""
        yield from ((name, attached.adapter) for name, attached in self._attached.items())

    def encoders(self) -> Iterator[tuple[str, Resident[VisionEncoder]]]:
        """The image encoders by the names of their folders, in memory or not.

        In the order of the adapters that use them (`ipa.backend.residency`).
        """
        places = dict.fromkeys(a.encoder for a in self._attached.values() if a.encoder)
        yield from ((self._encoders[p].name, self._encoders[p].network) for p in places)

    def seen_by(self) -> dict[str, str]:
        """See `Residency.encoders`."""
        places = {name: a.encoder for name, a in self._attached.items() if a.encoder}
        ranks = list(dict.fromkeys(places.values()))
        return {name: encoder_part(ranks.index(place)) for name, place in places.items()}

    def encoder(self, name: str) -> VisionEncoder:
        """An adapter's image encoder. Raises RequestError if it has none."""
        place = self._attached[name].encoder
        if place is None:
            raise RequestError(f"{name} has no image encoder", remedy="it takes faces alone")
        return self._encoders[place].network.get()

    def changes(self, lora_scales: Mapping[str, float]) -> tuple[SiteChanges, ...]:
        """The LoRA changes of all attentions by adapters at these strengths."""
        return site_changes(self._loras(lora_scales), self.model.sites)

    def _loras(
        self, lora_scales: Mapping[str, float]
    ) -> Iterator[tuple[Mapping[str, mx.array], float]]:
        for name, scale in lora_scales.items():
            yield self[name].lora, scale

    def _encoder(self, files: EncoderFiles, ignore: Ignore) -> _Encoder:
        """An encoder: the one that is here already, if it is."""
        if _place(files) in self._encoders:
            return self._encoders[_place(files)]
        converted = read_component(
            "image_encoder", files.folder, files.spec, variant=files.variant, ignore=ignore
        )
        source = Source.of(converted, self.precision, str(files.folder), self.quantization)
        network = resident(source, lambda: VisionEncoder(files.spec))
        return _Encoder(network, files.folder.name, converted.contents())


def _place(files: EncoderFiles) -> Path:
    """Where an encoder lies, however its path is spelled."""
    return files.folder.resolve()


def _fingerprint(source: Source, files: EncoderFiles) -> str:
    last = [f"layers.{n}.feed_forward.proj_out.bias" for n in range(files.spec.layers)]
    names = ["class_embedding", "position_embedding.weight", *last]
    found = dict(source.arrays(names))
    return fingerprint(np.array(found[name].astype(mx.float32)) for name in names)
