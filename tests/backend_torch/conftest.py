"""Reference backends on random models, opened without a pipeline around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ipa.model.folder import AdapterFiles
from ipa.sources.model_folder import open_model_folder
from ipa_torch.backend import TorchBackend, load
from oracle import models

ADAPTERS = ("linear", "plus", "full")
CONFIGS = {
    "odd": models.UNET,
    # All levels of one width: no shape check can see keys and values at the wrong site.
    "equal": models.UNET
    | {
        "block_out_channels": (24, 24, 24),
        "attention_head_dim": 3,
        "transformer_layers_per_block": (2, 1, 2),
        "use_linear_projection": True,
    },
    "four": models.FOUR_LEVELS,
}


def open_runtime(
    folder: Path, *adapters: str, dtype: str | None = "float32", device: str | None = "cpu"
) -> TorchBackend:
    """The reference on a folder, with adapters that lie in it."""
    runtime = load(open_model_folder(folder, name="tiny"), dtype=dtype, device=device)
    for name in adapters:
        files = AdapterFiles(name=name, weights=folder / f"{name}.safetensors", image_encoder=None)
        runtime.load_adapter(name, files)
    return runtime


@pytest.fixture(scope="session")
def open_reference() -> Callable[..., TorchBackend]:
    """`open_runtime` above."""
    return open_runtime


@pytest.fixture(scope="session", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of each shape, with an adapter of each kind beside it."""
    tiny = models.Tiny(unet=CONFIGS[request.param])
    seed = 40 + list(CONFIGS).index(request.param)
    return models.build_with_adapters(tmp_path_factory.mktemp(request.param), tiny, seed=seed)


@pytest.fixture(scope="session")
def runtime(folder: Path) -> TorchBackend:
    """With all three adapters loaded; no test changes it."""
    return open_runtime(folder, *ADAPTERS)
