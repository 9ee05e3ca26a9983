"""What watching costs: a run of the demo unwatched, watched by nobody's wish, and captured.

    PYTHONPATH=tests python -m benchmarks.taps [--rounds 5] [--steps 20]

Prints medians of ratios to the unwatched run of the same round, and the bytes of captures.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

import ipa
from ipa import demo
from ipa.arrays import Floats
from ipa.parity.capture.capture_file import write
from ipa.parity.capture.choice import Choice
from ipa.parity.recording import capture

CHOICES = {
    "everything, float32": Choice(),
    "everything, float16": Choice(dtype="float16"),
    "everything, as sketches": Choice(sketched=True),
    "latents and results": Choice(patterns=("*/latents", "*/prediction", "*/states")),
    "results, as sketches": Choice(patterns=("*/latents", "*/prediction"), sketched=True),
}


class Nobody:
    """Wants nothing."""

    def wants(self, stage: str) -> bool:
        return False

    def __call__(self, stage: str, array: Floats) -> None:
        raise RuntimeError(f"told of {stage}, which nobody wants")


def timed(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    for backend in ("mlx", "torch"):
        report(backend, options.rounds, options.steps)


def report(backend: str, rounds: int, steps: int) -> None:
    pipe = ipa.load("demo", backend=backend, dtype="float32")
    pipe.load_ip_adapter(demo.adapter("base"))
    request: dict[str, Any] = {
        "prompt": "a star",
        "image_prompts": ipa.ImagePrompt(Image.open(demo.references()[0])),
        "num_inference_steps": steps,
        "guidance_scale": 4.0,
        "seed": 7,
    }
    runs: dict[str, Callable[[], Any]] = {
        "unwatched, again": lambda: pipe(**request),
        "watched, nothing wanted": lambda: pipe(**request, tap=Nobody()),
    } | {
        name: lambda choice=choice: capture(pipe, request, choice)
        for name, choice in CHOICES.items()
    }
    pipe(**request)
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        base = timed(lambda: pipe(**request))
        for name, run in runs.items():
            ratios[name].append(timed(run) / base)
    print(f"\n{backend}, {steps} steps, {rounds} rounds: time over the unwatched run's")
    for name, found in ratios.items():
        print(f"  {name:26} {statistics.median(found):6.3f}   {size(pipe, request, name)}")


def size(pipe: ipa.Pipeline, request: dict[str, Any], name: str) -> str:
    if name not in CHOICES:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture.safetensors"
        made = capture(pipe, request, CHOICES[name])
        write(path, made)
        return f"{path.stat().st_size / 1e6:8.2f} MB, {len(made.stages)} stages"


if __name__ == "__main__":
    main()
