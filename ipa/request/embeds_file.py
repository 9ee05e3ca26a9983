"""The file of image embeds: safetensors, with where they come from in its metadata."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ipa.errors import CheckpointError, RequestError
from ipa.files import write_whole
from ipa.model.files import require_safetensors

_FORMAT = {"format": "ipa-mlx image embeds", "format_version": "1"}


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, npt.NDArray[np.float32]],
    about: Mapping[str, str],
) -> None:
    """Write tensors and metadata to a file, whole or not at all.

    Raises:
        RequestError: The name does not end in .safetensors, or the folder cannot be written to.
    """
    from safetensors.numpy import save  # the converters know the contract, and go without it

    where = Path(path)
    if where.suffix != ".safetensors":
        raise RequestError(
            f"{where}: image embeds are kept as .safetensors",
            found=f"suffix {where.suffix!r}",
            remedy="for the .ipadpt of other tools see ipa.prepare.image_prompts.ipadpt",
        )
    contents = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    write_whole(where, save(contents, metadata={**_FORMAT, **about}))


def read(
    path: str | os.PathLike[str], tensors: Sequence[Sequence[str]], about: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read tensors and metadata of these names, and no others.

    Args:
        path: The file.
        tensors: The sets of names that are possible.
        about: Names of metadata.

    Raises:
        CheckpointError: The file is missing, damaged, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    where = Path(path)
    require_safetensors(where)
    try:
        with safe_open(where, framework="numpy") as file:
            metadata = file.metadata() or {}
            found = sorted(file.keys())
            is_known = found in [sorted(names) for names in tensors]
            arrays = {n: file.get_tensor(n) for n in found} if is_known else {}
    except (SafetensorError, TypeError, OSError) as error:  # TypeError: a dtype without numpy's
        raise CheckpointError(f"{where} is damaged", found=str(error)) from error
    missing = [name for name in about if name not in metadata]
    if {k: metadata.get(k) for k in _FORMAT} != _FORMAT or not arrays or missing:
        raise CheckpointError(
            f"{where} holds no image embeds of this version",
            found=f"format {metadata.get('format')!r:.60}, tensors {', '.join(found)[:80]}",
            remedy="save them with ImageEmbeds.save",
        )
    return arrays, {name: metadata[name] for name in about}


@contextmanager
def described(path: str | os.PathLike[str]) -> Iterator[None]:
    """A context that adds the file's name to errors about its values."""
    try:
        yield
    except RequestError as error:
        raise CheckpointError(
            f"{path}: {error.what}", found=error.found, remedy=error.remedy
        ) from error
