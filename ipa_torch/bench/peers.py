"""diffusers and transformers by themselves, by stages, with random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from transformers import CLIPTokenizer

from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipVisionSpec
from ipa.model.folder import ModelFolder
from ipa_torch.files.weights import DTYPES

from .random_model import draw, networks, projector, vision_tower

_TOKENS, _TIMESTEP, _GUIDANCE, _SCALE = 77, 501, 7.5, 0.8

Run = Callable[[], object]
Size = tuple[int, int, int]
"""Pictures, and their height and width in pixels."""


def open_diffusers(
    model: ModelFolder,
    stage: str,
    size: Size,
    *,
    adapters: Sequence[tuple[AdapterSpec, ClipVisionSpec]] = (),
    steps: int = 1,
    dtype: str | None = None,
    device: str | None = None,
) -> Run | None:
    """A stage of diffusers' with random weights; None for one that it does not do by itself.

    Args:
        model: The structure, whose folder has the configs.
        stage: "text", "image", "step", "decode", "encode" or "generation".
        size: What it is run on.
        adapters: Those of the step; of the image the first, whose encoder is run.
        steps: Of a generation.
        dtype: As `ipa_torch.backend.load` takes it.
        device: Likewise.
    """
    maker = _STAGES.get(stage)
    if maker is None or (stage == "generation" and adapters):
        return None
    parts = _PARTS.get(stage, ())
    modules, chosen, place = networks(model, parts, dtype=dtype, device=device)
    given = _Given(model, modules, size, tuple(adapters), steps, DTYPES[chosen], place)
    run = maker(given)

    @torch.inference_mode()
    def once() -> object:
        return _waited(run())

    return once


class _Given:
    """What a stage is made of."""

    def __init__(
        self,
        model: ModelFolder,
        modules: Mapping[str, Any],
        size: Size,
        adapters: Sequence[tuple[AdapterSpec, ClipVisionSpec]],
        steps: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        self.model, self.modules, self.adapters, self.steps = model, modules, adapters, steps
        self.batch, self.height, self.width = size
        self.dtype, self.device = dtype, device

    def noise(self, *shape: int) -> torch.Tensor:
        """Numbers of the precision, on the device."""
        return torch.randn(*shape).to(self.device, self.dtype)

    @property
    def latents(self) -> torch.Tensor:
        """Noise in the shape of the latents."""
        vae, factor = self.model.vae, self.model.vae.scale_factor
        shape = (self.batch, vae.latent_channels, self.height // factor, self.width // factor)
        return self.noise(*shape)


def _text(given: _Given) -> Run:
    towers = [t for name, t in given.modules.items() if name.startswith("text_encoder")]
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=given.device)
    return lambda: [tower(ids, output_hidden_states=given.model.is_xl)[0] for tower in towers][-1]


def _image(given: _Given) -> Run:
    spec, seen = given.adapters[0]
    tower = draw(vision_tower(seen), given.dtype, given.device)
    pixels = given.noise(given.batch, seen.channels, seen.image_size, seen.image_size)
    if spec.feature == "embedding":
        return lambda: tower(pixels).image_embeds

    def states() -> torch.Tensor:
        tower(torch.zeros_like(pixels), output_hidden_states=True)
        return tower(pixels, output_hidden_states=True).hidden_states[-2]

    return states


def _step(given: _Given) -> Run:
    unet, latents, rows = given.modules["unet"], given.latents, 2 * given.batch
    text = given.noise(rows, _TOKENS, given.model.unet.context_width)
    added: dict[str, Any] = {}
    if given.model.unet.addition is not None:
        pooled = given.noise(rows, given.model.unet.addition.pooled_width)
        added = {"text_embeds": pooled, "time_ids": given.noise(rows, 6)}
    if given.adapters:
        added["image_embeds"] = _adapt(unet, given, rows)

    def run() -> torch.Tensor:
        x = torch.cat([latents, latents])
        output = unet(x, _TIMESTEP, text, added_cond_kwargs=added, return_dict=False)[0]
        unconditional, conditional = output.chunk(2)
        return latents - (unconditional + _GUIDANCE * (conditional - unconditional))

    return run


def _adapt(unet: UNet2DConditionModel, given: _Given, rows: int) -> list[torch.Tensor]:
    """Give a UNet diffusers' own processors and projectors; returns what these are given."""
    specs = [spec for spec, _ in given.adapters]
    with torch.device("meta"):
        layers = MultiIPAdapterImageProjection([projector(spec) for spec in specs])
    unet.encoder_hid_proj = draw(layers, given.dtype, given.device)
    unet.config.encoder_hid_dim_type = "ip_image_proj"
    processors: dict[str, Any] = dict(unet.attn_processors)
    for site in given.model.sites:
        with torch.device("meta"):
            processor = IPAdapterAttnProcessor2_0(
                site.width,
                given.model.unet.context_width,
                num_tokens=[spec.tokens for spec in specs],
                scale=_SCALE,
            )
        processors[f"{site.path}.processor"] = draw(processor, given.dtype, given.device)
    unet.set_attn_processor(processors)
    embeds = []
    for spec, seen in given.adapters:
        states = () if spec.feature == "embedding" else (seen.tokens,)
        embeds.append(given.noise(rows, 1, *states, spec.feature_width))
    return embeds


def _decode(given: _Given) -> Run:
    vae, latents = given.modules["vae"], given.latents
    return lambda: vae.decode(latents / given.model.vae.scaling_factor, return_dict=False)[0]


def _encode(given: _Given) -> Run:
    vae, channels = given.modules["vae"], given.model.vae.in_channels
    pixels = given.noise(given.batch, channels, given.height, given.width)
    return lambda: vae.encode(pixels).latent_dist.mean


def _generation(given: _Given) -> Run:
    words = given.model.vocabulary or given.model.path / "tokenizer"
    files = (str(words / "vocab.json"), str(words / "merges.txt"))
    tokenizer = CLIPTokenizer(*files, model_max_length=_TOKENS)
    parts: dict[str, Any] = dict(given.modules) | {"tokenizer": tokenizer}
    parts["scheduler"] = DDIMScheduler.from_config(dict(given.model.scheduler))
    if given.model.is_xl:
        pipe = StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer)
    else:
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)
    return lambda: torch.from_numpy(
        pipe(
            "a star",
            num_inference_steps=given.steps,
            height=given.height,
            width=given.width,
            num_images_per_prompt=given.batch,
            output_type="np",
        ).images
    )


def _waited(made: object) -> object:
    """A result that is there: a device computes on while Python goes on."""
    if isinstance(made, torch.Tensor):
        made.flatten()[0].item()
    return made


_STAGES: Mapping[str, Callable[[_Given], Run]] = {
    "text": _text,
    "image": _image,
    "step": _step,
    "decode": _decode,
    "encode": _encode,
    "generation": _generation,
}
_PARTS: Mapping[str, Sequence[str]] = {
    "text": ("text_encoder",),
    "step": ("unet",),
    "decode": ("vae",),
    "encode": ("vae",),
    "generation": ("unet", "vae", "text_encoder"),
}
