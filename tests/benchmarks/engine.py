"""What the engine adds to a demo picture, in process and on pipes; how fast a worker is back.

Run: PYTHONPATH=tests python -m benchmarks.engine [--rounds N] [--jobs N] [--kills N]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ipa
from ipa import Engine, ImagePrompt, Job, Supervisor, demo

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
    _crowd(options.jobs)
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


def _crowd(jobs: int) -> None:
    """Pictures from 8 threads with cancels, bad jobs and swaps: each as a lone run makes it."""
    small = {"height": 16, "width": 16, "num_inference_steps": 1}
    kinds: list[Any] = [NEEDS, {"adapters": ["a=demo:plus"]}, "demo", {"dtype": "float16"}]
    picture = ipa.open_image(demo.references()[3])

    def call(number: int) -> dict[str, Any]:
        prompts = [ImagePrompt(picture)] if number % 4 < 2 else []
        wrong = {"num_images": 0} if number % 9 == 5 else {}
        return {**small, "image_prompts": prompts, "seed": number % 3, **wrong}

    with Engine(queue=1) as engine:
        asked = [number for number in range(12) if number % 9 != 5]
        lone = {n: engine.submit(kinds[n % 4], call(n)).result() for n in asked}
        lone[5] = engine.submit(kinds[1], call(5) | {"num_images": 1}).result()
    ends: Counter[str] = Counter()
    before = _resident()
    with Engine(queue=jobs) as engine, ThreadPoolExecutor(8) as threads:

        def submit(number: int) -> Job[Any]:
            job = engine.submit(kinds[number % 4], call(number), job_id=str(number))
            job.add_done_callback(lambda one: ends.update([one.id]))
            if number % 7 == 3:
                threading.Timer(random.random(), job.cancel).start()
            return job

        states: Counter[str] = Counter()
        for number, job in enumerate(threads.map(submit, range(jobs))):
            if job.exception() is None:
                found, wanted = job.result(), lone[number % 12]
                states["other pictures"] += not np.array_equal(found.latents, wanted.latents)
            states[job.state] += 1
    once = sum(count == 1 for count in ends.values())
    print(
        f"crowd of {jobs} from 8 threads: {dict(states)}, ended once {once}, "
        f"resident {before:.0f} to {_resident():.0f} MB"
    )


def _recovery(kills: int) -> None:
    """SIGKILL at a random moment of each of so many pictures, all of which must be one picture."""
    seconds, late = [], 0
    job = {"request": {"prompt": "a star", "num_inference_steps": STEPS, "seed": 1}}
    with Supervisor() as supervisor:
        wanted = _pixels(supervisor.submit(job).result())
        answers = []
        for _ in range(kills):
            task = supervisor.submit(job)
            while not task.is_running:
                time.sleep(0.002)
            time.sleep(random.random() * 0.3)
            late += task.done()
            began = time.perf_counter()
            os.kill(supervisor.pid or 0, signal.SIGKILL)
            answers.append(task.result())
            seconds.append(time.perf_counter() - began)
    same = sum(np.array_equal(_pixels(answer), wanted) for answer in answers)
    print(
        f"killed {kills} times, {late} of them after the picture: next one after median "
        f"{statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s; the same picture {same}"
    )


def _pixels(answer: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["images"][0]["data"]))))


if __name__ == "__main__":
    main()
