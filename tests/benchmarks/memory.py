"""The memory plan against what MLX counts, per stage and whole, at true sizes.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.memory           # the quick arms
    PYTHONPATH=tests .venv/bin/python -m benchmarks.memory --arms sd15-f16-512 sdxl-f16-1024
    PYTHONPATH=tests .venv/bin/python -m benchmarks.memory --plans   # the targets, planned

One process a run, of one step. Weights are zeros (`benchmarks.hollow_models`): bytes do not depend
on them. "work" is what a stage allocates beside what is there when it begins.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import hollow_models


@dataclass(frozen=True)
class Arm:
    """One run: a model, how it is loaded, and what is asked of it."""

    base: str
    dtype: str
    width: int
    height: int
    bits: int | None = None
    adapters: tuple[str, ...] = ()
    controlnet: bool = False
    guided: bool = True
    pictures: int = 1
    vae: str | None = None
    start: bool = False
    budget: float | None = None


PLUS = ("plus",)
ARMS: dict[str, Arm] = {
    "sd15-f32-256": Arm("sd15", "float32", 256, 256),
    "sd15-f32-256-plus": Arm("sd15", "float32", 256, 256, adapters=PLUS),
    "sd15-f32-256-both": Arm("sd15", "float32", 256, 256, adapters=("base", "plus")),
    "sd15-f32-256-control": Arm("sd15", "float32", 256, 256, controlnet=True),
    "sd15-f32-256-strips": Arm("sd15", "float32", 256, 256, vae="strips", start=True),
    "sd15-f32-384x256-two": Arm("sd15", "float32", 384, 256, pictures=2, guided=False),
    "sd15-f32-512": Arm("sd15", "float32", 512, 512, adapters=PLUS),
    "sd15-f16-128": Arm("sd15", "float16", 128, 128, adapters=PLUS, guided=False),
    "sd15-8bit-64": Arm("sd15", "float16", 64, 64, 8, guided=False),
    "sd15-4bit-64": Arm("sd15", "float16", 64, 64, 4, guided=False),
    "sdxl-f32-128": Arm("sdxl", "float32", 128, 128, guided=False),
    "sdxl-f16-64": Arm("sdxl", "float16", 64, 64, guided=False),
    "sdxl-8bit-64": Arm("sdxl", "float16", 64, 64, 8, guided=False),
    "sdxl-4bit-64": Arm("sdxl", "float16", 64, 64, 4, guided=False),
    "sd15-f16-512": Arm("sd15", "float16", 512, 512, adapters=PLUS, guided=False, budget=3),
    "sdxl-f16-1024": Arm(
        "sdxl", "float16", 1024, 1024, adapters=PLUS, guided=False, vae="strips", budget=8
    ),
}
SLOW = ("sd15-f32-512", "sd15-f16-512", "sdxl-f16-1024")
"""Arms for an idle machine: half precision is slow on a CPU."""

TARGETS: dict[str, tuple[Arm, float]] = {
    "SD1.5 512² + plus, float16": (Arm("sd15", "float16", 512, 512, adapters=PLUS, budget=3), 3),
    **{
        f"SDXL 1024² + plus, {name}": (
            Arm("sdxl", "float16", 1024, 1024, bits, adapters=PLUS, budget=most, vae="strips"),
            most,
        )
        for name, bits, most in (("float16", None, 8), ("8 bit", 8, 5.5), ("4 bit", 4, 4.5))
    },
}
"""What whole runs are to take at most, in GB."""


def opened(arm: Arm, folder: Path, *, lazy: bool = False) -> tuple[Any, dict[str, Any]]:
    """A pipeline, and the arguments of its call."""
    import ipa

    pipe = ipa.load(
        folder,
        backend="mlx",
        dtype=arm.dtype,
        quantize=arm.bits,
        memory_budget=arm.budget,
        lazy=lazy,
    )
    pipe.vae_memory = arm.vae
    picture = Image.radial_gradient("L").convert("RGB")
    call: dict[str, Any] = {
        "prompt": "a star",
        "width": arm.width,
        "height": arm.height,
        "num_inference_steps": 1,
        "guidance_scale": 5.0 if arm.guided else 1.0,
        "num_images": arm.pictures,
        "image_prompts": [ipa.ImagePrompt(picture, adapter=name) for name in arm.adapters],
    }
    for name in arm.adapters:
        pipe.load_ip_adapter(folder / f"{name}.safetensors", name=name)
    if arm.controlnet:
        pipe.load_controlnet(folder / "controlnet", name="control")
        call["controls"] = [ipa.Control(picture.resize((arm.width, arm.height)), name="control")]
    if arm.start:
        call |= {"image": picture.resize((arm.width, arm.height)), "strength": 1.0}
    return pipe, call


def measured(arm: Arm, folder: Path) -> dict[str, Any]:
    """The plan of an arm and what its run took, in this process."""
    from ipa_mlx.blas import preload

    preload()
    import mlx.core as mx

    from ipa.errors import NumericalError
    from ipa.pipeline.memory.staging import Staging

    pipe, call = opened(arm, folder)
    began = time.perf_counter()
    found = pipe.plan(**call)
    planned = time.perf_counter() - began
    peaks: dict[str, tuple[int, int]] = {}
    stage, before = "", mx.get_active_memory()
    enter = Staging.enter

    def entered(self: Any, name: str) -> None:
        nonlocal stage, before
        peaks.setdefault(stage, (mx.get_peak_memory(), before))
        enter(self, name)
        stage, before = name, mx.get_active_memory()
        mx.reset_peak_memory()

    Staging.enter = entered  # type: ignore[method-assign]
    mx.reset_peak_memory()
    began = time.perf_counter()
    try:
        pipe(**call)
    except NumericalError as error:  # zeros make a picture of one single colour
        if "single colour" not in error.what:
            raise
    peaks.setdefault(stage, (mx.get_peak_memory(), before))
    return {
        "plan": found.describe(),
        "planned_s": planned,
        "run_s": time.perf_counter() - began,
        "peaks": peaks,
    }


def lines(told: dict[str, Any]) -> list[str]:
    """A table of one arm: predicted and measured bytes, per stage and whole."""
    found, plan = told["peaks"], told["plan"]
    rows = []
    for stage in plan["stages"]:
        peak, before = found[stage["name"]]
        work = peak - before
        share = f"work {stage['working'] / 1e6:8.1f} / {work / 1e6:8.1f} MB"
        share += f" {stage['working'] / max(work, 1):5.2f}" if not plan["staged"] else ""
        ratio = stage["peak"] / peak
        whole = f"{stage['peak'] / 1e6:9.1f} / {peak / 1e6:9.1f} MB  {ratio:5.3f}"
        rows.append(f"  {stage['name']:10}{whole}   {share}")
    most = max(peak for peak, _ in found.values())
    head = f"  {'whole':10}{plan['peak'] / 1e6:9.1f} / {most / 1e6:9.1f} MB  "
    rows.append(f"{head}{plan['peak'] / most:5.3f}")
    return rows


def print_targets(folder: Path) -> None:
    """The plans of the issue's targets: staged, the VAE of SDXL in strips."""
    for title, (arm, most) in TARGETS.items():
        pipe, call = opened(arm, _folder(folder, arm.base), lazy=True)
        found = pipe.plan(**call)
        stages = ", ".join(f"{s.name} {s.peak / 1e9:.2f}" for s in found.stages)
        print(f"{title}: {found.peak / 1e9:.2f} GB, to be at most {most} ({stages})", flush=True)


def _folder(root: Path, base: str) -> Path:
    place = root / base
    return place if place.is_dir() else hollow_models.build(place, base)


def main() -> None:
    """Run the arms one by one, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS))
    parser.add_argument("--plans", action="store_true", help="the targets, by the plan alone")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the hollow models are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        if options.one:
            arm = ARMS[options.one]
            print(json.dumps(measured(arm, _folder(root, arm.base))))
            return
        if options.plans:
            print_targets(root)
            return
        for name in options.arms or [name for name in ARMS if name not in SLOW]:
            words = [sys.executable, "-m", "benchmarks.memory", "--one", name]
            words += ["--folder", str(root)]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            told = json.loads(done.stdout.splitlines()[-1])
            if options.json:
                print(json.dumps({"arm": name, **told}), flush=True)
                continue
            seconds = f"planned in {told['planned_s']:.1f} s, ran in {told['run_s']:.0f} s"
            print(f"{name}: predicted / measured; {seconds}")
            print("\n".join(lines(told)), flush=True)


if __name__ == "__main__":
    main()
