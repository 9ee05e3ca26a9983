"""One safetensors file that appears when its source is known to be what it was."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..containers.safetensors_file import Writable, nbytes, write_safetensors
from .appearing import not_written, take_name
from .manifest import Sources
from .progress import Counter, Progress


def write_file(
    target: Path,
    tensors: Sequence[Writable],
    sources: Sources,
    metadata: Mapping[str, str],
    on_progress: Progress | None = None,
) -> None:
    """Write beside the target first: it gets its name when everything is in order.

    Raises:
        CheckpointError: The disk refused, a source changed, or the name was taken meanwhile.
    """
    count = Counter(sum(nbytes(row.dtype, row.shape) for row in tensors), on_progress)
    hidden = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with sources.unchanged():
            write_safetensors(hidden, tensors, metadata, count.add)
        take_name(hidden, target)
    except OSError as error:
        raise not_written(target, error) from error
    finally:
        with suppress(OSError):
            hidden.unlink()
