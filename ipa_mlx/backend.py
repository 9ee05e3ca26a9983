"""The MLX backend: one loaded model, and the stages of a generation on it.

MLX is lazy: every array is evaluated before it leaves a method, so that a pipeline may be used from
another thread than the one that loaded it, and so that memory is bounded by one stage.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from ipa.contract.backend import NO_LORA, Branch, Floats, Identity, ImageTokens, LoadedAdapter
from ipa.contract.errors import RequestError
from ipa.contract.model import AdapterFiles, ModelFolder
from ipa.contract.quantization import Quantization
from ipa.contract.schedule import Step
from ipa.contract.text import Sizes, TextStates
from ipa_convert import read_model

from .adapters import Adapters
from .blas import preload
from .clip import TextEncoder
from .conditioning import Conditioning, steered
from .loading import place, quantization, require_quantized
from .loras import Loras
from .low_rank import UNCHANGED
from .pictures import decode, encode
from .prediction import predict
from .sampler import advance, guide
from .text import added_conditioning, encode_text, no_text
from .unet import UNet
from .vae import Vae

# Freed buffers that MLX may keep on a CPU. Its default of 32 MB is less than one score matrix: each
# operation would then wait for the system to clear new pages (measured: 11 times slower sums).
_CPU_CACHE = 1 << 30

# An image encoder is loaded with its adapter.
_NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@dataclass
class Runtime:
    """`ipa.contract.backend.Backend` on MLX. Latents are (N, h, w, C) float32 inside.

    `quantization` is what was asked for, and what image encoders of adapters get.
    """

    model: ModelFolder
    dtype: str
    unet: UNet
    vae: Vae
    text_encoder: TextEncoder
    text_encoder_2: TextEncoder | None = None
    quantization: Quantization | None = None
    name: str = "mlx"
    warnings: list[str] = field(default_factory=list)
    adapters: Adapters = field(init=False)
    loras: Loras = field(init=False)

    def __post_init__(self) -> None:
        self.adapters = Adapters(self.model, self._precision, self.quantization)
        texts = {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        self.loras = Loras(self.model, {"unet": self.unet} | texts, self._precision)

    @property
    def _precision(self) -> mx.Dtype:
        return DTYPES[self.dtype]

    @property
    def _decodes_wide(self) -> bool:
        return self.dtype == "float16" and self.model.overflows_in_float16

    def load_adapter(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """See `Backend.load_adapter`."""
        return self.adapters.load(name, files)

    def unload_adapter(self, name: str) -> None:
        """See `Backend.unload_adapter`."""
        self.adapters.unload(name)

    def encode_text(self, token_ids: npt.NDArray[np.int32]) -> TextStates:
        """See `Backend.encode_text`."""
        text = encode_text(self.text_encoder, self.text_encoder_2, token_ids)
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

    def condition(
        self,
        text: Sequence[TextStates],
        branches: Sequence[Branch],
        *,
        guided: bool,
        sizes: Sequence[Sizes] = (),
        lora_scales: Mapping[str, float] = NO_LORA,
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
        of_text = [site.attn2 for site in changes] or [UNCHANGED] * len(sites)
        conditioning = Conditioning(
            rows=len(text),
            text=tuple(
                attention.keys_values(states, own)
                for attention, own in zip(attentions, of_text, strict=True)
            ),
            images=tuple(images),
            added=added_conditioning(self.unet, text, sizes),
            changes=changes,
            pictures=tuple(branch.pictures for branch in branches),
        )
        mx.eval(*conditioning.arrays())
        return conditioning

    def from_numpy(self, array: Floats) -> mx.array:
        """(N, C, h, w) to (N, h, w, C)."""
        return _channels_last(array)

    def to_numpy(self, array: mx.array) -> Floats:
        """(N, h, w, C) to (N, C, h, w)."""
        return np.array(array.astype(mx.float32).transpose(0, 3, 1, 2))

    def predict(
        self,
        latents: mx.array,
        step: Step,
        conditioning: Conditioning,
        scales: Sequence[Sequence[float]],
        shares: list[Floats] | None = None,
    ) -> mx.array:
        """See `Backend.predict`."""
        x = (latents * step.input_scale).astype(self._precision)
        return predict(self.unet, x, step.timestep, conditioning, scales, shares)

    def guide(self, output: mx.array, guidance_scale: float) -> mx.array:
        """See `Backend.guide`."""
        return guide(output, guidance_scale)

    def advance(
        self,
        step: Step,
        latents: mx.array,
        output: mx.array,
        previous: mx.array | None,
        noise: mx.array | None,
    ) -> tuple[mx.array, mx.array]:
        """See `Backend.advance`. Evaluates: the one place per step where MLX computes."""
        latents, denoised = advance(step, latents, output, previous, noise)
        mx.eval(latents, denoised)
        return latents, denoised

    def decode(self, latents: mx.array) -> Floats:
        """See `Backend.decode`. One picture at a time; half precision is retried in float32."""
        return decode(self.vae, latents, self.warnings, wide=self._decodes_wide)

    def encode(self, pixels: Floats) -> mx.array:
        """See `Backend.encode`."""
        return encode(self.vae, _channels_last(pixels), wide=self._decodes_wide)

    def describe(self) -> dict[str, Any]:
        """See `Backend.describe`."""
        parts = {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}
        if self.text_encoder_2 is not None:
            parts["text_encoder_2"] = self.text_encoder_2
        parts |= {f"image_encoder:{path.name}": e for path, e in self.adapters.encoders.items()}
        return {
            "backend": self.name,
            "versions": {"mlx": mx.__version__, "python": platform.python_version()},
            "device": str(mx.default_device()),
            "blas": preload(),
            "dtype": self.dtype,
            "bytes": {name: _nbytes(module) for name, module in parts.items()},
            "quantization": {n: found for n, m in parts.items() if (found := quantization(m))},
            "warnings": list(self.warnings),
        }

    def peak_memory(self) -> int | None:
        """See `Backend.peak_memory`."""
        return int(mx.get_peak_memory())

    def reset(self) -> None:
        """See `Backend.reset`."""
        self.warnings.clear()
        mx.reset_peak_memory()


def load(model: ModelFolder, *, dtype: str | None = None, quantize: int | None = None) -> Runtime:
    """Load a model folder, original or converted.

    Args:
        model: The folder, its configs parsed.
        dtype: "float32", "float16" or "bfloat16"; None takes float16 on a GPU and float32 on a CPU
            (where MLX has no fast half-precision matrix product).
        quantize: 4 or 8 bits for the matrices of transformers, as `ipa_convert.convert_model`
            quantises them in this precision; None takes them as they are in the files.

    Raises:
        CheckpointError: Weights are missing, left over, misshapen or not finite.
        RequestError: The dtype or quantisation is unknown, or not possible for this model.
    """
    how = Quantization.of(quantize)
    chosen = dtype or ("float16" if mx.default_device() == mx.gpu else "float32")
    if chosen not in DTYPES:
        raise RequestError("unknown dtype", found=repr(dtype), remedy=f"one of {', '.join(DTYPES)}")
    if mx.default_device() == mx.cpu:
        mx.set_cache_limit(_CPU_CACHE)
    converted = read_model(model, _NETWORKS)
    modules = {
        "unet": UNet(model.unet),
        "vae": Vae(model.vae),
        "text_encoder": TextEncoder(model.text_encoder),
    }
    if model.text_encoder_2 is not None:
        modules["text_encoder_2"] = TextEncoder(model.text_encoder_2)
    for name, module in modules.items():
        place(module, converted[name], DTYPES[chosen], f"{model.name}/{name}", how)
    if how is not None:
        require_quantized(modules.values())
    return Runtime(model=model, dtype=chosen, quantization=how, **modules)


def _channels_last(array: Floats) -> mx.array:
    return mx.array(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))


def _nbytes(module: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))
