"""IP-Adapters in the reference: a projector, keys and values at every site, and who owns them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from transformers import CLIPVisionModelWithProjection

from ipa.arrays import Floats
from ipa.backend.protocol import Identity, ImageTokens, LoadedAdapter
from ipa.backend.residency import encoder_part
from ipa.errors import CheckpointError, RequestError
from ipa.model.adapter import AdapterSpec, Shapes
from ipa.model.adapter_kinds import identified
from ipa.model.adapter_shapes import detect_adapter
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.model.ignoring import REMEDY, Contents, Ignore
from ipa.model.left_out import LeftOut
from ipa.model.sites import Site
from ipa.sources.encoders import (
    EncoderFiles,
    find_encoder,
    fingerprint,
    left_out_of,
    loaded_adapter,
)
from ipa.watching import one_part

from .files.adapter_file import AdapterFile, open_adapter
from .files.weights import MALFORMED, Account, load_component, load_encoder_file, quiet, reason
from .networks.attention import keys_values
from .networks.context import KeyValue
from .networks.low_rank import PARTS, SiteChanges, site_changes
from .report import network_bytes

_ASSUMED = {  # by diffusers' loaders
    "linear": ("tokens", 4),
    "resampler": ("layers", 4),
    "faceid_plus": ("layers", 4),
}


@dataclass(frozen=True)
class ImageAdapter:
    """The weights of one adapter, beside a base model that it never changes.

    `projections` has (to_k, to_v), each (C, D), for every site in the order of site numbers; `lora`
    has FaceID's matrices by their names in the file, less "ip_adapter.".
    """

    spec: AdapterSpec
    projector: torch.nn.Module
    projections: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    lora: Mapping[str, torch.Tensor]

    @classmethod
    def read(
        cls, file: AdapterFile, unet: UNet2DConditionModel, sites: Sequence[Site], spec: AdapterSpec
    ) -> ImageAdapter:
        """Read an original file, names checked. Raises CheckpointError if it is damaged."""
        parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        device, dtype = unet.device, unet.dtype  # each time it is asked, diffusers walks all layers
        for key, tensor in file.tensors(dtype).items():
            part, _, rest = key.partition(".")
            parts[part][rest] = tensor.to(device)
        try:
            with quiet():
                # Without low_cpu_mem_usage: with it, missing and spare tensors pass unnoticed.
                projector = unet._convert_ip_adapter_image_proj_to_diffusers(
                    parts["image_proj"], low_cpu_mem_usage=False
                )
                processors: Any = unet._convert_ip_adapter_attn_to_diffusers([parts])
        except MALFORMED as error:
            raise CheckpointError(
                f"{file.path.name}: its projector cannot be loaded",
                found=reason(error),
                remedy="download the file again",
            ) from error
        found = [processors[f"{site.path}.processor"] for site in sites]
        projections = tuple((p.to_k_ip[0].weight.data, p.to_v_ip[0].weight.data) for p in found)
        projector = projector.to(device, dtype).eval().requires_grad_(requires_grad=False)
        lora = {name: m for name, m in parts["ip_adapter"].items() if "_lora." in name}
        return cls(spec, projector, projections, lora)

    @property
    def nbytes(self) -> int:
        """The bytes of the adapter's own weights, without the encoder."""
        tensors = [*self.projector.parameters(), *(w for pair in self.projections for w in pair)]
        return sum(tensor.nbytes for tensor in (*tensors, *self.lora.values()))

    def features(
        self, encoder: torch.nn.Module, pixels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode normalised pixels (N, 3, S, S) to features; see `Backend.encode_images`."""
        if self.spec.feature == "embedding":
            features = encoder(pixels).image_embeds
            return features, torch.zeros_like(features[:1])
        features = encoder(pixels, output_hidden_states=True).hidden_states[-2]
        grey = torch.zeros_like(pixels[:1])
        return features, encoder(grey, output_hidden_states=True).hidden_states[-2]

    def tokens(
        self,
        conditional: torch.Tensor,
        unconditional: torch.Tensor,
        identity: Identity | None = None,
    ) -> ImageTokens:
        """Project features of N pictures and 1 or N unconditional rows: (1, N·T, D)."""
        if identity is None:
            image, nothing = self._projected(conditional), self._projected(unconditional)
        else:
            scale = identity.shortcut_scale
            image = self._of_faces(conditional, identity.conditional, scale)
            nothing = self._of_faces(unconditional, identity.unconditional, scale)
        repeats = len(image) // len(nothing)
        return ImageTokens(
            image.flatten(0, 1)[None], nothing.repeat(repeats, 1, 1).flatten(0, 1)[None]
        )

    def _projected(self, features: torch.Tensor) -> torch.Tensor:
        """Tokens by the projector; a resampler of identities takes each as a state."""
        if self.spec.projector == "resampler" and features.ndim == 2:
            features = features[:, None]
        return self.projector(features)

    def _of_faces(
        self, states: torch.Tensor, faces: Floats, shortcut_scale: float | None
    ) -> torch.Tensor:
        """FaceID-Plus' tokens: diffusers' module takes states and version as attributes."""
        projector: Any = self.projector
        projector.clip_embeds = states[:, None]
        projector.shortcut = shortcut_scale is not None
        projector.shortcut_scale = shortcut_scale
        try:
            return projector(torch.tensor(faces, device=states.device))
        finally:
            projector.clip_embeds = None

    def keys_values(
        self, tokens: torch.Tensor, attentions: Sequence[Attention]
    ) -> tuple[KeyValue, ...]:
        """Keys and values of every site, from tokens (R, T, D)."""
        return tuple(
            keys_values(tokens, weights, attention.heads)
            for weights, attention in zip(self.projections, attentions, strict=True)
        )


def check_file(file: AdapterFile, sites: Sequence[Site], context_width: int) -> AdapterSpec:
    """Check an adapter's file by its header: whether diffusers can load it into this UNet."""
    shapes, where = file.shapes, file.path.name
    spec = detect_adapter(shapes, where)
    spec.check_context(context_width, where)
    spec.check_unet(shapes, tuple(sites), where)
    _refuse_spare(shapes, spec, sites, where)
    field, needed = _ASSUMED.get(spec.projector, ("", 0))
    if field and getattr(spec, field) != needed:
        raise CheckpointError(
            f"{where}: the reference cannot load this {spec.projector} adapter",
            found=f"{getattr(spec, field)} {field}; diffusers assumes {needed}",
            remedy="use the mlx backend",
        )
    return spec


def _refuse_spare(shapes: Shapes, spec: AdapterSpec, sites: Sequence[Site], where: str) -> None:
    """Refuse tensors beside projector, keys, values and LoRA; torch checks the projector."""
    names = {f"ip_adapter.{site.number}.to_{letter}_ip.weight" for site in sites for letter in "kv"}
    needed = _lora_shapes(spec, sites)
    wrong = sorted(name for name, shape in needed.items() if shapes.get(name) != shape)
    if wrong:
        first = wrong[0]
        raise CheckpointError(
            f"{where}: its LoRA does not fit",
            found=f"{first}: {shapes.get(first, 'no such tensor')}, needed {needed[first]}",
            remedy="download the file again",
        )
    names |= needed.keys()
    spare = sorted(k for k in shapes if k not in names and not k.startswith("image_proj."))
    if spare:
        raise CheckpointError(
            f"{where} has tensors that no supported adapter has",
            found=f"{len(spare)}: {', '.join(spare[:3])}",
            remedy=f"supported: base, light, vit-G; plus, plus-face; full-face; FaceID; {REMEDY}",
        )


def _lora_shapes(spec: AdapterSpec, sites: Sequence[Site]) -> dict[str, tuple[int, ...]]:
    """The shapes of FaceID's LoRA, on all attentions, self-attentions too."""
    shapes: dict[str, tuple[int, ...]] = {}
    for site in sites if spec.lora_rank else ():
        for number, context in ((site.number - 1, site.width), (site.number, spec.context_width)):
            for part in PARTS:
                inputs = context if part in {"to_k", "to_v"} else site.width
                path = f"ip_adapter.{number}.{part}_lora"
                shapes[f"{path}.down.weight"] = (spec.lora_rank, inputs)
                shapes[f"{path}.up.weight"] = (site.width, spec.lora_rank)
    return shapes


@dataclass(frozen=True)
class _Attached:
    adapter: ImageAdapter
    encoder: EncoderFiles | None


@dataclass
class Adapters:
    """The loaded adapters by name; `encoders` by their folders, each loaded once."""

    model: ModelFolder
    unet: UNet2DConditionModel
    encoders: dict[Path, torch.nn.Module] = field(default_factory=dict)
    _contents: dict[Path, Contents] = field(default_factory=dict)
    _attached: dict[str, _Attached] = field(default_factory=dict)

    def load(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """See `Backend.load_adapter`."""
        where, width = files.weights.name, self.model.unet.context_width
        file = open_adapter(files.weights, self.model.sites, files.ignore)
        spec = identified(check_file(file, self.model.sites, width), files.kind, where)
        encoder = find_encoder(spec, files, self.model)
        with one_part():
            adapter = ImageAdapter.read(file, self.unet, self.model.sites, spec)
        contents, found = [file.contents], None
        if encoder is not None:
            with one_part():
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

    def sizes(self) -> dict[str, int]:
        """The bytes of adapters and their encoders, by the names of `ipa.backend.residency`."""
        found = {f"adapter {name}": a.adapter.nbytes for name, a in self._attached.items()}
        for name, part in self.seen_by().items():
            found[part] = network_bytes(self.encoder(name))
        return found

    def seen_by(self) -> dict[str, str]:
        """See `Residency.encoders`."""
        places = {name: a.encoder.folder for name, a in self._attached.items() if a.encoder}
        ranks = list(dict.fromkeys(places.values()))
        return {name: encoder_part(ranks.index(place)) for name, place in places.items()}

    def encoder(self, name: str) -> torch.nn.Module:
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
    ) -> Iterator[tuple[Mapping[str, torch.Tensor], float]]:
        for name, scale in lora_scales.items():
            yield self[name].lora, scale

    def _encoder(self, files: EncoderFiles, ignore: Ignore) -> tuple[torch.nn.Module, Contents]:
        """An encoder, loaded unless it is already, and the names in its files."""
        if files.folder in self.encoders:
            return self.encoders[files.folder], self._contents[files.folder]
        kind, dtype, account = CLIPVisionModelWithProjection, self.unet.dtype, Account(ignore)
        if files.folder.is_file():
            encoder = load_encoder_file(files.folder, files.config, dtype, account)
        else:
            how = (dtype, files.variant, account)
            encoder = load_component(kind, "image_encoder", files.folder, *how)
        contents = Contents(tuple(account.names), tuple(account.gone))
        return encoder.to(self.unet.device), contents


def _fingerprint(encoder: Any) -> str:
    model = encoder.vision_model
    weights = [model.embeddings.class_embedding, model.embeddings.position_embedding.weight]
    weights += [layer.mlp.fc2.bias for layer in model.encoder.layers]
    return fingerprint(tensor.float().cpu().numpy() for tensor in weights)
