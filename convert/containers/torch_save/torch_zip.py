"""torch's archives (torch.save since 1.6): a pickle, and every storage as a stored member."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from .pickle_machine import Buffer
from .pickle_opcodes import MAX_BYTES, unpickle
from .pickle_values import RefusedError, Storage
from .zip_directory import Member, members

_IDENTITY_ITEMS = 5
_MAX_ROOT = 200
# What torch writes beside its pickle; anything else is another kind of archive.
_NAMES = re.compile(
    r"version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id"
    r"|data/(?P<key>[A-Za-z0-9_]{1,40})"
)
_SCRIPT = re.compile(r"constants\.pkl|code/.*")
_ROOT = re.compile(r"[^/\\:\0]+")


@dataclass(frozen=True, slots=True)
class Contents:
    """The object of a file, and the byte at which each of its storages begins."""

    value: object
    places: Mapping[str, int]


def read_zip(buffer: Buffer) -> Contents:
    """Read a torch archive: its object, and where its storages begin.

    Raises:
        RefusedError: It is no proper archive of torch, or its pickle is refused.
    """
    found = members(buffer)
    root = _root(found)
    storages = _storages(root, found)
    _check_order(root, buffer, found)
    member = found[f"{root}/data.pkl"]
    if member.size > MAX_BYTES:
        raise RefusedError(f"a pickle of {member.size} bytes")
    # torch can be told to compute no checksums, and then writes 0.
    if member.crc and zlib.crc32(buffer[member.begin : member.end]) != member.crc:
        raise RefusedError("a pickle whose checksum is wrong", "download it again")
    pickle = unpickle(buffer, member.begin, member.end, identity_items=_IDENTITY_ITEMS)
    if pickle.end != member.end:
        raise RefusedError(f"{member.end - pickle.end} bytes after the pickle")
    _check_sizes(pickle.storages, storages)
    return Contents(pickle.value, {key: member.begin for key, member in storages.items()})


def _root(found: Mapping[str, Member]) -> str:
    """The name of the one folder that all members lie in."""
    pickles = [name for name in found if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise RefusedError(
            f"an archive with {len(pickles)} pickles", "it is no file of torch: check what it is"
        )
    root = pickles[0].removesuffix("/data.pkl")
    proper = _ROOT.fullmatch(root) and root.isprintable() and len(root) <= _MAX_ROOT
    if not proper or root in {".", ".."}:
        raise RefusedError(f"an archive with the folder {root[:80]!r}")
    return root


def _storages(root: str, found: Mapping[str, Member]) -> dict[str, Member]:
    """The storage members by key; names are a closed list, so that none leads elsewhere."""
    storages = {}
    for name, member in found.items():
        inside = name.removeprefix(f"{root}/")
        if inside == "data.pkl" and inside != name:
            continue
        match = _NAMES.fullmatch(inside) if inside != name else None
        if match is None and _SCRIPT.fullmatch(inside):
            raise RefusedError(
                "a TorchScript program", "use a file of weights, best in .safetensors"
            )
        if match is None:
            raise RefusedError(f"an archive with {name[:80]!r} in it")
        if match["key"]:
            storages[match["key"]] = member
    return storages


def _check_order(root: str, buffer: Buffer, found: Mapping[str, Member]) -> None:
    member = found.get(f"{root}/byteorder")
    order = b"little" if member is None else buffer[member.begin : member.end][:16]
    if order != b"little":
        raise RefusedError(
            f"numbers in the byte order {order!r}",
            "it comes from another kind of machine: save it as safetensors there",
        )


def _check_sizes(named: Mapping[str, Storage], storages: Mapping[str, Member]) -> None:
    for key, storage in named.items():
        size = storages[key].size if key in storages else 0
        if size != storage.nbytes or key not in storages:
            raise RefusedError(f"{size} bytes for storage {key[:80]!r}, which has {storage.nbytes}")
    spare = [key for key in storages if key not in named]
    if spare:
        raise RefusedError(f"{len(spare)} storages that the pickle does not name")
