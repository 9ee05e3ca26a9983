"""The adapters beside a model, and the image encoders that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPVisionModelWithProjection

from ipa.contract.adapter_kinds import identified
from ipa.contract.backend import LoadedAdapter
from ipa.contract.errors import RequestError
from ipa.contract.model import AdapterFiles, ModelFolder
from ipa.prepare.encoders import EncoderFiles, find_encoder, fingerprint, loaded_adapter

from .adapter import ImageAdapter, check_file
from .adapter_file import open_adapter
from .loading import load_component, load_encoder_file
from .low_rank import SiteChanges, site_changes


@dataclass(frozen=True)
class _Attached:
    adapter: ImageAdapter
    encoder: EncoderFiles | None


@dataclass
class Adapters:
    """By name; `encoders` by their folders, each loaded once."""

    model: ModelFolder
    unet: UNet2DConditionModel
    encoders: dict[Path, torch.nn.Module] = field(default_factory=dict)
    _attached: dict[str, _Attached] = field(default_factory=dict)

    def load(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """See `Backend.load_adapter`."""
        where, width = files.weights.name, self.model.unet.context_width
        file = open_adapter(files.weights, self.model.sites, files.ignore)
        found = check_file(file, self.model.sites, width)
        spec = identified(found, files.kind, where)
        encoder = find_encoder(spec, files, self.model)
        adapter = ImageAdapter.read(file, self.unet, self.model.sites, spec)
        if encoder is not None and encoder.folder not in self.encoders:
            self.encoders[encoder.folder] = self._load_encoder(encoder)
        self._attached[name] = _Attached(adapter, encoder)
        told = _fingerprint(self.encoders[encoder.folder]) if encoder else ""
        return loaded_adapter(spec, encoder, told, adapter.nbytes, file.left_out)

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

    def encoder(self, name: str) -> torch.nn.Module:
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
    ) -> Iterator[tuple[Mapping[str, torch.Tensor], float]]:
        for name, scale in lora_scales.items():
            yield self[name].lora, scale

    def _load_encoder(self, files: EncoderFiles) -> torch.nn.Module:
        kind, dtype = CLIPVisionModelWithProjection, self.unet.dtype
        if files.folder.is_file():
            encoder = load_encoder_file(files.folder, files.config, dtype)
        else:
            encoder = load_component(kind, "image_encoder", files.folder, dtype, files.variant)
        return encoder.to(self.unet.device)


def _fingerprint(encoder: Any) -> str:
    model = encoder.vision_model
    weights = [model.embeddings.class_embedding, model.embeddings.position_embedding.weight]
    weights += [layer.mlp.fc2.bias for layer in model.encoder.layers]
    return fingerprint(tensor.float().cpu().numpy() for tensor in weights)
