"""Hashes of files of weights in the forms by which A1111 and its extensions know them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ipa.metadata.ours import FileHashes
from ipa.pipeline.snapshot import Snapshot

_BLOCK = 1 << 20


def file_hashes(loaded: Snapshot) -> FileHashes:
    """The hashes of what is loaded from files; folders have none. The model's file is read whole.

    Sources: `sha256_from_cache` (modules/hashes.py), `addnet_hash_safetensors` (the same),
    `model_hash` (modules/sd_models.py, which the ControlNet extension shows).
    """
    model = loaded.model.single_file
    files = {name: one.files.weights for name, one in loaded.adapters.items()}
    files |= {name: one.files.path for name, one in loaded.controlnets.items()}
    loras = {name: one.path for name, one in loaded.loras.items()}
    return FileHashes(
        model=_sha256(model.path, 0)[:10] if model and model.path.is_file() else None,
        files={name: _short(path) for name, path in files.items() if path.is_file()},
        loras={name: _of_tensors(path)[:12] for name, path in loras.items() if path.is_file()},
    )


def _sha256(path: Path, begin: int) -> str:
    made = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(begin)
        while block := file.read(_BLOCK):
            made.update(block)
    return made.hexdigest()


def _of_tensors(path: Path) -> str:
    """Of a safetensors file the hash without its header; of another the whole."""
    if path.suffix != ".safetensors":
        return _sha256(path, 0)
    with path.open("rb") as file:
        return _sha256(path, 8 + int.from_bytes(file.read(8), "little"))


def _short(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
