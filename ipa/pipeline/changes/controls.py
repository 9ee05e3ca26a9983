"""ControlNets and T2I-Adapters beside a model: loaded, forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from ipa.checks import checked
from ipa.model.ignoring import Ignore
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.request.result import OnProgress
from ipa.request.watched import watching
from ipa.sources.controls import (
    ControlNetOptions,
    T2IAdapterOptions,
    resolve_controlnet,
    resolve_t2i_adapter,
)
from ipa.watching import CancelSignal

from ..loaded import Loaded


@checked
def load_controlnet(
    loaded: Loaded,
    source: str | Path,
    *,
    name: str | None = None,
    ignore: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[ControlNetOptions],
) -> str:
    """Load a ControlNet beside those already loaded; see `ipa.sources.controls`.

    Args:
        source: A folder with config.json, a file, or a name on the hub (owner/name, or
            owner/name/folder/file).
        name: What controls call it; by default the repository's, the folder's or the file's.
        ignore: Names of tensors that it does not know and that may be left out, with * for any
            characters.
        on_progress, cancel: As for `ipa.load`.
        **options: revision and offline; `variant`: "fp16" and the like, in the names of a
            folder's files; `config`: for a file that is of no public size, its config.json;
            `global_pool_conditions`: for a file that lies alone, True for shuffle.

    Returns:
        The ControlNet's name.

    Raises:
        Cancelled: `cancel` says so; nothing of it is loaded.
        CheckpointError: It is damaged, no ControlNet, or made for another base model.
        RequestError: The name is taken.
    """
    with watching(on_progress, cancel):
        files = resolve_controlnet(source, **options)
        files = replace(files, ignore=Ignore.of(ignore))
        chosen = name or files.name
        with loaded.changed():
            loaded.controls.load(chosen, files)
    return chosen


@checked
def unload_controlnet(loaded: Loaded, name: str | None = None) -> None:
    """Forget one ControlNet, or all of them."""
    with loaded.changed():
        loaded.controls.unload(name)


@checked
def load_t2i_adapter(
    loaded: Loaded,
    source: str | Path,
    *,
    name: str | None = None,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[T2IAdapterOptions],
) -> str:
    """Load a T2I-Adapter beside what is loaded; see `ipa.sources.controls`.

    It sees its control picture alone, once per generation.

    Args:
        source: A folder with config.json, a file, or a name on the hub (owner/name, or
            owner/name/folder/file).
        name: What controls call it; by default the repository's, the folder's or the file's.
        on_progress, cancel: As for `ipa.load`.
        **options: revision and offline; `weight_name`: a file that lies alone inside the folder
            or repository; `subfolder`: folder of the file, or of config.json, inside it;
            `variant`: "fp16" and the like, in the names of a folder's files; `config`: for a
            file of no public structure, its config.json; `ignore`: as for `load_controlnet`.

    Returns:
        The T2I-Adapter's name.

    Raises:
        Cancelled: `cancel` says so; nothing of it is loaded.
        CheckpointError: It is damaged, no T2I-Adapter, or made for another base model.
        RequestError: The name is taken, also by a ControlNet.
    """
    with watching(on_progress, cancel):
        files = resolve_t2i_adapter(source, **options)
        chosen = name or files.name
        with loaded.changed():
            loaded.controls.load(chosen, files)
    return chosen


@checked
def unload_t2i_adapter(loaded: Loaded, name: str | None = None) -> None:
    """Forget one T2I-Adapter, or all of them."""
    with loaded.changed():
        loaded.controls.unload(name, T2IAdapterSpec)
