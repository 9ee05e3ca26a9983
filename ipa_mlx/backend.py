"""The MLX backend: one loaded model, and the stages of a generation on it.

MLX is lazy: every array is evaluated before it leaves a method, so that a pipeline may be used from
another thread than the one that loaded it, and so that memory is bounded by one stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

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
from ipa.backend.residency import encoder_part
from ipa.backend.schedule import Step
from ipa.backend.text import PLAIN, Sizes, TextOptions, TextStates
from ipa.backend.vae_memory import VaeMemory, VaeUse, as_tiling
from ipa.backend.work import Work, WorkMemory
from ipa.errors import RequestError
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.model.left_out import NOTHING, LeftOut
from ipa.model.quantization import Quantization
from ipa.model.vae import TinyVaeFiles
from ipa_convert import read_model

from .adapters import Adapters
from .compiled import CompiledUNet
from .conditioning import Conditioning, steered, text_pairs
from .controls import Controls
from .device import device
from .loras import Acting, Loras
from .memory.stages import Subject, work_memory
from .networks.clip import TextEncoder
from .networks.tiny_vae import load_tiny
from .networks.unet import UNet
from .networks.unet_down import added_conditioning
from .networks.vae import Vae
from .networks.weights import DTYPES, keep_freed
from .prediction import Network, forecast, predict
from .report import report
from .residency import MlxResidency, Resident, Source, read_all, require_quantized, resident
from .sampler import advance, guide
from .stages import Stages
from .text import encode_text, no_text
from .vae_codec import decode, encode

# An image encoder is loaded with its adapter.
_NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


@dataclass
class MlxBackend:
    """`ipa.backend.protocol.Backend` on MLX. Latents are (N, h, w, C) float32 inside.

    `quantization` is what was asked for, and what image encoders of adapters get. `notes` are what
    loading left out of the files.
    """

    model: ModelFolder
    dtype: str
    networks: Mapping[str, Resident[Any]]
    quantization: Quantization | None = None
    name: str = "mlx"
    warnings: list[str] = field(default_factory=list)
    left_out: LeftOut = NOTHING
    vae_memory: VaeMemory = None
    preview_decoder: PreviewDecoder | None = None
    adapters: Adapters = field(init=False)
    controlnets: Controls = field(init=False)
    loras: Loras = field(init=False)
    _compiled: CompiledUNet | None = field(init=False)

    def __post_init__(self) -> None:
        self.adapters = Adapters(self.model, self._precision, self.quantization)
        self.controlnets = Controls(self._precision, self.quantization)
        acting = {name: each for name, each in self.networks.items() if name != "vae"}
        self.loras = Loras(self.model, Acting(acting), self._precision)
        # On a CPU it would take a C++ compiler for each kernel.
        self.compile_with(CompiledUNet() if device().is_gpu else None)

    def compile_with(self, compiled: CompiledUNet | None) -> None:
        """Have the UNet evaluated by a compiled one; None: as it is. Once for a backend."""
        self._compiled = compiled
        if compiled is not None:
            self.networks["unet"].guests.append(compiled)

    @property
    def unet(self) -> UNet:
        """The denoiser, read if it is not in memory."""
        return cast(UNet, self.networks["unet"].get())

    @property
    def vae(self) -> Vae:
        """The autoencoder, likewise."""
        return cast(Vae, self.networks["vae"].get())

    @property
    def text_encoder(self) -> TextEncoder:
        """CLIP's text tower, likewise."""
        return cast(TextEncoder, self.networks["text_encoder"].get())

    @property
    def text_encoder_2(self) -> TextEncoder | None:
        """SDXL's second text tower, likewise."""
        second = self.networks.get("text_encoder_2")
        return None if second is None else cast(TextEncoder, second.get())

    @property
    def lazy(self) -> bool:
        """Whether weights that are loaded beside the model are read when they are first used."""
        return self.adapters.lazy

    @lazy.setter
    def lazy(self, lazy: bool) -> None:
        self.adapters.lazy = self.controlnets.lazy = lazy

    @property
    def residency(self) -> MlxResidency:
        """See `Backend.residency`."""
        return MlxResidency(self._residents(), self.adapters.seen_by())

    def work_memory(self, work: Work) -> WorkMemory:
        """See `Backend.work_memory`: the networks are traced, no weight is read."""
        return work_memory(self._subject, work)

    @property
    def _subject(self) -> Subject:
        model, found = self.model, self.networks["unet"].measured.quantization
        texts = (model.text_encoder, model.text_encoder_2)
        return Subject(
            unet=model.unet,
            vae=model.vae,
            texts=tuple(spec for spec in texts if spec is not None),
            dtype=self.dtype,
            how=Quantization(found["bits"]) if found else None,
            wide=self._vae_use["wide"],
        )

    def _residents(self) -> dict[str, Resident[Any]]:
        """All that can leave memory, by the names of `ipa.backend.residency`."""
        found: dict[str, Resident[Any]] = dict(self.networks)
        for number, (_, encoder) in enumerate(self.adapters.encoders()):
            found[encoder_part(number)] = encoder
        found |= {f"adapter {name}": each for name, each in self.adapters.residents()}
        return found | {f"controlnet {n}": each for _, n, each in self.controlnets.residents()}

    @property
    def _precision(self) -> mx.Dtype:
        return DTYPES[self.dtype]

    @property
    def _vae_use(self) -> dict[str, Any]:
        wide = self.dtype == "float16" and self.model.overflows_in_float16
        return {"wide": wide, "use": VaeUse(self.vae_memory, self.model.vae)}

    def frozen(self) -> MlxBackend:
        """See `Backend.frozen`."""
        other = copy(self)
        other.adapters = self.adapters.frozen()
        other.controlnets = self.controlnets.frozen()
        other.loras = self.loras.frozen()
        return other

    def load_adapter(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """See `Backend.load_adapter`."""
        return self.adapters.load(name, files)

    def unload_adapter(self, name: str) -> None:
        """See `Backend.unload_adapter`."""
        self.adapters.unload(name)

    def encode_text(
        self, token_ids: npt.NDArray[np.int32], reading: TextOptions = PLAIN
    ) -> TextStates:
        """See `Backend.encode_text`."""
        text = encode_text(self.text_encoder, self.text_encoder_2, token_ids, reading)
        mx.eval(text.states, text.pooled)
        return text

    def no_text(self, like: TextStates) -> TextStates:
        """See `Backend.no_text`."""
        zeros = no_text(like)
        mx.eval(zeros.states, zeros.pooled)
        return zeros

    def encode_images(self, adapter: str, pixels: Floats) -> tuple[Floats, Floats]:
        """See `Backend.encode_images`."""
        features = self.adapters[adapter].features(
            self.adapters.encoder(adapter), _channels_last(pixels).astype(self._precision)
        )
        conditional, unconditional = (np.array(rows.astype(mx.float32)) for rows in features)
        return conditional, unconditional

    def project(
        self,
        adapter: str,
        conditional: Floats,
        unconditional: Floats,
        identity: Identity | None = None,
    ) -> ImageTokens:
        """See `Backend.project`."""
        rows = [mx.array(array).astype(self._precision) for array in (conditional, unconditional)]
        tokens = self.adapters[adapter].tokens(*rows, identity)
        mx.eval(tokens.conditional, tokens.unconditional)
        return tokens

    def embed_images(self, adapter: str, pixels: Floats) -> Floats:
        """See `Backend.embed_images`."""
        embedding = self.adapters.encoder(adapter).embedding(
            _channels_last(pixels).astype(self._precision)
        )
        return np.array(embedding.astype(mx.float32))

    def embed_text(self, token_ids: npt.NDArray[np.int32], reading: TextOptions = PLAIN) -> Floats:
        """See `Backend.embed_text`."""
        return np.array(self.encode_text(token_ids, reading).pooled.astype(mx.float32))

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
        attentions, sites = self.unet.cross_attentions, self.model.sites
        states = mx.concatenate([row.states for row in text])
        images = []
        for branch in branches:
            tokens = branch.tokens.conditional
            if guided:
                tokens = mx.concatenate([branch.tokens.unconditional, tokens])
            pairs = self.adapters[branch.adapter].keys_values(tokens, sites, attentions)
            images.append(steered(pairs, branch))
        changes = self.adapters.changes(lora_scales)
        conditioning = Conditioning(
            rows=len(text),
            text=text_pairs(attentions, states, changes),
            images=tuple(images),
            added=added_conditioning(self.unet, text, sizes),
            changes=changes,
            pictures=tuple(branch.pictures for branch in branches),
            controls=self.controlnets.condition(controls, text, sizes),
            channels=None if channels is None else _channels_last(channels),
            guidance=self.unet.embed_guidance(guidance),
        )
        mx.eval(*conditioning.arrays())
        return conditioning

    def conditional(self, conditioning: Conditioning) -> Conditioning:
        """See `Backend.conditional`. Evaluated, or every step would cut it out again."""
        alone = conditioning.conditional()
        mx.eval(*alone.arrays())
        return alone

    def from_numpy(self, array: Floats) -> mx.array:
        """Convert latents (N, C, h, w) to an MLX array (N, h, w, C)."""
        return _channels_last(array)

    def to_numpy(self, array: mx.array) -> Floats:
        """Convert latents (N, h, w, C) to numpy (N, C, h, w)."""
        return np.array(array.astype(mx.float32).transpose(0, 3, 1, 2))

    def predict(
        self,
        latents: mx.array,
        step: Step,
        conditioning: Conditioning,
        scales: Sequence[Sequence[float]],
        shares: dict[int, Floats] | None = None,
        control_scales: Sequence[Sequence[float]] = (),
        deep: DeepPart | None = None,
        past: PastFeatures | None = None,
    ) -> mx.array:
        """See `Backend.predict`. Compiled on a GPU."""
        x = (latents * step.input_scale).astype(self._precision)
        if past is not None and past.weights is not None:
            return forecast(self.unet, x, conditioning, past)
        given = (conditioning, scales, shares, control_scales, deep, past)
        unet, uses = self.unet, self.loras.acting.uses
        compiled = self._compiled and partial(self._compiled, unet, weights=uses)
        return predict(Network(unet, compiled or None), x, step.timestep, *given)

    def guide(
        self, output: mx.array, guidance_scale: float, guidance_rescale: float = 0.0
    ) -> mx.array:
        """See `Backend.guide`."""
        return guide(output, guidance_scale, guidance_rescale)

    def advance(
        self,
        step: Step,
        latents: mx.array,
        output: mx.array,
        memories: Sequence[mx.array],
        noise: mx.array | None,
    ) -> tuple[mx.array, mx.array, mx.array]:
        """See `Backend.advance`. Evaluates: the one place per step where MLX computes."""
        latents, denoised, memory = advance(step, latents, output, memories, noise)
        mx.eval(latents, denoised, memory)
        return latents, denoised, memory

    def decode(self, latents: mx.array) -> Floats:
        """See `Backend.decode`. One picture at a time; half precision is retried in float32."""
        return decode(self.vae, latents, self.warnings, **self._vae_use)

    def encode(self, pixels: Floats) -> tuple[Floats, Floats]:
        """See `Backend.encode`. As `decode`."""
        return encode(self.vae, _channels_last(pixels), self.warnings, **self._vae_use)

    def load_preview_decoder(self, files: TinyVaeFiles) -> None:
        """See `Backend.load_preview_decoder`."""
        self.preview_decoder = load_tiny(files)

    @property
    def taps(self) -> Stages:
        """See `Backend.taps`."""
        return Stages(self)

    def describe(self) -> dict[str, Any]:
        """See `Backend.describe`."""
        return {
            "backend": self.name,
            "dtype": self.dtype,
            "vae_memory": self.vae_memory,
            "vae_tiling": as_tiling(self.vae_memory),
            **self.left_out.record(),
            "warnings": [*self.left_out.warnings(), *self.warnings],
            **report({name: each.measured for name, each in self._reported()}),
        }

    def _reported(self) -> Iterator[tuple[str, Resident[Any]]]:
        yield from self.networks.items()
        for name, encoder in self.adapters.encoders():
            yield f"image_encoder:{name}", encoder

    def peak_memory(self) -> int | None:
        """See `Backend.peak_memory`."""
        return int(mx.get_peak_memory())

    def reset(self) -> None:
        """See `Backend.reset`."""
        self.warnings.clear()
        mx.reset_peak_memory()


def load(
    model: ModelFolder,
    *,
    dtype: str | None = None,
    quantize: int | None = None,
    lazy: bool = False,
) -> MlxBackend:
    """Load a model folder, original or converted.

    Args:
        model: The folder, its configs parsed.
        dtype: "float32", "float16" or "bfloat16"; None takes float16 on a GPU and float32 on a CPU
            (where MLX has no fast half-precision matrix product).
        quantize: 4 or 8 bits for the matrices of transformers, as `ipa_convert.convert_model`
            quantises them in this precision; None takes them as they are in the files.
        lazy: Read headers alone; weights are read when they are first used.

    Raises:
        CheckpointError: Weights are missing, left over, misshapen or not finite.
        RequestError: The dtype or quantisation is unknown, or not possible for this model.
    """
    how = Quantization.of(quantize)
    chosen = dtype or ("float16" if device().is_gpu else "float32")
    if chosen not in DTYPES:
        raise RequestError("unknown dtype", found=repr(dtype), remedy=f"one of {', '.join(DTYPES)}")
    keep_freed()
    converted = read_model(model, _NETWORKS)
    makers, precision = _makers(model), DTYPES[chosen]
    networks = {
        name: resident(Source.of(part, precision, f"{model.name}/{name}", how), makers[name])
        for name, part in converted.items()
    }
    if how is not None:
        require_quantized(network.measured for network in networks.values())
    if not lazy:
        read_all(networks.values())
    gone = (name for part in converted.values() for name in part.dropped)
    left_out = LeftOut.of(model.name, gone)
    backend = MlxBackend(model, chosen, networks, how, left_out=left_out)
    backend.lazy = lazy
    return backend


def _makers(model: ModelFolder) -> dict[str, Callable[[], nn.Module]]:
    """What builds each network of a model, without weights."""
    makers: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: UNet(model.unet),
        "vae": lambda: Vae(model.vae),
        "text_encoder": lambda: TextEncoder(model.text_encoder),
    }
    second = model.text_encoder_2
    if second is not None:
        makers["text_encoder_2"] = lambda: TextEncoder(second)
    return makers


def _channels_last(array: Floats) -> mx.array:
    return mx.array(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))
