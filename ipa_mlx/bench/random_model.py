"""A backend with random weights, of which no file is needed: speed does not depend on values."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

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
from ipa.model.ignoring import Contents
from ipa.model.left_out import NOTHING
from ipa.model.preprocessor import default_preprocessing
from ipa.model.quantization import Quantization
from ipa.sources.encoders import EncoderFiles, loaded_adapter
from ipa_convert.tables.ip_adapter import table
from ipa_mlx.adapters import Adapters, ImageAdapter, _Attached, _Encoder
from ipa_mlx.backend import MlxBackend, _makers
from ipa_mlx.device import device as default_device
from ipa_mlx.networks.clip import VisionEncoder
from ipa_mlx.networks.weights import DTYPES, keep_freed
from ipa_mlx.residency import Measured, Resident, Source, resident

_NUMBERS = 1 << 20
_NORM, _BIAS = 0.1, 0.02

Structures = Mapping[str, tuple[AdapterSpec, ClipVisionSpec]]


def open_random(
    model: ModelFolder, parts: Collection[str], *, dtype: str | None, device: str | None
) -> MlxBackend:
    """A model of random weights; what is not among `parts` is drawn when it is first used.

    Args:
        model: Its structure.
        parts: Of "unet", "vae", "text_encoder": those that are wanted.
        dtype: As `ipa_mlx.backend.load` takes it.
        device: None: MLX takes its default.

    Raises:
        RequestError: The dtype is unknown, or a device was named.
    """
    chosen = dtype or ("float16" if default_device().is_gpu else "float32")
    if chosen not in DTYPES or device is not None:
        raise RequestError(
            "MLX takes no such precision or device",
            found=f"dtype {dtype}, device {device}",
            remedy=f"one of {', '.join(DTYPES)}, and no device",
        )
    keep_freed()
    makers = _makers(model)
    networks = {name: _resident(make, DTYPES[chosen]) for name, make in makers.items()}
    for name, network in networks.items():
        if name.removesuffix("_2") in parts:
            network.get()
    return MlxBackend(model, chosen, networks)


def attach(backend: MlxBackend, structures: Structures) -> None:
    """Let a backend's adapters be random ones of these structures, which `load_adapter` takes."""
    backend.adapters = RandomAdapters(
        backend.model, DTYPES[backend.dtype], None, structures=structures
    )


@dataclass(frozen=True, eq=False)
class RandomSource(Source):
    """Weights in no file: `shapes` by name."""

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def shaped(cls, shapes: Mapping[str, tuple[int, ...]], dtype: mx.Dtype) -> RandomSource:
        """Weights of these shapes."""
        return cls(None, dtype, None, "random", {}, shapes)

    @cached_property
    def measured(self) -> Measured:
        """What they take."""
        return Measured(sum(map(self.nbytes, self.shapes)), None)

    @cached_property
    def reading(self) -> int:
        """Nothing is read: the largest is drawn beside the others."""
        return max(map(self.nbytes, self.shapes), default=0)

    def in_bits(self, how: Quantization) -> Measured:
        """What they take: they are never quantised."""
        return self.measured

    def is_quantized(self, name: str) -> bool:
        """No: they are drawn in the precision of the computation."""
        return False

    def nbytes(self, name: str) -> int:
        """The bytes of one."""
        return math.prod(self.shapes[name]) * self.dtype.size

    def arrays(self, names: Collection[str] | None = None) -> Iterator[tuple[str, mx.array]]:
        """The weights, or some of them, evaluated one by one, or there would be two of all."""
        for name in self.shapes if names is None else names:
            weight = mx.array(_drawn(name, self.shapes[name])).astype(self.dtype)
            mx.eval(weight)
            yield name, weight

    def fill(self, network: nn.Module) -> nn.Module:
        """A network with its weights."""
        network.load_weights(list(self.arrays()))
        return network


@dataclass
class RandomAdapters(Adapters):
    """Adapters of random weights: `structures` by the kinds that are asked for."""

    structures: Structures = field(default_factory=dict)

    def load(self, name: str, files: AdapterFiles) -> LoadedAdapter:
        """Make one of `files.kind`; no file is read."""
        spec, seen = self.structures[files.kind or ""]
        names = table(spec, self.model.sites)
        shapes = {names.target(tensor): tensor.target_shape for tensor in names.tensors}
        source = RandomSource.shaped(shapes, self.precision)
        adapter = Resident(source, lambda: ImageAdapter.build(spec, source.arrays(), name))
        adapter.get()
        encoder = EncoderFiles(
            folder=Path(f"random/{spec.feature}"),
            variant=None,
            spec=seen,
            preprocessing=default_preprocessing(seen.image_size),
            config={},
        )
        network = _resident(lambda: VisionEncoder(seen), self.precision)
        self._encoders.setdefault(encoder.folder, _Encoder(network, "random", Contents((), ())))
        self._attached[name] = _Attached(adapter, encoder.folder)
        return loaded_adapter(spec, encoder, "", source.measured.nbytes, NOTHING)


def _resident(make: Callable[[], nn.Module], dtype: mx.Dtype) -> Resident[Any]:
    """A network of random weights, drawn when it is first used."""
    shapes = {name: array.shape for name, array in tree_flatten(make().parameters())}
    return resident(RandomSource.shaped(shapes, dtype), make)


def draw(module: nn.Module, dtype: mx.Dtype) -> None:
    """Give a module random weights that keep activations alive."""
    shapes = {name: array.shape for name, array in tree_flatten(module.parameters())}
    RandomSource.shaped(shapes, dtype).fill(module)


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
