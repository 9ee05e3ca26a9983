"""The PyTorch reference: one loaded model, and the stages of a generation on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from ipa.arrays import Floats
from ipa.backend.deep import DeepPart
from ipa.backend.past import PastFeatures
from ipa.backend.protocol import (
    NO_LORA,
    Branch,
    ControlBranch,
    Identity,
    ImageTokens,
    LoadedAdapter,
    PreviewDecoder,
)
from ipa.backend.schedule import Step
from ipa.backend.text import PLAIN, Sizes, TextOptions, TextStates
from ipa.backend.vae_memory import VaeMemory, VaeUse, as_tiling
from ipa.backend.work import Work
from ipa.errors import RequestError
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.model.left_out import NOTHING, LeftOut
from ipa.model.vae import TinyVaeFiles
from ipa.watching import one_part, watch

from .adapters import Adapters
from .conditioning import Conditioning, steered
from .controls import Controls
from .files.single_file import load_single_file, load_vae
from .files.weights import DTYPES, Account, find_device, load_component
from .loras import Loras
from .networks.attention import install
from .networks.tiny_vae import load_tiny
from .prediction import forecast, predict
from .report import Measured, base_networks, encoders, measured, report
from .residency import TorchResidency
from .sampler import advance, guide
from .stages import Stages
from .text import added_conditioning, encode_text, no_text
from .vae_codec import decode, encode


@contextmanager
def precise() -> Iterator[None]:
    """A context without gradients and TF32, which CUDA's convolutions use by default."""
    cudnn = torch.backends.cudnn
    flags = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    with torch.inference_mode(), cudnn.flags(enabled=cudnn.enabled, allow_tf32=False, **flags):
        yield


@dataclass
class TorchBackend:
    """`ipa.backend.protocol.Backend` on diffusers' and transformers' modules.

    `notes` are what loading left out of the files.
    """

    model: ModelFolder
    dtype: str
    device: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    attentions: list[Attention]
    text_encoder_2: CLIPTextModelWithProjection | None = None
    name: str = "torch"
    warnings: list[str] = field(default_factory=list)
    left_out: LeftOut = NOTHING
    vae_memory: VaeMemory = None
    preview_decoder: PreviewDecoder | None = None
    lazy: bool = False
    adapters: Adapters = field(init=False)
    controlnets: Controls = field(init=False)
    loras: Loras = field(init=False)
    _measured: Mapping[str, Measured] = field(init=False)

    def __post_init__(self) -> None:
        self._measured = measured(base_networks(self))
        self.adapters = Adapters(self.model, self.unet)
        self.controlnets = Controls(self.unet)
        texts = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        self.loras = Loras({"unet": self.unet} | {k: v for k, v in texts.items() if v is not None})

    def frozen(self) -> TorchBackend:
        """See `Backend.frozen`."""
        other = copy(self)
        other.adapters = self.adapters.frozen()
        other.controlnets = self.controlnets.frozen()
        other.loras = self.loras.frozen()
        return other

    @precise()
    def load_adapter(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """See `Backend.load_adapter`."""
        return self.adapters.load(name, files)

    def unload_adapter(self, name: str) -> None:
        """See `Backend.unload_adapter`."""
        self.adapters.unload(name)

    @precise()
    def encode_text(
        self, token_ids: npt.NDArray[np.int32], reading: TextOptions = PLAIN
    ) -> TextStates:
        """See `Backend.encode_text`."""
        ids = torch.from_numpy(token_ids.astype(np.int64)).to(self.device)
        return encode_text(self.text_encoder, self.text_encoder_2, ids, reading)

    @precise()
    def no_text(self, like: TextStates) -> TextStates:
        """See `Backend.no_text`."""
        return no_text(like)

    @precise()
    def encode_images(self, adapter: str, pixels: Floats) -> tuple[Floats, Floats]:
        """See `Backend.encode_images`."""
        features = self.adapters[adapter].features(
            self.adapters.encoder(adapter), self._cast(pixels)
        )
        return self.to_numpy(features[0]), self.to_numpy(features[1])

    @precise()
    def project(
        self,
        adapter: str,
        conditional: Floats,
        unconditional: Floats,
        identity: Identity | None = None,
    ) -> ImageTokens:
        """See `Backend.project`."""
        rows = (self._cast(conditional), self._cast(unconditional))
        return self.adapters[adapter].tokens(*rows, identity)

    @precise()
    def embed_images(self, adapter: str, pixels: Floats) -> Floats:
        """See `Backend.embed_images`."""
        encoder = self.adapters.encoder(adapter)
        return self.to_numpy(encoder(self._cast(pixels)).image_embeds)

    def embed_text(self, token_ids: npt.NDArray[np.int32], reading: TextOptions = PLAIN) -> Floats:
        """See `Backend.embed_text`."""
        return self.to_numpy(self.encode_text(token_ids, reading).pooled)

    @precise()
    def condition(
        self,
        text: Sequence[TextStates],
        branches: Sequence[Branch],
        *,
        guided: bool,
        sizes: Sequence[Sizes] = (),
        lora_scales: Mapping[str, float] = NO_LORA,
        controls: Sequence[ControlBranch] = (),
        channels: Floats | None = None,
        guidance: Floats | None = None,
    ) -> Conditioning:
        """See `Backend.condition`."""
        images = []
        for branch in branches:
            tokens = branch.tokens.conditional
            if guided:
                tokens = torch.cat([branch.tokens.unconditional, tokens])
            adapter = self.adapters[branch.adapter]
            images.append(steered(adapter.keys_values(tokens, self.attentions), branch))
        states = torch.cat([row.states for row in text])
        return Conditioning(
            states,
            tuple(images),
            added_conditioning(text, sizes),
            self.adapters.changes(lora_scales),
            tuple(branch.pictures for branch in branches),
            self.controlnets.condition(controls, text, sizes),
            None if channels is None else self.from_numpy(channels),
            None if guidance is None else self._cast(guidance),
        )

    def conditional(self, conditioning: Conditioning) -> Conditioning:
        """See `Backend.conditional`."""
        return conditioning.conditional()

    def from_numpy(self, array: Floats) -> torch.Tensor:
        """Convert latents to a float32 tensor on the device."""
        return torch.tensor(array, device=self.device)

    def to_numpy(self, array: torch.Tensor) -> Floats:
        """Convert latents to numpy."""
        return array.float().cpu().numpy()

    @precise()
    def predict(
        self,
        latents: torch.Tensor,
        step: Step,
        conditioning: Conditioning,
        scales: Sequence[Sequence[float]],
        shares: dict[int, Floats] | None = None,
        control_scales: Sequence[Sequence[float]] = (),
        deep: DeepPart | None = None,
        past: PastFeatures | None = None,
    ) -> torch.Tensor:
        """See `Backend.predict`."""
        x = (latents * step.input_scale).to(DTYPES[self.dtype])
        if past is not None and past.weights is not None:
            return forecast(self.unet, x, conditioning, past)
        given = (conditioning, scales, shares, control_scales, deep, past)
        return predict(self.unet, x, step.timestep, *given)

    @precise()
    def guide(
        self, output: torch.Tensor, guidance_scale: float, guidance_rescale: float = 0.0
    ) -> torch.Tensor:
        """See `Backend.guide`."""
        return guide(output, guidance_scale, guidance_rescale)

    @precise()
    def advance(
        self,
        step: Step,
        latents: torch.Tensor,
        output: torch.Tensor,
        memories: Sequence[torch.Tensor],
        noise: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Backend.advance`."""
        return advance(step, latents, output, memories, noise)

    @precise()
    def decode(self, latents: torch.Tensor) -> Floats:
        """See `Backend.decode`. One picture at a time; half precision is retried in float32."""
        return decode(self.vae, latents, self.warnings, **self._vae_use)

    @precise()
    def encode(self, pixels: Floats) -> tuple[Floats, Floats]:
        """See `Backend.encode`. As `decode`."""
        return encode(self.vae, self.from_numpy(pixels), self.warnings, **self._vae_use)

    @property
    def _vae_use(self) -> dict[str, Any]:
        wide = self.dtype == "float16" and self.model.overflows_in_float16
        return {"wide": wide, "use": VaeUse(self.vae_memory, self.model.vae)}

    def load_preview_decoder(self, files: TinyVaeFiles) -> None:
        """See `Backend.load_preview_decoder`."""
        with one_part():
            self.preview_decoder = load_tiny(files, self.device)

    def work_memory(self, work: Work) -> None:
        """See `Backend.work_memory`: not foretold for torch, whose kernels choose as they run."""

    @property
    def residency(self) -> TorchResidency:
        """See `Backend.residency`."""
        base = {name: part.nbytes for name, part in self._measured.items()}
        sizes = base | self.adapters.sizes() | self.controlnets.sizes()
        return TorchResidency(self.device, sizes, self.adapters.seen_by())

    @property
    def taps(self) -> Stages:
        """See `Backend.taps`."""
        return Stages(self)

    def describe(self) -> dict[str, Any]:
        """See `Backend.describe`."""
        return {
            "backend": self.name,
            "device": self.device,
            "dtype": self.dtype,
            "vae_memory": self.vae_memory,
            "vae_tiling": as_tiling(self.vae_memory),
            **self.left_out.record(),
            "warnings": [*self.left_out.warnings(), *self.warnings],
            **report(self._measured | measured(encoders(self))),
        }

    def peak_memory(self) -> int | None:
        """See `Backend.peak_memory`: torch counts on CUDA alone."""
        if not self.device.startswith("cuda"):
            return None
        return int(torch.cuda.max_memory_allocated(self.device))

    def reset(self) -> None:
        """See `Backend.reset`."""
        self.warnings.clear()
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)

    def _cast(self, array: Floats) -> torch.Tensor:
        return self.from_numpy(array).to(DTYPES[self.dtype])


def load(
    model: ModelFolder, *, dtype: str | None = None, device: str | None = None
) -> TorchBackend:
    """Load a model folder.

    Args:
        model: The folder, its configs parsed; an original, not one converted for MLX.
        dtype: "float64", "float32", "float16" or "bfloat16"; None takes float32 on a CPU, else
            float16.
        device: "cpu", "cuda", "cuda:1", "mps"; None takes the fastest there is.

    Raises:
        BackendError: The device is not there.
        CheckpointError: Weights are missing, left over, misshapen or not finite.
    """
    place = find_device(device)
    chosen = dtype or ("float32" if torch.device(place).type == "cpu" else "float16")
    if chosen not in DTYPES:
        raise RequestError("unknown dtype", found=repr(dtype), remedy=f"one of {', '.join(DTYPES)}")
    account = Account(model.ignore)
    modules = _modules(model, DTYPES[chosen], account)
    left_out = account.left_out(model.name)
    parts: dict[str, Any] = {name: module.to(place) for name, module in modules.items()}
    attentions = install(parts["unet"], model.sites)
    return TorchBackend(
        model=model, dtype=chosen, device=place, attentions=attentions, left_out=left_out, **parts
    )


def _modules(
    model: ModelFolder, dtype: torch.dtype, account: Account
) -> dict[str, torch.nn.Module]:
    other = model.other_vae
    watch().expect("load", 4 if model.is_xl else 3, "parts")
    apart = {"vae": load_vae(model, other, dtype, account)} if other else {}
    watch().advance("load", len(apart), "parts")
    if model.single_file is not None:
        return {**load_single_file(model, model.single_file, dtype, account), **apart}
    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    if model.is_xl:
        kinds["text_encoder_2"] = CLIPTextModelWithProjection
    found: dict[str, torch.nn.Module] = dict(apart)
    for name, kind in kinds.items():
        if name not in apart:
            where, variant = model.path / name, model.variant_of(name)
            found[name] = load_component(kind, name, where, dtype, variant, account)
            watch().advance("load", 1, "parts")
    return found
