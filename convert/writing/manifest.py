"""conversion.json: what a converted folder was made from, so that it can be made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ipa.errors import CheckpointError
from ipa.model.quantization import Quantization
from ipa.version import __version__

from ..containers.checkpoint import CONVERTED
from ..tables.converted import Converted

NAME = "conversion.json"
TABLES_VERSION = CONVERTED["ipa_layout"]
"""The version of the tables of names and layouts."""

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Source:
    """A file that weights are read from, as it was when its header was read."""

    path: Path
    size: int
    inode: int
    written_ns: int
    changed_ns: int  # as the system counts, which nobody can set back

    @classmethod
    def of(cls, path: Path) -> Source:
        """A source file as it is now."""
        status = path.stat()
        times = status.st_mtime_ns, status.st_ctime_ns
        return cls(path, status.st_size, status.st_ino, *times)


@dataclass(frozen=True, slots=True)
class Sources:
    """The files behind a conversion, and which of their tensors were left out and why."""

    files: tuple[Source, ...]
    dropped: Mapping[str, str]

    @classmethod
    def of(cls, parts: Mapping[Any, Converted]) -> Sources:
        """The sources of all components of a model."""
        paths = {Path(t.stored.where) for part in parts.values() for t in part.values()}
        dropped = {n: why for part in parts.values() for n, why in part.dropped.items()}
        return cls(tuple(map(Source.of, sorted(paths))), dropped)

    @classmethod
    def marked(
        cls, read: Callable[[], Mapping[K, Converted]]
    ) -> tuple[Sources, Mapping[K, Converted]]:
        """Components and their sources; headers are read again once the files are noted.

        `read` reads headers alone.
        """
        sources = cls.of(read())
        return sources, read()

    def hashes(self) -> tuple[str, ...]:
        """The sha256 of each file."""
        return tuple(_sha256(file.path) for file in self.files)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """A context that reads the sources; errors while they change are told as such."""
        try:
            yield
        except CheckpointError:
            self.check()
            raise
        self.check()

    def check(self) -> None:
        """Raise CheckpointError if a file has changed since its header was read."""
        for file in self.files:
            if not file.path.is_file() or Source.of(file.path) != file:
                raise CheckpointError(
                    f"{file.path} changed while it was converted",
                    remedy="wait until its download is complete, and convert again",
                )


def write_manifest(
    folder: Path,
    sources: Sources,
    hashes: Sequence[str],
    *,
    layout: str,
    dtypes: Mapping[str, Mapping[str, int]],
    how: Quantization | None,
) -> None:
    """Write conversion.json; `dtypes` counts the tensors of each type, by component."""
    manifest = {
        "ipa_mlx": __version__,
        "tables": TABLES_VERSION,
        "layout": layout,
        "dtypes": dtypes,
        "quantization": how and asdict(how),
        "sources": [
            {
                "file": f"{file.path.parent.name}/{file.path.name}",
                "bytes": file.size,
                "sha256": digest,
            }
            for file, digest in zip(sources.files, hashes, strict=True)
        ],
        "dropped": dict(sources.dropped),
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=2)
    (folder / NAME).write_text(text + "\n", "utf-8")


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read any more",
            found=error.strerror or str(error),
            remedy="wait until its download is complete, and convert again",
        ) from error
