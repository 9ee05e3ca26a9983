"""The adapters beside a model, and the image encoders that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from ipa.contract.adapter_kinds import identified
from ipa.contract.backend import LoadedAdapter
from ipa.contract.errors import RequestError
from ipa.contract.left_out import LeftOut
from ipa.contract.model import AdapterFiles, ModelFolder
from ipa.contract.quantization import Quantization
from ipa.prepare.encoders import EncoderFiles, find_encoder, fingerprint, loaded_adapter
from ipa_convert import read_adapter, read_component

from .adapter import ImageAdapter
from .clip import VisionEncoder
from .loading import arrays, place
from .low_rank import SiteChanges, site_changes


@dataclass(frozen=True)
class _Attached:
    adapter: ImageAdapter
    encoder: EncoderFiles | None


@dataclass
class Adapters:
    """By name; `encoders` by their folders, each loaded once."""

    model: ModelFolder
    precision: mx.Dtype
    quantization: Quantization | None
    encoders: dict[Path, VisionEncoder] = field(default_factory=dict)
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
        if encoder is not None and encoder.folder not in self.encoders:
            self.encoders[encoder.folder] = self._load_encoder(encoder)
        self._attached[name] = _Attached(adapter, encoder)
        told = _fingerprint(self.encoders[encoder.folder]) if encoder else ""
        left_out = LeftOut.of(where, converted.dropped)
        return loaded_adapter(spec, encoder, told, adapter.nbytes, left_out)

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
        """What the LoRA of adapters, at these strengths, change of every attention."""
        return site_changes(self._loras(lora_scales), self.model.sites)

    def _loras(
        self, lora_scales: Mapping[str, float]
    ) -> Iterator[tuple[Mapping[str, mx.array], float]]:
        for name, scale in lora_scales.items():
            yield self[name].lora, scale

    def _load_encoder(self, files: EncoderFiles) -> VisionEncoder:
        converted = read_component("image_encoder", files.folder, files.spec, variant=files.variant)
        encoder = VisionEncoder(files.spec)
        place(encoder, converted, self.precision, str(files.folder), self.quantization)
        return encoder


def _fingerprint(encoder: VisionEncoder) -> str:
    last = [layer.feed_forward.proj_out.bias for layer in encoder.layers]
    weights = [encoder.class_embedding, encoder.position_embedding.weight, *last]
    return fingerprint(np.array(array.astype(mx.float32)) for array in weights)
