"""Files of torch.save: by torch's own restricted reader, and what it refuses by ours.

torch refuses every protocol of pickle but 2, and every name that no tensor is made of, numbers of
numpy among them. Those files are read here: the archive by the standard library, the pickle by a
table of operations (`pickle_reader`), and the values mapped where they lie.
"""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from ipa.errors import CheckpointError
from ipa.model.files import container

from .pickle_reader import read_pickle

_LOCAL_HEADER = 30  # bytes before a member's name, of which the last four say how long it is
_STATE = "state_dict"  # of a training run: what lies beside it is not the network's
_LARGEST_PICKLE = 64 << 20
_DAMAGED = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def read_state(path: Path, *, device: str = "cpu") -> Mapping[Any, Any]:
    """Read a file of torch.save: its object, or the state dict in it.

    Args:
        path: The file.
        device: "meta" reads no values.

    Raises:
        CheckpointError: It is damaged, or holds more than weights and what is known to lie beside.
    """
    try:
        found = _by_torch(path, device)
    except UnpicklingError:
        try:
            found = _by_table(path)
        except (*_DAMAGED, UnpicklingError) as error:
            raise _refused(path, error) from error
    except _DAMAGED as error:
        raise _refused(path, error) from error
    state = found.get(_STATE, found) if isinstance(found, Mapping) else found
    if not isinstance(state, Mapping):
        raise _refused(path, ValueError(f"a {type(state).__name__} where a state dict should be"))
    return state


def _refused(path: Path, error: Exception) -> CheckpointError:
    first = " ".join(str(error).split()).split(". ")[0][:300]
    return CheckpointError(
        f"{path} is damaged, or holds more than weights",
        found=first or type(error).__name__,
        remedy="use the .safetensors file, or download it again from a source that you trust; "
        "where you trained it yourself, save the state_dict alone",
    )


def _by_torch(path: Path, device: str) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # which is then read by ours
        return torch.load(path, map_location=device, weights_only=True)


def _by_table(path: Path) -> Any:
    data = np.memmap(path, np.uint8, "c")
    return _archive(path, data) if container(path) == "torch zip" else _stream(path, data)


def _archive(path: Path, data: np.ndarray) -> Any:
    """Read a zip whose members are stored uncompressed."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise UnpicklingError("an archive with a name twice")
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1 or members[pickles[0]].file_size > _LARGEST_PICKLE:
            raise UnpicklingError(f"an archive with {len(pickles)} pickles")
        root = pickles[0].removesuffix("data.pkl")
        order = f"{root}byteorder"
        if order in members and archive.read(order) != b"little":
            raise UnpicklingError("numbers in another byte order")
        pickle = archive.read(pickles[0])

    def storage(identity: tuple[Any, ...]) -> torch.Tensor:
        dtype, key, _, count = identity
        return _values(data, _place(data, members[f"{root}data/{key}"]), dtype, count)

    return read_pickle(BytesIO(pickle), storage)


def _place(data: np.ndarray, member: zipfile.ZipInfo) -> tuple[int, int]:
    """The begin and end of a member's bytes."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise UnpicklingError("an archive that is compressed")
    header = data[member.header_offset : member.header_offset + _LOCAL_HEADER].tobytes()
    name, extra = struct.unpack("<HH", header[-4:])
    begin = member.header_offset + _LOCAL_HEADER + name + extra
    return begin, begin + member.file_size


def _stream(path: Path, data: np.ndarray) -> Any:
    """torch's files before 1.6: pickles one after another, then the storages they name."""
    asked: dict[str, tuple[torch.dtype, int]] = {}
    places: dict[str, tuple[int, int]] = {}

    def note(identity: tuple[Any, ...]) -> torch.Tensor:
        dtype, key, _, count, view = identity
        if view is not None or asked.setdefault(key, (dtype, count)) != (dtype, count):
            raise UnpicklingError("a storage in two forms")
        return torch.empty(count, dtype=dtype, device="meta")

    def storage(identity: tuple[Any, ...]) -> torch.Tensor:
        dtype, key, _, count, _ = identity
        return _values(data, places[key], dtype, count)

    with path.open("rb") as file:
        for _ in range(3):  # a number that marks such files, their version, the machine
            read_pickle(file, _no_storages)
        begin = file.tell()
        read_pickle(file, note)
        for key in read_pickle(file, _no_storages):
            (count,) = struct.unpack("<q", file.read(8))
            dtype, needed = asked[key]
            if count != needed:
                raise UnpicklingError(f"{count} values in a storage of {needed}")
            places[key] = (file.tell(), file.tell() + count * dtype.itemsize)
            file.seek(places[key][1])
        file.seek(begin)
        return read_pickle(file, storage)


def _no_storages(_: object) -> torch.Tensor:
    raise UnpicklingError("a storage where none should be")


def _values(
    data: np.ndarray, place: tuple[int, int], dtype: torch.dtype, count: int
) -> torch.Tensor:
    begin, end = place
    if end - begin != count * dtype.itemsize or end > len(data):
        raise UnpicklingError(f"{end - begin} bytes for a storage of {count} values")
    if not count:
        return torch.empty(0, dtype=dtype)
    raw = data[begin:end]
    if begin % dtype.itemsize:
        raw = raw.copy()
    return torch.from_numpy(raw).view(dtype)
