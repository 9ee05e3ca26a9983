"""What the engine adds to a demo picture, in process and on pipes; how fast a worker is back.

Run: PYTHONPATH=tests python -m benchmarks.engine [--rounds N] [--jobs N] [--kills N]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipa
from ipa import Engine, ImagePrompt, Supervisor, demo

NEEDS = {"model": "demo", "adapters": ["base=demo:base"]}
STEPS = 4


def main() -> None:
    """Print every figure with its conditions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    _latency(options.rounds)
    _readiness(min(5, options.rounds))
    _growth(options.jobs)
    _recovery(options.kills)


def _latency(rounds: int) -> None:
    picture = ipa.open_image(demo.references()[3])
    call: dict[str, Any] = {
        "prompt": "a star",
        "image_prompts": [ImagePrompt(picture, scale=0.7)],
        "num_inference_steps": STEPS,
    }
    pipe = ipa.load("demo")
    pipe.load_ip_adapter("demo:base", name="base")
    with Engine() as engine, Supervisor() as supervisor:
        sha256 = supervisor.put(demo.references()[3])
        entry = {"image": {"sha256": sha256}, "scale": 0.7}
        job = {**NEEDS, "request": call | {"image_prompts": [entry]}}
        arms: dict[str, Callable[[], Any]] = {
            "pipeline": lambda: pipe(**call),
            "engine": lambda: engine.submit(NEEDS, call).result(),
            "pipes": lambda: supervisor.submit(job).result(),
        }
        for arm in arms.values():
            arm()
        times: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, arm in arms.items():
                began = time.perf_counter()
                arm()
                times[name].append(time.perf_counter() - began)
    base = times["pipeline"]
    for name, taken in times.items():
        added = [1000 * (a - b) for a, b in zip(taken, base, strict=True)]
        print(
            f"{name}: median {1000 * statistics.median(taken):.1f} ms, "
            f"added {statistics.median(added):+.1f} ms ({min(added):+.1f} to {max(added):+.1f})"
        )


def _readiness(rounds: int) -> None:
    ready, first = [], []
    message = {"id": 1, "method": "initialize", "params": {}}
    request = {"prompt": "a star", "num_inference_steps": STEPS}
    job = {"id": 2, "method": "generate", "params": {"request": request}}
    for _ in range(rounds):
        began = time.perf_counter()
        worker = subprocess.Popen(
            [sys.executable, "-X", "utf8", "-I", "-m", "ipa.engine.stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if worker.stdin is None or worker.stdout is None:
            raise RuntimeError("no pipes")
        worker.stdin.write(json.dumps(message).encode() + b"\n")
        worker.stdin.flush()
        worker.stdout.readline()
        ready.append(time.perf_counter() - began)
        worker.stdin.write(json.dumps(job).encode() + b"\n")
        worker.stdin.flush()
        while json.loads(worker.stdout.readline()).get("id") != 2:
            pass
        first.append(time.perf_counter() - began)
        worker.communicate()
    print(f"worker ready: median {statistics.median(ready):.2f} s")
    print(f"first picture from nothing: median {statistics.median(first):.2f} s")


def _resident() -> float:
    """The megabytes that this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def _growth(jobs: int) -> None:
    small = {"height": 16, "width": 16, "num_inference_steps": 1}
    kinds: list[Any] = [NEEDS, {"adapters": ["a=demo:plus"]}, "demo"]
    marks = []
    with Engine(queue=1) as engine:
        for number in range(jobs):
            engine.submit(kinds[number % 3], small).result()
            if number % max(1, jobs // 10) == 0 or number == jobs - 1:
                marks.append(round(_resident()))
    print(f"megabytes resident over {jobs} jobs: {' '.join(map(str, marks))}")


def _recovery(kills: int) -> None:
    seconds = []
    with Supervisor() as supervisor:
        for _ in range(kills):
            task = supervisor.submit({"request": {"num_inference_steps": STEPS}})
            while not task.is_running:
                time.sleep(0.002)
            began = time.perf_counter()
            os.kill(supervisor.pid or 0, signal.SIGKILL)
            task.result()
            seconds.append(time.perf_counter() - began)
    print(
        f"killed {kills} times: next picture after median {statistics.median(seconds):.2f} s, "
        f"at most {max(seconds):.2f} s"
    )


if __name__ == "__main__":
    main()
