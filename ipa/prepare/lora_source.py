"""From what a user calls a LoRA (a file, a folder, a name on the hub) to a file here."""

from __future__ import annotations

from pathlib import Path

from ipa.contract.errors import CheckpointError

from .hub_name import hub_name
from .sources import resolve_file

DEFAULT_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers' training scripts call the file."""


def resolve_lora(
    source: str | Path,
    *,
    weight_name: str | None = None,
    subfolder: str = "",
    revision: str | None = None,
    offline: bool = False,
) -> Path:
    """A LoRA file by name.

    Args:
        source: A file, a folder, or a name on the hub (owner/name, or owner/name/folder/file).
        weight_name: File inside the folder or repository; None takes `DEFAULT_NAME`.
        subfolder: Folder of the file inside it.
        revision: Branch, tag or commit on the hub.
        offline: Use the local cache only.

    Raises:
        CheckpointError: There is no such file, or the hub cannot be reached.
    """
    root, hub = Path(source).expanduser(), hub_name(source)
    if root.is_file():
        return root
    inside = "/".join(part for part in (subfolder, weight_name or DEFAULT_NAME) if part)
    if hub is not None:
        name = f"{hub.repository}/{hub.path or inside}"
        return resolve_file(name, revision=revision, offline=offline)
    if not (root / inside).is_file():
        here = sorted(path.name for path in root.glob("*.safetensors")) if root.is_dir() else []
        raise CheckpointError(
            f"{root / inside if root.is_dir() else root} does not exist",
            found=", ".join(here[:5]) or "no LoRA here",
            remedy="check the path, or pass weight_name=",
        )
    return root / inside
