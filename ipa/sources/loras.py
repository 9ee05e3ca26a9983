"""From what a user calls a LoRA (a file, a folder, a name on the hub) to a file here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Unpack

from ipa.errors import CheckpointError

from .hub import HubOptions, download, hub_name
from .models import resolve_file

DEFAULT_NAME = "pytorch_lora_weights.safetensors"
"""The file name that diffusers' training scripts give a LoRA."""


def resolve_lora(
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    **hub: Unpack[HubOptions],
) -> Path:
    """Find a LoRA's file by name.

    Args:
        source: A file, a folder, or a name on the hub (owner/name, or owner/name/folder/file).
        weight_name: File inside the folder or repository; None takes `DEFAULT_NAME`.
        subfolder: Folder of the file inside it.
        **hub: revision and offline, as all that is loaded takes them (`HubOptions`).

    Raises:
        CheckpointError: There is no such file, or the hub cannot be reached.
    """
    root, named = Path(source).expanduser(), hub_name(source)
    if root.is_file():
        return root
    inside = "/".join(part for part in (subfolder, weight_name or DEFAULT_NAME) if part)
    if named is not None:
        name = f"{named.repository}/{named.path or inside}"
        return resolve_file(name, **hub)
    if not (root / inside).is_file():
        here = sorted(path.name for path in root.glob("*.safetensors")) if root.is_dir() else []
        raise CheckpointError(
            f"{root / inside if root.is_dir() else root} does not exist",
            found=", ".join(here[:5]) or "no LoRA here",
            remedy="check the path, or pass weight_name=",
        )
    return root / inside


NAMES = ("learned_embeds.safetensors", "learned_embeds.bin")
"""The file names that diffusers gives textual inversions."""


def resolve_inversion(
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    **hub: Unpack[HubOptions],
) -> Path:
    """Find the file of a textual inversion, as diffusers finds it.

    Raises:
        CheckpointError: There is none, or the hub cannot be reached.
    """
    named, prefix = hub_name(source), f"{subfolder}/" if subfolder else ""
    names = [f"{prefix}{name}" for name in ([weight_name] if weight_name else NAMES)]
    if named is not None and named.path:
        return resolve_file(source, **hub)
    root = Path(source).expanduser()
    if named is not None:

        def choose(there: Collection[str]) -> Collection[str]:
            return [name for name in names if name in there][:1] or names[:1]

        root = download(named.repository, choose, markers=names, **hub)
    files = [root] if root.is_file() else [root / name for name in names]
    for file in files:
        if file.is_file():
            return file
    raise CheckpointError(
        f"{source}: no file of textual inversion",
        found=f"none called {' or '.join(names)}" if root.is_dir() else "no such file here",
        remedy="check the path, subfolder= and weight_name=",
    )
