"""The callers who watch loading and encoding: `on_progress=` and `cancel=` of what is no run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ipa.checks import check_callback
from ipa.watching import CancelSignal, Stage, Told, Unit, Watch, cancel_question, watched_by

from .result import OnProgress, Progress

_MOST = 200
"""About as many events as a stage has, so that who draws them is not held up by small tensors."""


@contextmanager
def watching(on_progress: OnProgress | None, cancel: CancelSignal | None) -> Iterator[None]:
    """A context whose downloads, loading and encoding are told to a caller, and stop for it.

    With neither, whoever watched before goes on to.

    Raises:
        RequestError: One of them is not what it should be.
        Cancelled: `cancel` says so already.
    """
    check_callback("on_progress", on_progress)
    should_stop = cancel_question(cancel)
    if on_progress is None and cancel is None:
        yield
        return
    watch = Watch(_told(on_progress), should_stop)
    watch.check("load")
    with watched_by(watch):
        yield


def _told(on_progress: OnProgress | None) -> Told:
    last: dict[tuple[Stage, Unit], tuple[int, int]] = {}

    def told(stage: Stage, done: int, total: int, unit: Unit) -> None:
        before, of = last.get((stage, unit), (-1, -1))
        is_small = 0 < done < total and total == of and (done - before) * _MOST < total
        if on_progress is None or is_small:
            return
        last[stage, unit] = done, total
        on_progress(Progress(stage=stage, step=done, total=total, unit=unit))

    return told
