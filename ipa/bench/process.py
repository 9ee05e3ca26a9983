"""A process for each repeat: a group of cases, measured where nothing was measured before."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from ipa.errors import Cancelled

from .cases import Group

_LOOK, _WORDS = 0.05, 300
_WORKER = (sys.executable, "-P", "-m", "ipa.bench.worker")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a process found (`ipa.bench.worker.measured`), or why it found nothing.

    `seconds` are those of the whole process; `late` says that the time was up.
    """

    seconds: float
    found: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""
    late: bool = False


def run_process(
    group: Group, runs: int, *, limit: float | None = None, cancel: Event | None = None
) -> Outcome:
    """Measure a group in a process of its own; after `limit` seconds it is ended.

    Raises:
        Cancelled: `cancel` was set.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ipa-mlx-bench-") as folder:
        job, result, said = (Path(folder, name) for name in ("job", "result", "said"))
        job.write_text(json.dumps({"cases": [c.plain() for c in group], "runs": runs}), "utf-8")
        with said.open("wb") as errors:
            process = subprocess.Popen(
                [*_WORKER, str(job), str(result)],
                env=os.environ | dict(group[0].settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is ours to hear
            )
            try:
                is_late = _waited(process, began, limit, cancel)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        seconds = time.perf_counter() - began
        if is_late:
            return Outcome(seconds, failure="the time was up", late=True)
        if not result.is_file():
            return Outcome(seconds, failure=_reason(process.returncode, said))
        found = json.loads(result.read_text("utf-8"))
    return Outcome(seconds, found, failure=found.get("error", ""))


def _waited(
    process: subprocess.Popen[bytes], began: float, limit: float | None, cancel: Event | None
) -> bool:
    """Wait for a process; whether its time was up before."""
    while process.poll() is None:
        if cancel is not None and cancel.is_set():
            raise Cancelled("the measurement was stopped")
        if limit is not None and time.perf_counter() - began > limit:
            return True
        time.sleep(_LOOK)
    return False


def _reason(code: int, said: Path) -> str:
    """Why a process ended without a result."""
    if code == -signal.SIGKILL:
        return "the system ended its process, as it does where memory runs out"
    lines = said.read_text("utf-8", "replace").strip().splitlines()
    last = f": {lines[-1][:_WORDS]}" if lines else ""
    return f"its process ended with {code}{last}"
