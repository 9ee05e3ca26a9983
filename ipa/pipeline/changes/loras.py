"""LoRAs beside a model: loaded, weighted, forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ipa.checks import checked
from ipa.model.ignoring import Ignore
from ipa.request.result import OnProgress
from ipa.request.watched import watching
from ipa.sources.hub import FileOptions
from ipa.sources.loras import resolve_lora
from ipa.watching import CancelSignal

from ..loaded import Loaded


@checked
def load_lora(
    loaded: Loaded,
    source: str | Path,
    *,
    name: str | None = None,
    scale: float = 1.0,
    fuse: bool = False,
    ignore: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[FileOptions],
) -> str:
    """Load a LoRA beside those already loaded; it acts in the UNet and the text encoders.

    The base model's weights are never written to: after unloading, or at scale 0, its output is
    the same, bit for bit. Words that were learned with it and lie in its file are known as
    long as it is loaded, at any scale; what of the file is not used is in `info()` and in the
    warnings of results.

    Args:
        source: A file, a folder, or a name on the hub; see `ipa.sources.loras`.
        name: What it is called here; by default the file's stem.
        scale: How strongly it acts; below 0 it acts against what it was trained for.
        fuse: Add it to copies of the weights, once, and not to every layer's output: no cost
            per step, for the memory of the layers that it changes. The originals are kept.
        ignore: As for `load_controlnet`.
        on_progress, cancel: As for `ipa.load`.
        **options: revision and offline; `weight_name`: file inside the folder or repository;
            `subfolder`: folder of the file inside it.

    Returns:
        The LoRA's name.

    Raises:
        Cancelled: `cancel` says so; nothing of it is loaded.
        CheckpointError: The file is damaged, holds what has no place in this model, or is made
            for another base model.
        RequestError: The name is taken, the scale is no number, or it cannot be fused.
    """
    asked = Ignore.of(ignore)
    with watching(on_progress, cancel):
        path = resolve_lora(source, **options)
        chosen = name or path.stem
        with loaded.changed():
            loaded.loras.load(chosen, path, scale, fuse=fuse, ignore=asked)
    return chosen


@checked
def set_lora_scale(loaded: Loaded, scale: float, name: str | None = None) -> None:
    """Set how strongly one LoRA acts, or each of them; a call's `loras` may say otherwise."""
    with loaded.changed():
        loaded.loras.set_scale(scale, name)


@checked
def unload_lora(loaded: Loaded, name: str | None = None) -> None:
    """Forget one LoRA, or all of them."""
    with loaded.changed():
        loaded.loras.unload(name)
