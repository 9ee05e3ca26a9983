"""Tiny models with what lies beside them, and pipelines over them: each made once, when asked for.

Nothing here is changed by a run: a pipeline is handed out with nothing loaded beside its model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import ipa
from ipa import demo
from oracle import models
from oracle.kept import Kept
from oracle.pipelines import diffusers_pipeline
from oracle.sealed import unseal

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

Pictures = list[Image.Image]

XL = models.Tiny(unet=models.XL_UNET, second_text=models.SECOND_TEXT)


def _whole(pipe: ipa.Pipeline) -> Mapping[int, Any]:
    """MLX's types of numbers are one each and cannot be copied."""
    from ipa_mlx.networks.weights import DTYPES  # not before `preload`

    return {id(dtype): dtype for dtype in DTYPES.values()}


_LOADED = Kept(_whole)


def load(folder: Path | str, backend: str, *adapters: str) -> ipa.Pipeline:
    """A pipeline of its own in float32 on the CPU, with adapters that lie beside the model."""

    def anew() -> ipa.Pipeline:
        if not adapters:
            device = {"device": "cpu"} if backend == "torch" else {}
            return ipa.load(folder, backend=backend, dtype="float32", **device)
        *others, name = adapters
        return with_adapters(load(folder, backend, *others), Path(folder), name)

    return _LOADED.copy((backend, adapters), Path(folder), anew)


def with_adapters(pipe: ipa.Pipeline, folder: Path, *adapters: str) -> ipa.Pipeline:
    for name in adapters:
        pipe.load_ip_adapter(folder / f"{name}.safetensors", name=name)
    return pipe


def copied(pipe: ipa.Pipeline) -> ipa.Pipeline:
    """A pipeline of its own, with what is loaded beside that one."""
    return unseal(copy.deepcopy(pipe, dict(_whole(pipe))))


class Workshop:
    """Everything lies below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._made: set[str] = set()
        self._asked: set[Path] = set()
        self._pipelines: dict[tuple[Path, str], ipa.Pipeline] = {}
        self._stock: dict[tuple[Path, tuple[str, ...]], DiffusionPipeline] = {}

    @cached_property
    def references(self) -> Pictures:
        """The demo's eight reference pictures."""
        return [Image.open(path).convert("RGB") for path in demo.references()]

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """What `make` writes to the path of that name."""
        path = self.root / name
        self._asked.add(path)
        if name not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
            self._made.add(name)
        return path

    @contextmanager
    def asked(self) -> Iterator[set[Path]]:
        """What is asked for within it."""
        self._asked = set()
        yield self._asked

    def model(self, name: str, tiny: models.Tiny | None = None, *, seed: int) -> Path:
        """A random model, with an adapter of each kind beside it."""
        return self.made(name, lambda root: models.build_with_adapters(root, tiny, seed=seed))

    @property
    def tiny(self) -> Path:
        """A random model of odd shapes."""
        return self.model("tiny", seed=1)

    @property
    def tiny_xl(self) -> Path:
        """The same of SDXL's kind."""
        return self.model("tiny_xl", XL, seed=6)

    def stock(self, folder: Path, *adapters: str) -> DiffusionPipeline:
        """diffusers' own, whose scales every run sets again."""
        key = folder, adapters
        if key not in self._stock:
            files = [folder / f"{name}.safetensors" for name in adapters]
            self._stock[key] = diffusers_pipeline(folder, files)
        return self._stock[key]

    def pipeline(self, folder: Path, backend: str, *adapters: str) -> ipa.Pipeline:
        """The one of a model and backend; of what runs before have loaded nothing is left."""
        key = folder, backend
        if key not in self._pipelines:
            self._pipelines[key] = load(folder, backend)
        pipe = self._pipelines[key]
        pipe.unload_controlnet()
        pipe.unload_ip_adapter()
        pipe.unload_lora()
        pipe.unload_t2i_adapter()
        return with_adapters(pipe, folder, *adapters)
