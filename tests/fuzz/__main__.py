"""`make fuzz`: mutants of a saved corpus against the readers; a summary as JSON, 1 if any fails."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import time
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fuzz.worker import Share, work

_SILENCE = 60.0  # seconds without a word: an input hangs where no signal reaches
_PROGRESS = 10.0
_SUMS = ("inputs", "accepted", "kept")
_LARGEST = ("novelties", "slowest_ms", "largest_ratio", "largest_excess")


def main() -> int:
    """Start the processes, listen to them, and sum up."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    tallies, broken = _run(options)
    report = _summary(tallies, broken)
    report |= {"seed": options.seed, "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(report, indent=2, ensure_ascii=False))
    return bool(report["failures"])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--inputs", type=int, default=100_000, help="in all")
    parser.add_argument("--minutes", type=float, default=30.0, help="at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, choices=(1, 2))
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="of failures")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> tuple[dict[int, dict[str, Any]], dict[str, str]]:
    """The last tally of each process, and why any of them ended before its time."""
    context = multiprocessing.get_context("spawn")
    tallies: dict[int, dict[str, Any]] = {}
    broken: dict[str, str] = {}
    open_ends: dict[Connection, tuple[Share, BaseProcess]] = {}
    heard: dict[Connection, float] = {}
    for number in range(options.processes):
        inputs = options.inputs // options.processes
        share = Share(number, options.seed, inputs, options.minutes, options.folder)
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(share, writer), daemon=True)
        process.start()
        writer.close()
        open_ends[reader], heard[reader] = (share, process), time.monotonic()
    told = time.monotonic()
    while open_ends:
        for end in wait(list(open_ends), timeout=1.0):
            assert isinstance(end, Connection)
            share, process = open_ends[end]
            heard[end] = time.monotonic()
            try:
                tallies[share.number] = end.recv()
            except EOFError:
                process.join()
                del open_ends[end]
                if not tallies.get(share.number, {}).get("done"):
                    broken |= _last_input(share, f"process ended with {process.exitcode}")
        for end in [e for e in open_ends if time.monotonic() - heard[e] > _SILENCE]:
            share, process = open_ends.pop(end)
            process.kill()
            broken |= _last_input(share, "hang")
        if time.monotonic() - told > _PROGRESS:
            told = time.monotonic()
            state = _summary(tallies, broken)
            print({k: state[k] for k in (*_SUMS, *_LARGEST)}, *state["failures"], file=sys.stderr)
    return tallies, broken


def _last_input(share: Share, why: str) -> dict[str, str]:
    """What a process that is gone was reading."""
    file = share.folder / f"failure-{share.number}-{why.replace(' ', '-')}.bin"
    path = share.folder / f"input-{share.number}"
    if path.exists():
        shutil.copyfile(path, file)
    return {why: str(file)}


def _summary(tallies: dict[int, dict[str, Any]], broken: dict[str, str]) -> dict[str, Any]:
    rows = list(tallies.values())
    report: dict[str, Any] = {key: sum(row[key] for row in rows) for key in _SUMS}
    report |= {key: max((row[key] for row in rows), default=0) for key in _LARGEST}
    kinds = sorted({kind for row in rows for kind in row["containers"]})
    report["containers"] = {k: sum(row["containers"].get(k, 0) for row in rows) for k in kinds}
    failures: dict[str, Any] = {why: {"file": file} for why, file in broken.items()}
    for row in rows:
        failures |= row["failures"]
    return report | {"failures": failures}


if __name__ == "__main__":
    raise SystemExit(main())
