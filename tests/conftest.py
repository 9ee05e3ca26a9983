"""Models that many tests share: built once per process, never changed by a test."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import demo
from ipa_mlx.blas import preload
from oracle import models
from oracle.kept import Kept

BACKENDS = ("mlx", "torch")


def pytest_configure() -> None:
    """Before any test imports MLX, or a fast BLAS could not be put in front of its own."""
    preload()


def pytest_collection_finish() -> None:
    """Tests leave few cycles; to look through all libraries for them took an eighth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of odd shapes, with an adapter of each kind beside it."""
    return models.build_with_adapters(tmp_path_factory.mktemp("tiny"), seed=1)


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of SDXL's kind."""
    model = models.Tiny(unet=models.XL_UNET, second_text=models.SECOND_TEXT)
    return models.build_with_adapters(tmp_path_factory.mktemp("tiny_xl"), model, seed=6)


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Every law holds on both backends."""
    return str(request.param)


@pytest.fixture
def draw() -> np.random.Generator:
    """Random numbers, the same for a test whatever ran before it."""
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def references() -> list[Image.Image]:
    """The demo's eight reference pictures."""
    return [Image.open(path).convert("RGB") for path in demo.references()]


def _whole(pipe: ipa.Pipeline) -> Mapping[int, Any]:
    """A copy has a lock of its own; MLX's types of numbers are one each and cannot be copied."""
    from ipa_mlx.loading import DTYPES  # not before `preload`

    types = {id(dtype): dtype for dtype in DTYPES.values()}
    return types | {id(pipe._lock): threading.Lock()}


_LOADED = Kept(_whole)


def load(folder: Path | str, backend: str, *adapters: str) -> ipa.Pipeline:
    """A pipeline of a test's own, in float32 on the CPU, with adapters of `tiny` loaded."""

    def anew() -> ipa.Pipeline:
        if not adapters:
            device = {"device": "cpu"} if backend == "torch" else {}
            return ipa.load(folder, backend=backend, dtype="float32", **device)
        *others, name = adapters
        pipe = load(folder, backend, *others)
        pipe.load_ip_adapter(Path(folder) / f"{name}.safetensors", name=name)
        return pipe

    return _LOADED.copy((backend, adapters), Path(folder), anew)


@pytest.fixture(scope="session")
def open_pipeline():
    """`load` above, for tests that need a pipeline of their own."""
    return load
