"""The file of `--preview`: what each step makes, to look at while the picture is made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ipa.errors import Cancelled, RequestError
from ipa.files import put_whole
from ipa.metadata.container import read_contents
from ipa.metadata.reading import METADATA_KEY
from ipa.request.result import Progress

from .claims import claim, free_paths
from .output import check_writable, png_name
from .session import session, writes
from .terminal import say

ENLARGED = 8
"""How many pixels of the file a latent has, along each side: those that it becomes in the end."""

_MARK = "preview"


def preview_path(asked: Path) -> Path:
    """The path for previews: as asked for, or numbered if that is another file's.

    A preview of an earlier run is replaced: who watches a file watches one name.

    Raises:
        RequestError: It is no PNG, cannot be written, or is a picture that the command reads.
    """
    path = png_name(asked)
    check_writable(path)
    writes(path)
    if not session().overwrites and path.exists() and not _is_preview(path):
        (path,) = free_paths(path, 1)
    return path


class PreviewFile:
    """A callback for a run's events that writes their previews, each whole or not at all."""

    def __init__(self, show: Callable[[Progress], None], path: Path | None, enlarged: int) -> None:
        """With what else takes the events; a path or None; and the pixels a pixel becomes."""
        self._show, self._path, self._enlarged = show, path, enlarged
        self._has_written = False

    def __call__(self, event: Progress) -> None:
        """Write the preview of an event, if it has one."""
        self._show(event)
        if event.preview is None or self._path is None:
            return
        chunk = PngInfo()
        chunk.add_itxt(METADATA_KEY, json.dumps({_MARK: True}))
        width, height = (side * self._enlarged for side in event.preview.size)
        try:
            shown = event.preview.resize((width, height), Image.Resampling.NEAREST)
            put_whole(self._path, lambda file: shown.save(file, format="PNG", pnginfo=chunk))
        except OSError as error:  # the picture itself is worth more
            say("[yellow]warning:[/]", f"no more previews in {self._path}: {error}")
            self._path = None
        self._has_written = self._path is not None
        events = session().events
        if events is not None and self._path is not None:
            told = {"path": str(self._path.resolve()), "step": event.step, "total": event.total}
            events.tell("preview", told)

    @contextmanager
    def kept_if_cancelled(self) -> Iterator[None]:
        """A context: a cancelled block leaves its last preview as NAME-unfinished.png."""
        try:
            yield
        except Cancelled as error:
            if not self._has_written or self._path is None:
                raise
            name = self._path.with_stem(f"{self._path.stem}-unfinished")
            path = claim(self._path, name)
            raise Cancelled(
                error.what, found=f"{error.found}; the last preview is {path}"
            ) from error


def _is_preview(path: Path) -> bool:
    try:
        return _MARK in json.loads(read_contents(path).texts.get(METADATA_KEY, "{}"))
    except (RequestError, ValueError, TypeError, RecursionError):
        return False
