"""Files of textual inversion, told by their shapes: diffusers' have no names in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ipa.contract.base_sites import base_name
from ipa.contract.errors import CheckpointError
from ipa.contract.files import container

from ..containers.checkpoint import Checkpoint, open_file
from ..containers.dtypes import WEIGHTS
from ..containers.torch_file import open_embeddings
from .description import Facts

TITLE = "textual inversion"

_TRAINED = re.compile(r"string_to_param\.")  # beside which A1111 and the authors keep more
_UNNAMED = {"emb_params", "*"}
_ENCODERS = ({"clip_l", "clip_g"}, {"text_encoders_0", "text_encoders_1"})
_WIDTHS_XL = {768, 1280}
_WIDTHS = {768, 1024, 1280}  # of the text encoders of Stable Diffusion


def open_any(path: Path) -> Checkpoint:
    """The checkpoint in a file, also where a learned word lies beside its training, or alone.

    Raises:
        CheckpointError: See `open_file`; a file that is neither is told of as a checkpoint.
    """
    try:
        found = open_file(path)
    except CheckpointError:
        word = _learned(path)
        if word is None:
            raise
        return word
    return (_learned(path) or found) if any(map(_TRAINED.match, found)) else found


def _learned(path: Path) -> Checkpoint | None:
    kind = container(path)
    if kind == "safetensors":
        return None
    try:
        word = Checkpoint(str(path), open_embeddings(path, kind), converted=False)
    except CheckpointError:
        return None
    return word if is_inversion(word) else None


def is_inversion(checkpoint: Checkpoint) -> bool:
    """Whether there are embeddings and no more: one tensor, or one for each of SDXL's encoders.

    A lone tensor of a name that could be anything is one if a text encoder has its width.
    """
    if any(t.dtype not in WEIGHTS or len(t.shape) not in {1, 2} for t in checkpoint.values()):
        return False
    if len(checkpoint) != 1:
        return set(checkpoint) in _ENCODERS
    ((name, tensor),) = checkpoint.items()
    return name in _UNNAMED or name.startswith("<") or tensor.shape[-1] in _WIDTHS


def inversion_facts(checkpoint: Checkpoint) -> Facts:
    """Its word, if it says one, how many embeddings that has, and whose text encoder takes them."""
    shapes = {name: tensor.shape for name, tensor in checkpoint.items()}
    rows = {shape[0] if len(shape) == 2 else 1 for shape in shapes.values()}
    told = [name for name in shapes if len(shapes) == 1 and name not in _UNNAMED]
    return Facts(
        variant=_counted(max(rows)),
        base=_base(shapes),
        remarks=(
            f"its word is {told[0]!r}" if told else "its word is the file's name, or any other",
        ),
    )


def _counted(rows: int) -> str:
    return "one embedding" if rows == 1 else f"{rows} embeddings"


def _base(shapes: Mapping[str, tuple[int, ...]]) -> str:
    widths = {shape[-1] for shape in shapes.values()}
    if len(shapes) == 2:
        return "SDXL" if widths == _WIDTHS_XL else ""
    return base_name(widths.pop())
