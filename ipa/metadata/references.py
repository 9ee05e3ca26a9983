"""Pictures inside a picture: files in chunks of a PNG, and the list of them in its text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from ipa.errors import RequestError
from ipa.request.references import KINDS, ReferenceFile

_VERSION = 1
_REMEDY = "the file as ipa-mlx wrote it, or the pictures themselves with --picture"


def references_json(
    request: Mapping[str, Any], files: Sequence[ReferenceFile], missing: Sequence[str] = ()
) -> dict[str, Any]:
    """The list of embedded files for a picture's text.

    Args:
        request: The description of the call with these files in the place of what was given.
        files: In the order of their chunks.
        missing: What is not among them, in words.
    """
    return {
        "version": _VERSION,
        "request": dict(request),
        "files": [file.describe() for file in files],
        "missing": list(missing),
    }


def read_references(
    told: Mapping[str, Any], chunks: Sequence[bytes], name: str
) -> tuple[Mapping[str, Any], tuple[ReferenceFile, ...]]:
    """The description and the files that a picture embeds.

    Args:
        told: What `references_json` made.
        chunks: As they were found in the file.
        name: Of the picture, for messages.

    Raises:
        RequestError: The list is damaged, or a file is gone or not what it was.
    """
    try:
        version, request = told["version"], told["request"]
        listed = [
            (str(one["kind"]), str(one["sha256"]), str(one["file_sha256"])) for one in told["files"]
        ]
    except (LookupError, TypeError) as error:
        raise RequestError(
            f"the list of embedded references of {name} is damaged", found=f"{error!r:.80}"
        ) from error
    if version != _VERSION or not isinstance(request, Mapping):
        raise RequestError(
            f"the embedded references of {name} are of another version", found=f"{version!r:.40}"
        )
    by_hash = {hashlib.sha256(chunk).hexdigest(): chunk for chunk in chunks}
    files = []
    for kind, sha256, file_sha256 in listed:
        known = next((one for one in KINDS if one == kind), None)
        if file_sha256 not in by_hash or known is None:
            raise RequestError(
                f"an embedded reference of {name} is gone: a program that saved it left it out, "
                "or damaged it",
                found=f"{len(chunks)} of {len(listed)}",
                remedy=_REMEDY,
            )
        files.append(ReferenceFile(kind=known, sha256=sha256, data=by_hash[file_sha256]))
    return request, tuple(files)
