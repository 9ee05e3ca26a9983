"""A backend with random weights, of which no file is needed: speed does not depend on values."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from ipa.arrays import Floats
from ipa.backend.protocol import LoadedAdapter
from ipa.errors import RequestError
from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipVisionSpec
from ipa.model.folder import AdapterFiles, ModelFolder
from ipa.model.left_out import NOTHING
from ipa.model.preprocessor import default_preprocessing
from ipa.sources.encoders import EncoderFiles, loaded_adapter
from ipa_convert.tables.ip_adapter import table
from ipa_mlx.adapters import Adapters, ImageAdapter
from ipa_mlx.backend import MlxBackend
from ipa_mlx.networks.clip import TextEncoder, VisionEncoder
from ipa_mlx.networks.unet import UNet
from ipa_mlx.networks.vae import Vae
from ipa_mlx.networks.weights import DTYPES, keep_freed

_NUMBERS = 1 << 20
_NORM, _BIAS = 0.1, 0.02


def open_random(
    model: ModelFolder, parts: Collection[str], *, dtype: str | None, device: str | None
) -> MlxBackend:
    """A model of random weights; what is not among `parts` has none, and cannot be run.

    Args:
        model: Its structure.
        parts: Of "unet", "vae", "text_encoder": those that are wanted.
        dtype: As `ipa_mlx.backend.load` takes it.
        device: None: MLX takes its default.

    Raises:
        RequestError: The dtype is unknown, or a device was named.
    """
    chosen = dtype or ("float16" if mx.default_device() == mx.gpu else "float32")
    if chosen not in DTYPES or device is not None:
        raise RequestError(
            "MLX takes no such precision or device",
            found=f"dtype {dtype}, device {device}",
            remedy=f"one of {', '.join(DTYPES)}, and no device",
        )
    keep_freed()
    modules = {
        "unet": UNet(model.unet),
        "vae": Vae(model.vae),
        "text_encoder": TextEncoder(model.text_encoder),
    }
    if model.text_encoder_2 is not None:
        modules["text_encoder_2"] = TextEncoder(model.text_encoder_2)
    for name, module in modules.items():
        if name.removesuffix("_2") in parts:
            draw(module, DTYPES[chosen])
    return MlxBackend(model=model, dtype=chosen, **modules)


def attach(
    backend: MlxBackend, structures: Mapping[str, tuple[AdapterSpec, ClipVisionSpec]]
) -> None:
    """Let a backend's adapters be random ones of these structures, which `load_adapter` takes."""
    adapters = RandomAdapters(backend.model, DTYPES[backend.dtype], None)
    adapters.structures = dict(structures)
    backend.adapters = adapters


@dataclass
class RandomAdapters(Adapters):
    """Adapters of random weights: `structures` by the kinds that are asked for."""

    structures: dict[str, tuple[AdapterSpec, ClipVisionSpec]] = field(default_factory=dict)
    made: dict[str, tuple[ImageAdapter, EncoderFiles]] = field(default_factory=dict)

    def load(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """Make one of `files.kind`; no file is read."""
        spec, seen = self.structures[files.kind or ""]
        sites = self.model.sites
        names = table(spec, sites)
        shapes = ((names.target(tensor), tensor.target_shape) for tensor in names.tensors)
        converted = (
            (key, mx.array(_drawn(key, shape)).astype(self.precision)) for key, shape in shapes
        )
        adapter = ImageAdapter.build(spec, converted, name)
        mx.eval(adapter.projector.parameters(), adapter.projections)
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

    def encoder(self, name: str) -> VisionEncoder:
        """An adapter's image encoder, made when it is first asked for."""
        _, files = self.made[name]
        if files.folder not in self.encoders:
            encoder = VisionEncoder(files.spec)
            draw(encoder, self.precision)
            self.encoders[files.folder] = encoder
        return self.encoders[files.folder]


def draw(module: nn.Module, dtype: mx.Dtype) -> None:
    """Give a module random weights that keep activations alive."""
    weights = []
    for name, array in tree_flatten(module.parameters()):
        weights.append((name, mx.array(_drawn(name, array.shape)).astype(dtype)))
        mx.eval(weights[-1][1])  # one by one, or there would be two of all
    module.load_weights(weights)


def _drawn(name: str, shape: tuple[int, ...]) -> Floats:
    if len(shape) > 1:
        return np.resize(_numbers() * np.float32(math.prod(shape[1:]) ** -0.5), shape)
    if name.endswith("weight"):  # of a norm, around 1
        return np.resize(1 + _NORM * _numbers()[: math.prod(shape)], shape)
    return np.resize(_BIAS * _numbers()[: math.prod(shape)], shape)


@cache
def _numbers() -> Floats:
    """What is laid out over and over: drawing every weight would take as long as loading."""
    return np.random.default_rng(0).standard_normal(_NUMBERS, np.float32)
