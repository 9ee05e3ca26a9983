"""Reading originals with the loaders of diffusers and transformers, strictly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from safetensors import SafetensorError, safe_open

from ipa.contract.errors import CheckpointError
from ipa.contract.files import STEMS, find_weights, require_safetensors

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_component(
    kind: Any, component: str, folder: Path, dtype: torch.dtype, variant: str | None
) -> torch.nn.Module:
    """One module from its folder.

    Raises:
        CheckpointError: Tensors are missing, left over, misshapen or not finite, or the folder was
            converted for MLX.
    """
    for file in find_weights(folder, STEMS[component], variant):
        _shapes(file)
    options = {"diffusers": {"torch_dtype": dtype}, "transformers": {"dtype": dtype}}
    try:
        with quiet():
            module, report = kind.from_pretrained(
                folder,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options[kind.__module__.partition(".")[0]],
            )
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded as {kind.__name__}",
            found=str(error).strip().splitlines()[0],
            remedy="check that config.json belongs to these weights",
        ) from error
    _refuse(report, folder)
    check_finite(module.state_dict(), str(folder))
    return module.eval().requires_grad_(requires_grad=False)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of one safetensors file, finite."""
    _shapes(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    check_finite(tensors, path.name)
    return tensors


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one safetensors file, from its header alone."""
    require_safetensors(path)
    return _shapes(path)


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            if "ipa_layout" in (file.metadata() or {}):
                raise CheckpointError(
                    f"{path} was converted for MLX",
                    remedy="the reference reads originals: give it the folder it was made from",
                )
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged", found=str(error), remedy="download it again"
        ) from error


def check_finite(tensors: dict[str, torch.Tensor], where: str) -> None:
    """Raise CheckpointError for a NaN or infinite weight."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{where}: {name} has NaN or infinite values", remedy="download the file again"
            )


def _refuse(report: dict[str, Any], folder: Path) -> None:
    wrong = {
        kind: sorted(str(k) for k in report.get(f"{kind}_keys", ()) if "position_ids" not in str(k))
        for kind in ("missing", "unexpected", "mismatched")
    }
    found = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in wrong.items() if keys]
    if found:
        raise CheckpointError(
            f"{folder}: the weights are not those of its config.json",
            found="; ".join(found),
            remedy="take config and weights from one model",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' bars and warnings off the terminal: what matters is raised."""
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    levels = [library.get_verbosity() for library in libraries]
    bar = transformers.utils.logging.is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity(50)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        if bar:
            transformers.utils.logging.enable_progress_bar()
