"""torch's older streams (before 1.6): five pickles one after another, then the storages' bytes."""

from __future__ import annotations

from .pickle_machine import Buffer
from .pickle_opcodes import unpickle
from .pickle_values import RefusedError, Storage
from .torch_zip import Contents

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_IDENTITY_ITEMS = 6
_COUNT = 8  # bytes before each storage: how many elements it has


def read_legacy(buffer: Buffer) -> Contents:
    """Read a legacy stream: its object, and where its storages begin.

    Raises:
        RefusedError: It is damaged, from a big-endian machine, or its pickle is refused.
    """
    magic, place = _plain(buffer, 0)
    version, place = _plain(buffer, place)
    if (magic, version) != (_MAGIC, _VERSION):
        raise RefusedError("a pickle that is no stream of torch")
    system, place = _plain(buffer, place)
    if not isinstance(system, dict) or system.get("protocol_version") != _VERSION:
        raise RefusedError("a stream of torch of an unknown version")
    if system.get("little_endian") is not True:
        raise RefusedError(
            "numbers in another byte order",
            "it comes from another kind of machine: save it as safetensors there",
        )
    pickle = unpickle(buffer, place, len(buffer), identity_items=_IDENTITY_ITEMS)
    keys, place = _plain(buffer, pickle.end)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise RefusedError("a stream of torch without a list of storages")
    if len(keys) != len(set(keys)) or set(keys) != pickle.storages.keys():
        raise RefusedError("a list of storages that is not that of the tensors")
    places = {}
    for key in keys:
        places[key] = place + _COUNT
        place = _end(buffer, place, pickle.storages[key])
    if place != len(buffer):
        raise RefusedError(f"{len(buffer) - place} bytes after the last storage")
    return Contents(pickle.value, places)


def _plain(buffer: Buffer, begin: int) -> tuple[object, int]:
    """Read a pickle without tensors; also returns where it ends."""
    pickle = unpickle(buffer, begin, len(buffer), identity_items=0)
    return pickle.value, pickle.end


def _end(buffer: Buffer, place: int, storage: Storage) -> int:
    count = int.from_bytes(buffer[place : place + _COUNT], "little", signed=True)
    end = place + _COUNT + storage.nbytes
    if end > len(buffer):
        raise RefusedError(f"{len(buffer)} bytes, its tensors need {end}", "download it again")
    if count != storage.count:
        raise RefusedError(f"{count} elements in a storage that has {storage.count}")
    return end
