"""The beginning of the `ipa-mlx` command, before anything that takes time is imported."""

from __future__ import annotations

import os
import signal

_INTERRUPTED = 130


def main() -> None:
    """Entry point of the `ipa-mlx` command: Ctrl-C ends it quietly while it is still starting."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    from .cli import app

    signal.signal(signal.SIGINT, before)
    app()
