"""Files of textual inversion: embeddings of words that no vocabulary has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ipa.contract.errors import CheckpointError
from ipa.contract.files import container

from ..containers.checkpoint import open_file
from ..containers.dtypes import WEIGHTS
from ..containers.torch_file import open_embeddings
from ..containers.values import check_finite, widen


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
