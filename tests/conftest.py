"""Models that many tests share: built once per process, never changed by a test."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ipa_mlx.blas import preload
from ipa_torch.startup import start
from oracle.sealed import seal

if TYPE_CHECKING:
    from ipa import Pipeline
    from oracle.workshop import Workshop

BACKENDS = ("mlx", "torch")

start()  # before anything else loads torch, or its bits would rest on where memory lies


def pytest_configure() -> None:
    """Before any test imports MLX, or a fast BLAS could not be put in front of its own."""
    if os.environ.get("IPA_TESTS_BLAS") == "own":
        import mlx.core  # noqa: F401 - once it is loaded, nothing is
    preload()


def pytest_collection_finish() -> None:
    """Tests leave few cycles; to look through all libraries for them took an eighth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    """No test changes a pipeline that another test is given."""
    made = yield
    return made if fixturedef.scope == "function" else seal(made)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Where tiny models and pipelines over them are made."""
    from oracle.workshop import Workshop

    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def tiny(workshop: Workshop) -> Path:
    """A random model of odd shapes, with an adapter of each kind beside it."""
    return workshop.tiny


@pytest.fixture(scope="session")
def tiny_xl(workshop: Workshop) -> Path:
    """The same of SDXL's kind."""
    return workshop.tiny_xl


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Every law holds on both backends."""
    return str(request.param)


@pytest.fixture
def draw() -> np.random.Generator:
    """Random numbers, the same for a test whatever ran before it."""
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def references(workshop: Workshop) -> list[Image.Image]:
    """The demo's eight reference pictures."""
    return workshop.references


@pytest.fixture
def own(pipe: Pipeline) -> Pipeline:
    """A copy of the module's `pipe`, for a test that loads, unloads or sets something."""
    from oracle.workshop import copied

    return copied(pipe)


@pytest.fixture(scope="session")
def open_pipeline() -> Callable[..., Pipeline]:
    """A pipeline of one's own: see `oracle.workshop.load`."""
    from oracle.workshop import load

    return load
