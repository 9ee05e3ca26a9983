"""How checkpoints lie on disk: which file holds a component, and what a file announces itself as.

The extension is only a hint: what counts is how the file begins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ipa.errors import CheckpointError, shown

STEMS: Mapping[str, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "image_encoder": "model",
    "controlnet": "diffusion_pytorch_model",
    "t2i_adapter": "diffusion_pytorch_model",
}
"""File stem of each component's weights in diffusers' folder layout."""

Container: TypeAlias = Literal["safetensors", "torch zip", "torch stream"]

_PICKLE_STEMS: Mapping[str, str] = {"model": "pytorch_model"}  # where torch's files differ
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
_MAX_JSON_BYTES = 64 << 20  # a shard index of a large model has some MiB
_STREAM = b"\x8a\x0a" + 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # a pickled number
# How files of torch.save begin: (offset, bytes, container, what it is).
_TORCH: tuple[tuple[int, bytes, Container, str], ...] = (
    (0, b"PK\x03\x04", "torch zip", "a torch zip archive (pickle)"),
    (2, _STREAM, "torch stream", "an old torch file (pickle)"),
    (11, _STREAM, "torch stream", "an old torch file (pickle)"),  # after protocol 4's frame
)
# How files of no use begin: (offset, bytes, what it is, what to do).
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (
        0,
        b"version https://git-lfs",
        "a Git LFS pointer",
        "the weights were not downloaded: run `git lfs pull`",
    ),
    (0, b"<!DO", "a web page", "download the file itself, not the page that shows it"),
    (0, b"<!do", "a web page", "download the file itself, not the page that shows it"),
    (0, b"<html", "a web page", "download the file itself, not the page that shows it"),
    (0, b"GGUF", "a GGUF file", "use the original safetensors file"),
    (0, b"\x80", "a pickle", "use the .safetensors file of the same model"),
    (257, b"ustar", "a tar archive", "use the .safetensors file of the same model"),
)


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of one component: one, or the shards that an index lists."""

    files: tuple[Path, ...]
    index: Path | None = None


def container(path: Path) -> Container:
    """The container of a file of weights, told by how it begins.

    Raises:
        CheckpointError: It does not exist, or is something else; the message says what.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist", remedy="check the path")
    with path.open("rb") as file:
        start = file.read(512)
    # First, since a header's length may begin with any byte, also with that of a pickle (0x80).
    if int.from_bytes(start[:8], "little") <= _MAX_HEADER_BYTES and start[8:9] == b"{":
        return "safetensors"
    for offset, magic, kind, _ in _TORCH:
        if start[offset : offset + len(magic)] == magic:
            return kind
    for offset, magic, what, remedy in _FOREIGN:
        if start[offset : offset + len(magic)] == magic:
            raise CheckpointError(f"{path} holds no weights", found=what, remedy=remedy)
    found = "an empty file" if not start else f"a file that begins with {start[:8]!r}"
    raise CheckpointError(
        f"{path} is not a safetensors file", found=found, remedy="download it again"
    )


def require_safetensors(path: Path) -> None:
    """Raise CheckpointError unless a file begins as safetensors do; name what it is instead."""
    kind = container(path)
    if kind != "safetensors":
        raise CheckpointError(
            f"{path} holds no weights",
            found=next(what for *_, row, what in _TORCH if row == kind),
            remedy="use the .safetensors file of the same model",
        )


def weight_names(stem: str, variant: str | None = None) -> tuple[tuple[str, str], ...]:
    """The names of a component's weights: (one file, index of shards), the preferred first.

    Args:
        stem: File name without suffixes, see `STEMS`.
        variant: "fp16" and the like; None takes the plain file.
    """
    tag = f".{variant}" if variant else ""
    places = ((stem, "safetensors"), (_PICKLE_STEMS.get(stem, stem), "bin"))
    return tuple(
        (f"{name}{tag}.{suffix}", f"{name}.{suffix}.index{tag}.json") for name, suffix in places
    )


def find_weights(folder: Path, stem: str, variant: str | None = None) -> Weights:
    """The weight files of a component, safetensors before pickles.

    Args:
        folder: The component's folder.
        stem: File name without suffixes, see `STEMS`.
        variant: "fp16" and the like; None takes the plain file.

    Raises:
        CheckpointError: Nothing is there, or a file is of another kind.
    """
    names, weights = weight_names(stem, variant), None
    for single, index in names:
        if (folder / single).is_file():
            weights = Weights((folder / single,))
        elif (folder / index).is_file():
            weights = Weights(_shards(folder / index), folder / index)
        if weights is not None:
            break
    if weights is None:
        raise _no_weights(folder, [single for single, _ in names])
    for file in weights.files:
        container(file)
    return weights


def has_weights(folder: Path, stem: str, variant: str | None = None) -> bool:
    """Whether a component's weights lie in a folder, or the index of their shards."""
    names = weight_names(stem, variant)
    return any((folder / name).is_file() for pair in names for name in pair)


def _no_weights(folder: Path, names: list[str]) -> CheckpointError:
    present = sorted(p.name for p in folder.glob("*")) if folder.is_dir() else []
    return CheckpointError(
        f"{folder}: no weights called {' or '.join(names)}",
        found=", ".join(present) or ("an empty folder" if folder.is_dir() else "no such folder"),
        remedy="check the path, or finish the download; variant= selects files such as "
        "*.fp16.safetensors",
    )


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map must map tensor names to file names")
    names = sorted(set(weight_map.values()))
    if not names:
        raise CheckpointError(f"{index} lists no shards")
    for name in names:
        if name != Path(name).name or name in {".", ".."} or "\\" in name or "\0" in name:
            raise CheckpointError(f"{index}: a shard must lie beside its index", found=shown(name))
        if not (index.parent / name).is_file():
            raise CheckpointError(
                f"{index}: shard {name} is missing", remedy="finish the download of this folder"
            )
    return tuple(index.parent / name for name in names)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a small file. Raises CheckpointError if there is none."""
    if not path.is_file():
        raise CheckpointError(
            f"{path} does not exist", remedy="check the path, or finish the download"
        )
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise CheckpointError(
            f"{path} is too large for a configuration", found=f"{path.stat().st_size} bytes"
        )
    try:
        value = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON", found=str(error)) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object", found=type(value).__name__)
    return value


def not_finite(
    where: str, name: str, position: int, size: int, precision: str = "float32"
) -> CheckpointError:
    """The error for a weight with NaN or infinity, wherever it is found."""
    remedy = "the file is damaged or the training failed: download it again, or use another one"
    is_half = precision not in ("float32", "float64")
    return CheckpointError(
        f"{where}: {name} holds values that are not finite",
        found=f"NaN or infinity at position {position} of {size}"
        + (f", read as {precision}" if is_half else ""),
        remedy=remedy + ('; if it is sound, load with dtype="float32"' if is_half else ""),
    )
