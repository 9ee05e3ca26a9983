"""`ipa.load`: a name becomes a pipeline on a backend, which is imported only then."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from ipa.checks import check_plain, checked
from ipa.errors import BackendError, RequestError, shown
from ipa.memory.budget import check_budget
from ipa.memory.limits import OFFERS, check_offers
from ipa.model.folder import ModelFolder
from ipa.model.ignoring import Ignore
from ipa.model.quantization import Quantization
from ipa.request.result import OnProgress
from ipa.request.watched import watching
from ipa.sources.hub import FolderOptions, hub_only
from ipa.sources.models import resolve_model
from ipa.sources.vae import resolve_vae
from ipa.watching import CancelSignal

from .memory.staging import told
from .pipeline import Pipeline

_LOG = logging.getLogger("ipa.pipeline")

# Backend: (package with open_backend, framework that must be installed, how to install it, options)
_BACKENDS = {
    "mlx": (
        "ipa_mlx",
        "mlx",
        "pip install mlx (on Linux: mlx[cpu])",
        frozenset({"dtype", "quantize", "lazy"}),
    ),
    "torch": (
        "ipa_torch",
        "torch",
        "install this project with its extra [torch]",
        frozenset({"dtype", "device"}),
    ),
}


class LoadOptions(FolderOptions, total=False):
    """The keywords of `load` about a model's files and parts."""

    vae: str | Path | None
    ignore: Sequence[str] | str | None
    memory_budget: float | str | None
    memory_offers: Sequence[str]
    lazy: bool


@checked
def load(
    model: str | Path | ModelFolder,
    *,
    backend: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    quantize: int | None = None,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[LoadOptions],
) -> Pipeline:
    """Load a model.

    Args:
        model: "demo" (embedded), a diffusers folder, a converted folder, a single file, a name on
            the hub (owner/name, or owner/name/folder/file of a single file), or a model that is
            open already (then without revision, variant and offline).
        backend: "mlx" or "torch"; None takes MLX where it is installed, else torch.
        dtype: "float32", "float16" or "bfloat16", for torch "float64", too; None takes what suits
            the device.
        device: For torch: "cpu", "cuda", "mps"; None takes the fastest there is.
        quantize: For MLX: 4 or 8 bits for the matrices of attention and feed-forward, to save
            memory; None takes the weights as they are stored.
        on_progress: Called with a `Progress` of stage "download" (unit "bytes"), then of stage
            "load": MLX tells bytes, torch parts. In the thread that loads or, of downloads, in
            one of the hub's, one call at a time.
        cancel: Asked between tensors, and between chunks of a download, whether to stop: an event,
            or a function. What was downloaded whole is kept, and the rest goes on from there.
        **options: `revision`: branch, tag or commit on the hub. `offline`: never ask the hub; use
            the local cache. `variant`: "fp16" and the like, in the weights' file names. `vae`:
            another VAE than the model's own: a folder, a file, or a name on the hub; see
            `ipa.sources.vae`. A single file that has none needs one. `ignore`: names of tensors in
            the model's files, with * for any characters, that its networks do not know and that
            may be left out; without it they are refused. What lies outside every network of a
            single file is left out anyhow, and told. `memory_budget`, `memory_offers`: see
            `Pipeline.memory_budget`; with a budget no weight is read here, but when a call first
            uses it. `lazy`: so without one too, for `Pipeline.plan` (MLX alone).

    Raises:
        BackendError: The backend is unknown or not installed.
        Cancelled: `cancel` says so; nothing stays in memory.
        CheckpointError: The model is missing, damaged or not supported.
        RequestError: An argument is wrong.
    """
    if not isinstance(model, (str, Path, ModelFolder)) or model == "":
        raise RequestError(
            "model must name a model", found=shown(model), remedy='a folder, a hub id, or "demo"'
        )
    if not isinstance(model, ModelFolder):
        check_plain("model", model, (str, Path))
    chosen = choose_backend(backend)
    package, _, _, accepted = _BACKENDS[chosen]
    ignore = Ignore.of(options.get("ignore"))
    Quantization.of(quantize)  # refuses what there is not, before anything is downloaded
    budget = check_budget(options.get("memory_budget"))
    offers = check_offers(options.get("memory_offers", OFFERS))
    asked: dict[str, Any] = {"dtype": dtype, "device": device, "quantize": quantize}
    spare = [name for name, value in asked.items() if value is not None and name not in accepted]
    if spare:
        raise RequestError(f"the {chosen} backend takes no {', '.join(spare)}")
    asked["lazy"] = budget is not None or options.get("lazy", False)
    with watching(on_progress, cancel):
        folder = _found(model, options)
        if ignore.patterns:
            folder = replace(folder, ignore=ignore)
        _LOG.info("loading %s on %s", folder.name, chosen)
        opened = _opened(package, folder, {n: v for n, v in asked.items() if n in accepted})
    pipe = Pipeline(opened)
    if budget is not None:
        pipe.memory_budget = budget
    pipe.memory_offers = offers
    return pipe


def _found(model: str | Path | ModelFolder, options: LoadOptions) -> ModelFolder:
    """The files of a model and its VAE, downloaded where they are not here."""
    hub = hub_only(options)
    if not isinstance(model, ModelFolder):
        model = resolve_model(model, variant=options.get("variant"), **hub)
    return resolve_vae(model, options.get("vae"), offline=hub["offline"])


def _opened(package: str, folder: ModelFolder, asked: Mapping[str, Any]) -> Any:
    """A backend with a model; what it had read so far goes if it cannot be."""
    opening, began = importlib.import_module(package), time.perf_counter()
    with told(opening.ran_out, lambda: ("", "")):
        opened = opening.open_backend(folder, **asked)
    sizes = opened.residency.parts()
    _LOG.info(
        "loaded %s: %.1f MB in memory, %.2f s",
        folder.name,
        sum(part.nbytes for part in sizes.values() if part.is_here) / 1e6,
        time.perf_counter() - began,
    )
    return opened


def choose_backend(backend: str | None) -> str:
    """The backend's name: as asked, or the best one installed. Raises BackendError."""
    if backend is not None and backend not in _BACKENDS:
        raise BackendError(
            "unknown backend", found=shown(backend), remedy=f"one of {', '.join(_BACKENDS)}"
        )
    for name, (_, framework, install, _) in _BACKENDS.items():
        if backend not in {None, name}:
            continue
        if importlib.util.find_spec(framework) is not None:
            return name
        if backend == name:
            raise BackendError(f"the {name} backend needs {framework}", remedy=install)
    raise BackendError("neither mlx nor torch is installed", remedy=_BACKENDS["mlx"][2])


def environment(backend: str) -> dict[str, str]:
    """Facts of what an installed backend runs on; its framework is loaded."""
    facts: dict[str, str] = importlib.import_module(_BACKENDS[backend][0]).environment()
    return facts


def environments() -> dict[str, dict[str, str]]:
    """Facts of each installed backend: device, libraries, and what would make it faster."""
    return {
        name: environment(name)
        for name, (_, framework, *_) in _BACKENDS.items()
        if importlib.util.find_spec(framework) is not None
    }


def end_thread() -> None:
    """Give back what backends keep for the calling thread, which is about to end."""
    for package, *_ in _BACKENDS.values():
        if package in sys.modules:
            importlib.import_module(package).end_thread()


def accelerate() -> str:
    """Give MLX's Linux CPU wheel a fast BLAS; see `ipa_mlx.blas.build`."""
    return str(importlib.import_module("ipa_mlx.blas").build())
