"""Files of torch.save that are a tensor or a list of tensors: read as arrays, and written.

What is written is what torch 2 writes for float32 tensors of the CPU, member for member but for
its names of versions, so that `torch.load(…, weights_only=True)` reads it.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ipa.errors import CheckpointError

from ..dtypes import WEIGHTS
from ..values import check_finite, widen
from .torch_file import open_tensor_list

Floats = npt.NDArray[np.float32]

_ROOT = "archive"
_DATE = (1980, 1, 1, 0, 0, 0)
# torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
_BEGIN = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
_END = b"\x89ccollections\nOrderedDict\n)RtR"


def read_tensor_list(path: Path) -> tuple[list[Floats], bool]:
    """The tensors of a file as float32, and whether it holds a single one; it is never run.

    Raises:
        CheckpointError: It is damaged, or holds anything but tensors of finite floats.
    """
    tensors, single = open_tensor_list(path)
    arrays = []
    for tensor in tensors:
        if tensor.dtype not in WEIGHTS:
            raise CheckpointError(
                f"{path} holds no embeddings", found=f"a tensor of type {tensor.dtype}"
            )
        values = tensor.array()
        check_finite(values, tensor.dtype, f"tensor {tensor.name}", str(path))
        arrays.append(np.array(widen(values, tensor.dtype)))
    return arrays, single


def write_tensor_list(tensors: Floats | Sequence[Floats]) -> bytes:
    """A file of torch.save for one tensor, or for a list of them."""
    single = isinstance(tensors, np.ndarray)
    arrays = [tensors] if isinstance(tensors, np.ndarray) else list(tensors)
    parts = [_tensor(str(number), array.shape) for number, array in enumerate(arrays)]
    body = b"".join(parts) if single else b"](" + b"".join(parts) + b"e"
    members = {"data.pkl": b"\x80\x02" + body + b".", "byteorder": b"little", "version": b"3\n"}
    for number, array in enumerate(arrays):
        members[f"data/{number}"] = np.ascontiguousarray(array, "<f4").tobytes()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, contents in members.items():
            archive.writestr(zipfile.ZipInfo(f"{_ROOT}/{name}", _DATE), contents)
    return file.getvalue()


def _tensor(key: str, shape: tuple[int, ...]) -> bytes:
    """The pickle of one contiguous tensor: opcodes of protocol 2."""
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    place = _text(key) + _text("cpu") + _number(int(np.prod(shape))) + b"tQ"
    return _BEGIN + place + _number(0) + _tuple(shape) + _tuple(strides) + _END


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode("ascii")


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_number, values)) + b"t"
