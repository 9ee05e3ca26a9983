"""Which lines of the converters have run: new ones make an input worth keeping."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import ipa.model.adapter
import ipa.model.files
import ipa_convert

Line = tuple[str, int]


class Coverage:
    """Lines seen so far. A function whose lines have all been seen is traced no more."""

    def __init__(self) -> None:
        self._folder = str(Path(ipa_convert.__file__).parent)
        self._files = {ipa.model.adapter.__file__, ipa.model.files.__file__}
        self._left: dict[CodeType, set[int]] = {}
        self._fresh: set[Line] = set()
        self.seen = 0

    @contextmanager
    def watching(self) -> Iterator[set[Line]]:
        """Lines that run here for the first time, complete when the block ends."""
        self._fresh = set()
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield self._fresh
        finally:
            sys.settrace(before)
            self.seen += len(self._fresh)

    def _call(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        left = self._left.get(code)
        if left is None:
            name = code.co_filename
            ours = name.startswith(self._folder) or name in self._files
            left = {line for *_, line in code.co_lines() if line} if ours else set()
            left.discard(code.co_firstlineno)  # where it is defined, which no call runs
            self._left[code] = left
        return self._line if left else None

    def _line(self, frame: FrameType, event: str, argument: object) -> Any:
        left, line = self._left[frame.f_code], frame.f_lineno
        if event == "line" and line in left:
            left.discard(line)
            self._fresh.add((frame.f_code.co_filename, line))
        return self._line
