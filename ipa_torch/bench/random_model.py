"""A backend with random weights, of which no file is needed: speed does not depend on values."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ipa.backend.protocol import LoadedAdapter
from ipa.errors import RequestError
from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipVisionSpec
from ipa.model.files import read_json
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.model.left_out import NOTHING
from ipa.model.preprocessor import default_preprocessing
from ipa.sources.encoders import EncoderFiles, loaded_adapter
from ipa_torch.adapters import Adapters, ImageAdapter
from ipa_torch.backend import TorchBackend
from ipa_torch.files.weights import DTYPES, find_device
from ipa_torch.networks.attention import install

_NUMBERS = 1 << 20
_NORM, _BIAS = 0.1, 0.02


def open_random(
    model: ModelFolder, parts: Collection[str], *, dtype: str | None, device: str | None
) -> TorchBackend:
    """A model of random weights; what is not among `parts` has none, and cannot be run.

    Args:
        model: Its structure; its folder has the configs.
        parts: Of "unet", "vae", "text_encoder": those that are wanted.
        dtype: As `ipa_torch.backend.load` takes it.
        device: Likewise.

    Raises:
        BackendError: The device is not there.
        RequestError: The dtype is unknown.
    """
    modules, chosen, place = networks(model, parts, dtype=dtype, device=device)
    attentions = install(modules["unet"], model.sites)
    return TorchBackend(model=model, dtype=chosen, device=place, attentions=attentions, **modules)


def networks(
    model: ModelFolder, parts: Collection[str], *, dtype: str | None, device: str | None
) -> tuple[dict[str, Any], str, str]:
    """The networks of a model as the libraries make them, the precision, and the device."""
    place = find_device(device)
    chosen = dtype or ("float32" if torch.device(place).type == "cpu" else "float16")
    if chosen not in DTYPES:
        raise RequestError("unknown dtype", found=repr(dtype), remedy=f"one of {', '.join(DTYPES)}")
    with torch.device("meta"):
        modules = {
            "unet": UNet2DConditionModel.from_config(_config(model, "unet")),
            "vae": AutoencoderKL.from_config(_config(model, "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**_config(model, "text_encoder"))),
        }
        if model.is_xl:
            config = CLIPTextConfig(**_config(model, "text_encoder_2"))
            modules["text_encoder_2"] = CLIPTextModelWithProjection(config)
    for name, module in modules.items():
        if name.removesuffix("_2") in parts:
            modules[name] = draw(module, DTYPES[chosen], place)
    return modules, chosen, place


def attach(
    backend: TorchBackend, structures: Mapping[str, tuple[AdapterSpec, ClipVisionSpec]]
) -> None:
    """Let a backend's adapters be random ones of these structures, which `load_adapter` takes."""
    adapters = RandomAdapters(backend.model, backend.unet)
    adapters.structures = dict(structures)
    adapters.place = (DTYPES[backend.dtype], backend.device)
    backend.adapters = adapters


def vary(backend: TorchBackend, variant: str) -> None:
    """Let a backend's UNet and VAE be "torch-channels-last" or "torch-compiled", to be measured.

    Compiled, they use CUDA graphs where there is CUDA. Taps see nothing of a compiled network.
    """
    networks = [n for n in (backend.unet, backend.vae) if n.device.type != "meta"]
    if variant == "torch-channels-last":
        for network in networks:
            network.to(memory_format=torch.channels_last)
        return
    mode = "reduce-overhead" if backend.device.startswith("cuda") else "default"
    for network in networks:
        network.compile(mode=mode)


@dataclass
class RandomAdapters(Adapters):
    """Adapters of random weights: `structures` by the kinds that are asked for."""

    place: tuple[torch.dtype, str] = (torch.float32, "cpu")
    structures: dict[str, tuple[AdapterSpec, ClipVisionSpec]] = field(default_factory=dict)
    made: dict[str, tuple[ImageAdapter, EncoderFiles]] = field(default_factory=dict)

    def load(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """Make one of `files.kind`; no file is read."""
        spec, seen = self.structures[files.kind or ""]
        with torch.device("meta"):
            made, pairs = projector(spec), []
            for site in self.model.sites:
                shape = (site.width, spec.context_width)
                pairs.append((torch.empty(shape), torch.empty(shape)))
        projections = tuple(tuple(_drawn("", w, *self.place) for w in pair) for pair in pairs)
        adapter = ImageAdapter(spec, draw(made, *self.place), projections, {})
        encoder = EncoderFiles(
            folder=Path(f"random/{spec.feature}"),
            variant=None,
            spec=seen,
            preprocessing=default_preprocessing(seen.image_size),
            config={},
        )
        self.made[name] = (adapter, encoder)
        return loaded_adapter(spec, encoder, "", adapter.nbytes, NOTHING)

    def unload(self, name: str) -> None:
        """Forget one."""
        del self.made[name]

    def __getitem__(self, name: str) -> ImageAdapter:
        return self.made[name][0]

    def __iter__(self) -> Iterator[ImageAdapter]:
        return (adapter for adapter, _ in self.made.values())

    def encoder(self, name: str) -> CLIPVisionModelWithProjection:
        """An adapter's image encoder, made when it is first asked for."""
        _, files = self.made[name]
        if files.folder not in self.encoders:
            self.encoders[files.folder] = draw(vision_tower(files.spec), *self.place)
        return self.encoders[files.folder]


def projector(spec: AdapterSpec) -> torch.nn.Module:
    """diffusers' projector of a structure, "linear" or "resampler"."""
    if spec.projector == "linear":
        return ImageProjection(spec.feature_width, spec.context_width, spec.tokens)
    return IPAdapterPlusImageProjection(
        embed_dims=spec.feature_width,
        output_dims=spec.context_width,
        hidden_dims=spec.width,
        depth=spec.layers,
        heads=spec.heads,
        num_queries=spec.tokens,
    )


def vision_tower(spec: ClipVisionSpec) -> CLIPVisionModelWithProjection:
    """transformers' image encoder of a structure, without weights."""
    config = CLIPVisionConfig(
        hidden_size=spec.width,
        intermediate_size=spec.intermediate,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        hidden_act=spec.activation,
        layer_norm_eps=spec.norm_eps,
        image_size=spec.image_size,
        patch_size=spec.patch_size,
        num_channels=spec.channels,
        projection_dim=spec.projection,
    )
    with torch.device("meta"):
        return CLIPVisionModelWithProjection(config)


@torch.no_grad()
def draw(module: torch.nn.Module, dtype: torch.dtype, device: str) -> Any:
    """A module without weights, with random ones that keep activations alive."""
    for owner in module.modules():
        for name, weight in owner.named_parameters(recurse=False):
            made = torch.nn.Parameter(_drawn(name, weight, dtype, device), requires_grad=False)
            setattr(owner, name, made)
        for name, buffer in owner.named_buffers(recurse=False):
            assert name == "position_ids", name
            made_ids = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            owner.register_buffer(name, made_ids, persistent=False)
    return module.eval()


def _drawn(name: str, like: torch.Tensor, dtype: torch.dtype, device: str) -> torch.Tensor:
    numbers = _numbers()
    if like.ndim > 1:
        numbers = numbers * math.prod(like.shape[1:]) ** -0.5
    else:
        numbers = numbers[: like.numel()]
        numbers = 1 + _NORM * numbers if name.endswith("weight") else _BIAS * numbers
    full = numbers.to(dtype).repeat(-(-like.numel() // len(numbers)))[: like.numel()]
    return full.reshape(like.shape).to(device, copy=True)


@cache
def _numbers() -> torch.Tensor:
    """What is laid out over and over: drawing every weight would take as long as loading."""
    return torch.randn(_NUMBERS, generator=torch.Generator().manual_seed(0))


def _config(model: ModelFolder, component: str) -> dict[str, Any]:
    return dict(read_json(model.path / component / "config.json"))
