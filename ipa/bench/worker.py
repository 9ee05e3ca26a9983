"""One process of a measurement: `python -m ipa.bench.worker JOB RESULT`, two files of JSON."""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipa.errors import IpaError
from ipa.files import write_whole
from ipa.parity.capture.environment import environment
from ipa.pipeline.loading import environment as environment_of

from . import public
from .cases import OURS, THEIRS, Case, Group
from .stages import Run, open_ours, part

PRODUCT = (512, 1280, 10240)
"""The matrices of the machine's own rate: into the gated units of SD1.5's coarsest, at 512²."""

_RATE_SECONDS, _RATE_MOST, _RATE_TIMES = 0.1, 16, 3
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def main(job: Path, result: Path) -> None:
    """Measure what a job says, and write what was found, or an error of ours."""
    asked = json.loads(job.read_text("utf-8"))
    try:
        found = measured(tuple(map(Case.of, asked["cases"])), asked["runs"])
    except IpaError as error:
        found = {"error": str(error)}
    write_whole(result, json.dumps(found).encode())


def measured(group: Group, runs: int) -> dict[str, Any]:
    """Measure a group of cases: each once by itself, then all in turn, as many times as `runs`.

    Returns:
        `facts` of what it ran on, `loading` in seconds, `gflops` of the machine's own product
        before and after, and for each of `cases` the `first` run's seconds, those of the others,
        and bytes: `held` before and at the `peak`, by the framework's count and by the system's.
    """
    first = group[0]
    own = environment_of(first.framework)  # loads it, and then it has facts to tell
    facts = environment({}) | own
    began = time.perf_counter()
    backend, subjects = _opened(group)
    loading = time.perf_counter() - began
    rates = [_rate(first)]
    made: list[dict[str, Any]] = [{"first": _seconds(run), "seconds": []} for run in subjects]
    for number in range(runs):
        turn = [(number + place) % len(group) for place in range(len(group))]
        for place in turn:
            seconds, memory = _watched(subjects[place], first, backend)
            made[place]["seconds"].append(seconds)
            made[place] |= {k: _most(v, made[place].get(k)) for k, v in memory.items()}
    rates.append(_rate(first))
    return {"facts": facts, "loading": loading, "gflops": rates, "cases": made}


def _opened(group: Group) -> tuple[Any, list[Run]]:
    """The backend, of ours, and a function for each case."""
    first = group[0]
    model = public.structure(first.base, first.model)
    if first.program in OURS:
        return open_ours(group, model)
    size, peers = (first.batch, first.height, first.width), part(first.framework, "peers")
    if first.program not in THEIRS:
        run = peers.open_peer(Path(str(first.path)), first.stage, first.base, size, first.dtype)
        return None, [run]
    pairs = [(public.adapter(first.adapter, model), public.image_encoder(first.adapter, model))]
    run = peers.open_diffusers(
        model,
        first.stage,
        size,
        adapters=pairs * (1 if first.stage == "image" else first.adapters),
        steps=first.steps,
        dtype=first.dtype,
        device=first.device,
    )
    return None, [run]


def _seconds(run: Run) -> float:
    gc.collect()  # not while the clock runs
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _watched(run: Run, case: Case, backend: Any) -> tuple[float, dict[str, int | None]]:
    """Seconds and bytes of a run."""
    machine = part(case.framework, "machine")
    machine.reset_peak(case.device)
    held, process_held = machine.held_bytes(case.device), _process("VmRSS")
    if _CLEAR.exists():
        _CLEAR.write_text("5")  # the process' peak counts from here
    seconds = _seconds(run)
    return seconds, {
        "held": held,
        "peak": machine.peak_bytes(case.device),
        "process_held": process_held,
        "process_peak": _process("VmHWM") or _ever(),
    }


def _process(name: str) -> int | None:
    """Bytes of this process by a name of the system's; None where it has none."""
    if not _STATUS.exists():
        return None
    lines = _STATUS.read_text("utf-8").splitlines()
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(found[0]) if found else None


def _ever() -> int:
    """The most bytes that this process ever had: on a Mac in bytes, elsewhere in units of 1024."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _most(one: int | None, other: Any) -> int | None:
    return max((n for n in (one, other) if n is not None), default=None)


def _rate(case: Case) -> float:
    """GFLOP/s of a plain product of matrices in a case's precision."""
    machine = part(case.framework, "machine")
    multiply = machine.product(PRODUCT, _precision(case), case.device)
    multiply(1)
    once = _seconds(lambda: multiply(1))
    count = max(1, min(_RATE_MOST, round(_RATE_SECONDS / once)))
    taken = statistics.median(_seconds(lambda: multiply(count)) for _ in range(_RATE_TIMES))
    rows, inner, columns = PRODUCT
    return 2e-9 * rows * inner * columns * count / taken


def _precision(case: Case) -> str:
    on_cpu = "cpu" in environment_of(case.framework).get("device", "") or case.device == "cpu"
    return case.dtype or ("float32" if on_cpu else "float16")


def _arguments(words: Sequence[str]) -> tuple[Path, Path]:
    job, result = words
    return Path(job), Path(result)


if __name__ == "__main__":
    main(*_arguments(sys.argv[1:]))
