"""`python -m benchmarks.less_work`: what doing less of a run costs in quality, with image prompts.

The demo model, eight pictures that it has not seen, several seeds each. Every setting makes the
same pictures as the full run, in turn, so that times are of the same minute. Work is that of all
evaluations of the network: multiply-adds of its modules, as torch counts them while they run, of
the full run's. A row left out weighs as much as any; a step that reuses or is forecast, what it
computes.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import ipa
from ipa import ImagePrompt, demo
from oracle.judge import WORDS, Judge, Reference, clip_embeddings

FULL = "full"
FORECAST: Mapping[str, Any] = {"forecast": True}
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    FULL: {},
    **{f"guidance to {end:g}": {"guidance_end": end} for end in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)},
    **{f"guidance from {start:g}": {"guidance_start": start} for start in (0.1, 0.2, 0.3)},
    "guidance 0.1 to 0.7": {"guidance_start": 0.1, "guidance_end": 0.7},
    **{f"reuse, every {n}": {"cache_interval": n} for n in (2, 3, 4)},
    "reuse, every 3, branch 2": {"cache_interval": 3, "cache_branch": 2},
    "reuse 2, guidance to 0.6": {"cache_interval": 2, "guidance_end": 0.6},
    **{f"forecast, growth {n:g}": FORECAST | {"forecast_growth": n} for n in (0, 0.25, 0.75, 1.5)},
    "forecast, warm-up 8": FORECAST | {"forecast_warmup": 8},
    "forecast, guidance to 0.6": FORECAST | {"guidance_end": 0.6},
}


@dataclass
class Made:
    """What a setting made: pictures, seconds of each, and the operations of one run."""

    images: list[Image.Image] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    work: int = 0


def decibels(found: Image.Image, full: Image.Image) -> float:
    """The PSNR of a picture against the full run's."""
    gaps = np.asarray(found, np.float64) - np.asarray(full, np.float64)
    return float(20 * np.log10(255) - 10 * np.log10(max(np.square(gaps).mean(), 1e-9)))


def work(call: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The operations of all evaluations of a run with an image prompt, by setting."""
    pipe = load("torch")
    backend, prompt = pipe._loaded.backend, ImagePrompt(Reference.all()[0].image)
    predict, counts = backend.predict, list[int]()

    def counted(*args: Any, **options: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            output = predict(*args, **options)
        counts.append(counter.get_total_flops())
        return output

    backend.predict = counted
    found = {}
    for name, setting in settings.items():
        counts.clear()
        pipe(image_prompts=prompt, output_type="latent", **call, **setting)
        found[name] = sum(counts)
    return found


def load(backend: str) -> ipa.Pipeline:
    """The demo model with its adapter for pictures."""
    device = {"device": "cpu"} if backend == "torch" else {}
    pipe = ipa.load("demo", backend=backend, dtype="float32", **device)
    pipe.load_ip_adapter(demo.adapter("base"))
    return pipe


def make(
    pipe: ipa.Pipeline,
    call: Mapping[str, Any],
    scale: float,
    seeds: int,
    settings: Mapping[str, Mapping[str, Any]],
) -> dict[str, Made]:
    """All pictures of all settings; those of one reference and seed one after another."""
    made = {name: Made(work=count) for name, count in work(call, settings).items()}
    references = Reference.all()
    for number, reference in enumerate(references):
        prompt = ImagePrompt(reference.image, scale=scale)
        for seed in range(number * seeds, (number + 1) * seeds):
            for name, setting in settings.items():
                began = time.perf_counter()
                found = pipe(image_prompts=prompt, seed=seed, **call, **setting)
                made[name].seconds.append(time.perf_counter() - began)
                made[name].images += found.images
    return made


def line(name: str, made: Mapping[str, Made], seeds: int) -> str:
    """A line of the table."""
    own, full = made[name], made[FULL]
    references = Reference.all()
    owners = [number for number in range(len(references)) for _ in range(seeds)]
    pairs = [decibels(a, b) for a, b in zip(own.images, full.images, strict=True)]
    cosines = clip_embeddings(own.images) @ clip_embeddings([r.image for r in references]).T
    likeness = cosines[np.arange(len(owners)), owners].mean()
    read = Judge().read(own.images)
    right = np.array(
        [[r[k] == references[o].words[k] for k in WORDS] for r, o in zip(read, owners, strict=True)]
    )
    ratios = [a / b for a, b in zip(full.seconds, own.seconds, strict=True)]
    words = "  ".join(f"{value:.3f}" for value in right.mean(axis=0))
    return (
        f"{name:26s}{own.work / full.work:6.2f}  {statistics.median(ratios):5.2f}  "
        f"{statistics.median(pairs):6.1f}  {min(pairs):6.1f}   {likeness:.3f}   {words}"
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="torch", choices=("mlx", "torch"))
    parser.add_argument("--seeds", type=int, default=4, help="pictures per reference")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--scale", type=float, default=1.0, help="weight of the picture")
    parser.add_argument("--prompt", default="", help="text beside it")
    parser.add_argument("--only", default="", help="settings that this pattern finds")
    options = parser.parse_args()
    chosen = {k: v for k, v in SETTINGS.items() if k == FULL or re.search(options.only, k)}
    pipe = load(options.backend)
    call = {
        "prompt": options.prompt,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
    }
    made = make(pipe, call, options.scale, options.seeds, chosen)
    print(
        f"{options.backend}, {len(made[FULL].images)} pictures a row, {options.steps} steps, "
        f"guidance {options.guidance:g}, weight {options.scale:g}, text {options.prompt!r}"
    )
    heads = "  ".join(f"{name[:5]:>5s}" for name in WORDS)
    print(f"{'':26s}{'work':>6s}  {'speed':>5s}  {'dB':>6s}  {'worst':>6s}   like    {heads}")
    for name in chosen:
        print(line(name, made, options.seeds), flush=True)


if __name__ == "__main__":
    main()
