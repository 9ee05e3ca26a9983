"""Opening a model that is one file: its base is told from its tensors, its configs are that base's.

The only place in the shared half that asks the converters: for what a file is, never for weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from ipa import bases
from ipa.contract.errors import CheckpointError
from ipa.contract.model import ModelFolder, SingleFile

from .model_folder import open_configs
from .tokenizer import has_words

if TYPE_CHECKING:
    from ipa.bases import Base
    from ipa_convert import PredictionType


def open_single_file(
    path: Path,
    *,
    name: str,
    config: Path | None = None,
    prediction_type: str | None = None,
    ema: bool = False,
) -> ModelFolder:
    """Recognise a single file of Stable Diffusion 1.x, 2.x or XL, and parse its base's configs.

    Args:
        path: A .safetensors or .ckpt file.
        name: What the user called it.
        config: A folder in diffusers' layout with the configs, for a model of other widths.
        prediction_type: "epsilon" or "v_prediction", where the file does not tell.
        ema: Take the UNet's averaged weights, which training checkpoints also hold.

    Raises:
        CheckpointError: It is no such model.
    """
    import ipa_convert

    found = ipa_convert.recognise(
        path,
        prediction_type=cast("PredictionType | None", prediction_type),
        configured=config is not None,
    )
    if config is not None and not (config / "model_index.json").is_file():
        raise CheckpointError(
            f"{config} holds no configs of a model", remedy="a folder with model_index.json"
        )
    words = config / "tokenizer" if config else None
    vocabulary = words if words and has_words(words) else bases.vocabulary()
    return open_configs(
        config or bases.folder(cast("Base", found.base)),
        name=name,
        single_file=SingleFile(
            path=path, vocabulary=vocabulary, changes=found.changes, notes=found.notes, ema=ema
        ),
    )
