"""The MLX backend: one loaded model, and the stages of a generation on it.

MLX is lazy: every array is evaluated before it leaves a method, so that a pipeline may be used from
another thread than the one that loaded it, and so that memory is bounded by one stage.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten

from ipa.contract.backend import Branch, Floats, ImageTokens, LoadedAdapter
from ipa.contract.errors import RequestError
from ipa.contract.model import AdapterFiles, ModelFolder
from ipa.contract.quantization import Quantization
from ipa.contract.schedule import Step
from ipa.contract.text import Sizes, TextStates
from ipa.prepare.encoders import EncoderFiles, find_encoder, fingerprint
from ipa_convert import read_adapter, read_component, read_model

from .adapter import ImageAdapter
from .blas import preload
from .clip import TextEncoder, VisionEncoder
from .conditioning import Conditioning, Context, steered
from .loading import arrays, place, quantization, require_quantized
from .pictures import decode, encode
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


@dataclass(frozen=True)
class _Attached:
    adapter: ImageAdapter
    encoder: EncoderFiles


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
    _encoders: dict[Path, VisionEncoder] = field(default_factory=dict)
    _adapters: dict[str, _Attached] = field(default_factory=dict)

    @property
    def _precision(self) -> mx.Dtype:
        return DTYPES[self.dtype]

    @property
    def _decodes_wide(self) -> bool:
        return self.dtype == "float16" and self.model.overflows_in_float16

    def load_adapter(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """See `Backend.load_adapter`."""
        spec, converted = read_adapter(
            files.weights, self.model.sites, self.model.unet.context_width
        )
        encoder = find_encoder(spec, files, self.model)
        adapter = ImageAdapter.build(spec, arrays(converted, self._precision), files.weights.name)
        if encoder.folder not in self._encoders:
            self._encoders[encoder.folder] = self._load_encoder(encoder)
        self._adapters[name] = _Attached(adapter, encoder)
        return LoadedAdapter(
            spec=spec,
            encoder=encoder.spec,
            encoder_name=str(encoder.folder),
            encoder_sha256=_fingerprint(self._encoders[encoder.folder]),
            preprocessing=encoder.preprocessing,
            nbytes=adapter.nbytes,
        )

    def _load_encoder(self, files: EncoderFiles) -> VisionEncoder:
        converted = read_component("image_encoder", files.folder, files.spec, variant=files.variant)
        encoder = VisionEncoder(files.spec)
        place(encoder, converted, self._precision, str(files.folder), self.quantization)
        return encoder

    def unload_adapter(self, name: str) -> None:
        """See `Backend.unload_adapter`."""
        del self._adapters[name]
        used = {attached.encoder.folder for attached in self._adapters.values()}
        self._encoders = {k: v for k, v in self._encoders.items() if k in used}

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
        attached = self._adapters[adapter]
        encoder = self._encoders[attached.encoder.folder]
        features = attached.adapter.features(
            encoder, _channels_last(pixels).astype(self._precision)
        )
        conditional, unconditional = (np.array(rows.astype(mx.float32)) for rows in features)
        return conditional, unconditional

    def project(self, adapter: str, conditional: Floats, unconditional: Floats) -> ImageTokens:
        """See `Backend.project`."""
        rows = [mx.array(array).astype(self._precision) for array in (conditional, unconditional)]
        tokens = self._adapters[adapter].adapter.tokens(*rows)
        mx.eval(tokens.conditional, tokens.unconditional)
        return tokens

    def embed_images(self, adapter: str, pixels: Floats) -> Floats:
        """See `Backend.embed_images`."""
        encoder = self._encoders[self._adapters[adapter].encoder.folder]
        embedding = encoder.embedding(_channels_last(pixels).astype(self._precision))
        return np.array(embedding.astype(mx.float32))

    def condition(
        self,
        text: Sequence[TextStates],
        branches: Sequence[Branch],
        *,
        guided: bool,
        sizes: Sequence[Sizes] = (),
    ) -> Conditioning:
        """See `Backend.condition`."""
        attentions, sites = self.unet.cross_attentions, self.model.sites
        states = mx.concatenate([row.states for row in text])
        images = []
        for branch in branches:
            tokens = branch.tokens.conditional
            if guided:
                tokens = mx.concatenate([branch.tokens.unconditional, tokens])
            adapter = self._adapters[branch.adapter].adapter
            pairs = adapter.keys_values(tokens, sites, attentions)
            images.append(steered(pairs, branch))
        conditioning = Conditioning(
            rows=len(text),
            text=tuple(attention.keys_values(states) for attention in attentions),
            images=tuple(images),
            added=added_conditioning(self.unet, text, sizes),
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
    ) -> mx.array:
        """See `Backend.predict`."""
        x = (latents * step.input_scale).astype(self._precision)
        rows = mx.concatenate([x] * conditioning.rows)
        output = self.unet(rows, step.timestep, Context(conditioning, scales))
        return output.astype(mx.float32).reshape(conditioning.rows, *latents.shape)

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
        parts |= {f"image_encoder:{path.name}": e for path, e in self._encoders.items()}
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


def _fingerprint(encoder: VisionEncoder) -> str:
    last = [layer.feed_forward.proj_out.bias for layer in encoder.layers]
    weights = [encoder.class_embedding, encoder.position_embedding.weight, *last]
    return fingerprint(np.array(array.astype(mx.float32)) for array in weights)


def _nbytes(module: nn.Module) -> int:
    return sum(array.nbytes for _, array in tree_flatten(module.parameters()))
