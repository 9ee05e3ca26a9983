"""`--influence` of the command line: what image prompts added, as a sheet or as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import numpy as np
import typer

from ipa.app.claims import claim, free_paths
from ipa.app.output import Saving, output_paths
from ipa.errors import RequestError
from ipa.files import put_whole
from ipa.request.image_prompt import ImagePrompt
from ipa.request.influence import Influence
from ipa.request.result import Result
from ipa.sheets.influence_sheet import influence_sheet

InfluenceOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--influence",
        metavar="FILE",
        help="Measure where and when each -i acts: a sheet (.png), or all arrays (.npz).",
    ),
]


def check_influence(
    path: Path | None, prompts: Sequence[ImagePrompt], count: int, output: Path
) -> None:
    """Raise RequestError, before anything is computed, if influence cannot be shown there."""
    if path is None:
        return
    if path.suffix.lower() not in {".png", ".npz"}:
        raise RequestError(
            f"{path}: influence is written as .png or .npz", found=f"suffix {path.suffix!r}"
        )
    output_paths(path.with_suffix(".png"), count)  # the folder can be written to
    if path.resolve() == output.resolve():
        raise RequestError("--influence and --output name one file", found=str(path))
    if path.is_dir():
        raise RequestError(f"{path} is a folder", remedy="give a file name")
    if not prompts:
        raise RequestError("--influence is of image prompts", remedy="add --image-prompt")


def save_influence(result: Result, prompts: Sequence[ImagePrompt], path: Path | None) -> list[Path]:
    """Write a sheet for each picture that was made, or the arrays of all of them.

    Returns:
        What was written; nothing without a path.
    """
    if path is None or result.influence is None:
        return []
    if path.suffix.lower() == ".npz":
        return [_save_arrays(result.influence, path)]
    paths, saving = free_paths(path, len(result.images)), Saving(path)
    for number, (made, target) in enumerate(zip(result.images, paths, strict=True)):
        sheet = influence_sheet(result.influence, made, prompts, number)
        saving.save(sheet, target, result.info)
    return saving.finish()


def _save_arrays(influence: Influence, path: Path) -> Path:
    """Save the arrays, whole or not at all; returns where."""
    arrays = influence.arrays()
    return put_whole(
        path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays), claim
    )
