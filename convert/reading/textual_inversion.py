"""Files of textual inversion: embeddings of words that no vocabulary has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ipa.errors import CheckpointError
from ipa.model.files import container
from ipa.model.lora import BUNDLED

from ..containers.checkpoint import open_file
from ..containers.dtypes import WEIGHTS
from ..containers.stored import Stored
from ..containers.torch_save.torch_file import open_embeddings
from ..containers.values import check_finite, widen

_TRAINED = ".string_to_param.*"


def read_textual_inversion(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors of a file by name, as float32: (D,) or (N, D) each.

    A name is the word that was learned (diffusers), that of the embedding in A1111's files of
    torch.save ("*" where they have none, and of a tensor that lies alone), "emb_params" in those of
    safetensors, or tells the text encoder in files for SDXL.

    Raises:
        CheckpointError: It is damaged, or holds anything but such embeddings of finite numbers.
    """
    kind = container(path)
    tensors = open_file(path).tensors if kind == "safetensors" else open_embeddings(path, kind)
    return _embeddings(path, tensors)


def read_bundled_words(path: Path) -> dict[str, dict[str, npt.NDArray[np.float32]]]:
    """The learned words in the file of a LoRA, by the word: its tensors, as above.

    OneTrainer writes `bundle_emb.<word>.string_to_param.*` for one text encoder, and for several
    `bundle_emb.<word>.clip_l` and `.clip_g`, `.clip_l_out` and more.

    Raises:
        CheckpointError: They are damaged, or no embeddings of finite numbers.
    """
    tensors = open_file(path)
    names = [name for name in tensors if name.startswith(BUNDLED)]
    words: dict[str, dict[str, npt.NDArray[np.float32]]] = {}
    for name, values in _embeddings(path, {name: tensors[name] for name in names}).items():
        whole = name.removeprefix(BUNDLED)
        word, part = whole.removesuffix(_TRAINED), "*"
        if not whole.endswith(_TRAINED):
            word, _, part = whole.rpartition(".")
        words.setdefault(word, {})[part] = values
    return words


def _embeddings(path: Path, tensors: Mapping[str, Stored]) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors of shape (D,) or (N, D), checked and widened."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHTS or len(tensor.shape) not in {1, 2} or 0 in tensor.shape:
            raise CheckpointError(
                f"{path} holds no embeddings of textual inversion",
                found=f"{name}: {tensor.dtype}, shape {tuple(tensor.shape)}",
                remedy="floats of shape (D,) or (N, D) are needed",
            )
        values = tensor.array()
        check_finite(values, tensor.dtype, name, str(path))
        found[name] = np.array(widen(values, tensor.dtype))
    return found
