"""What a name means on the hub: a repository, or one file in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository (owner/name), and the path of a file in it; empty for the repository itself."""

    repository: str
    path: str = ""

    @property
    def folder(self) -> str:
        """The file's folder in the repository; empty for its root."""
        return self.path.rpartition("/")[0]

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]


def hub_name(name: str | Path) -> HubName | None:
    """owner/name, or owner/name/folder/file.safetensors; None for whatever is here or is neither.

    A file is told by its ending (.safetensors, .bin, .ckpt, .pt, .pth): a mistyped path of a folder
    stays a path.
    """
    text = str(name)
    owner, *rest = parts = text.split("/")
    plain = all(part and not part.startswith((".", "~")) for part in parts)
    if not rest or not plain or "\\" in text or Path(text).exists():
        return None
    is_file = text.lower().endswith(_WEIGHTS)
    if is_file != (len(parts) > 2):
        return None
    return HubName(f"{owner}/{rest[0]}", "/".join(rest[1:]))
