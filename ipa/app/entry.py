"""The beginning of the `ipa-mlx` command, before anything that takes time is imported."""

from __future__ import annotations

import os
import signal
import sys

_INTERRUPTED = 130


def main() -> None:
    """Entry point of the `ipa-mlx` command: Ctrl-C ends it quietly while it is still starting."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    if sys.argv[1:] == ["engine", "--stdio"]:  # an app waits for it: nothing else is imported
        from ipa.engine.stdio.worker import main as serve

        serve()
        return
    from .cli import app

    signal.signal(signal.SIGINT, before)
    app()
