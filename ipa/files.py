"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .errors import RequestError


def write_whole(where: Path, contents: bytes) -> None:
    """Write a file under a temporary name, and rename it. Raises RequestError if it cannot."""
    try:
        handle, name = tempfile.mkstemp(dir=where.parent, prefix=f".{where.stem}-")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(contents)
            temporary.chmod(0o644)
            temporary.replace(where)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RequestError(f"{where} cannot be written", found=str(error)) from error
