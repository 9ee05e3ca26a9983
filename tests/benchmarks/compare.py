"""`make bench`: ours and diffusers at the true SD1.5 sizes, interleaved in one run.

Each round times every contender once, in turn, so that what else the machine does falls on all of
them alike. What counts is the median of the rounds' ratios. Random weights, float32.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from benchmarks import true_models
from ipa.backend.protocol import Branch
from ipa.backend.schedule import Step
from ipa.model.folder import AdapterFiles
from ipa.prepare.images.clip import clip_pixels
from ipa.sources.model_folder import open_model_folder
from ipa_torch.files.weights import quiet

STEP = Step(timestep=501.0, input_scale=1.0, denoised_x=1.0, denoised_output=1.0, x_x=1.0)
Contender = Callable[[], object]
_PROMPTED = "ours with adapter"


def interleaved(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of how much longer one takes."""
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians of seconds, and the ratios that count."""
    row = {f"{name} s": statistics.median(values) for name, values in times.items()}
    row["ours / diffusers"] = ratio(times, "ours", "diffusers")
    if _PROMPTED in times:
        row["with / without an image prompt"] = ratio(times, _PROMPTED, "ours")
    return row


class Ours:
    """The MLX backend on the folder, with its adapter."""

    def __init__(self, folder: Path, side: int) -> None:
        from ipa_mlx.blas import preload

        self.blas = preload()
        from ipa_mlx import backend

        self.runtime = backend.load(open_model_folder(folder, name="bench"), dtype="float32")
        files = AdapterFiles(name="base", weights=folder / "base.safetensors", image_encoder=None)
        self.settings = self.runtime.load_adapter("base", files).preprocessing
        draw = np.random.default_rng(0)
        self.latents = self.runtime.from_numpy(
            draw.standard_normal((1, 4, side, side), dtype=np.float32)
        )
        self.pixels = clip_pixels([Image.new("RGB", (224, 224), (90, 120, 200))], self.settings)
        text = self.runtime.encode_text(np.zeros((1, 77), np.int32))
        tokens = self.runtime.project("base", *self.runtime.encode_images("base", self.pixels))
        branch = Branch("base", tokens)
        self.plain = self.runtime.condition([text, text], [], guided=True)
        self.prompted = self.runtime.condition([text, text], [branch], guided=True)
        self.scales = [(0.8,) * len(self.runtime.model.sites)]

    def step(self) -> None:
        """One guided step without an image prompt."""
        self._evaluate(self.plain, [])

    def step_with_adapter(self) -> None:
        """One guided step with one."""
        self._evaluate(self.prompted, self.scales)

    def _evaluate(self, conditioning: Any, scales: Any) -> None:
        output = self.runtime.predict(self.latents, STEP, conditioning, scales)
        self.runtime.advance(STEP, self.latents, self.runtime.guide(output, 7.5), (), None)

    def decode(self) -> None:
        """Latents to a picture."""
        self.runtime.decode(self.latents)

    def embed(self) -> None:
        """ViT-H on one picture."""
        self.runtime.embed_images("base", self.pixels)


class Theirs:
    """diffusers and transformers on the same folder."""

    def __init__(self, folder: Path, side: int) -> None:
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet")
        self.vae = AutoencoderKL.from_pretrained(folder / "vae")
        self.vision = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
        self.latents = torch.randn(1, 4, side, side)
        self.text = torch.randn(2, 77, 768)
        self.pixels = torch.randn(1, 3, 224, 224)

    @torch.inference_mode()
    def step(self) -> None:
        """One guided step."""
        x = torch.cat([self.latents, self.latents])
        unconditional, conditional = self.unet(x, 501, self.text, return_dict=False)[0].chunk(2)
        _ = unconditional + 7.5 * (conditional - unconditional)

    @torch.inference_mode()
    def decode(self) -> None:
        """Latents to a picture."""
        self.vae.decode(self.latents / 0.18215)

    @torch.inference_mode()
    def embed(self) -> None:
        """ViT-H on one picture."""
        self.vision(self.pixels)


def bench_loading(folder: Path, rounds: int) -> dict[str, list[float]]:
    """UNet, VAE and text encoder from disk to ready, the file cache warm."""
    from ipa_mlx import backend

    def ours() -> None:
        backend.load(open_model_folder(folder, name="bench"), dtype="float32")
        gc.collect()

    def theirs() -> None:
        for kind, name in (
            (UNet2DConditionModel, "unet"),
            (AutoencoderKL, "vae"),
            (CLIPTextModel, "text_encoder"),
        ):
            module = kind.from_pretrained(folder / name)
            # The file is only mapped so far: touch every page, as computing will.
            sum(float(p.detach().flatten()[::1024].sum()) for p in module.parameters())
        gc.collect()

    return interleaved({"ours": ours, "diffusers": theirs}, rounds)


def run(folder: Path, side: int, rounds: int) -> dict[str, Any]:
    """All measurements."""
    ours, theirs = Ours(folder, side), Theirs(folder, side)
    import mlx.core as mx  # only now: `Ours` has put a fast BLAS in front of it

    rows = {
        f"UNet step, {side}² latents, batch 2": interleaved(
            {
                "ours": ours.step,
                "diffusers": theirs.step,
                _PROMPTED: ours.step_with_adapter,
            },
            rounds,
        ),
        f"VAE decode {8 * side}²": interleaved(
            {"ours": ours.decode, "diffusers": theirs.decode}, rounds
        ),
        "ViT-H": interleaved({"ours": ours.embed, "diffusers": theirs.embed}, rounds),
    }
    blas, device = ours.blas, str(mx.default_device())
    del ours, theirs
    gc.collect()
    rows["loading UNet, VAE, text"] = bench_loading(folder, max(2, rounds // 2))
    return {
        "conditions": {
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "mlx": f"{mx.__version__} on {device}, BLAS: {blas or 'of the wheel'}",
            "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
            "dtype": "float32, random weights",
            "rounds": rounds,
        },
        "results": {name: summary(times) for name, times in rows.items()},
    }


def main() -> None:
    """Build (or take) the folder, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder made by an earlier run")
    parser.add_argument("--side", type=int, default=32, help="latent pixels along a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with quiet(), tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model_index.json").is_file():
            true_models.build(folder)
        found = run(folder, options.side, options.rounds)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found["conditions"].items():
        print(f"{key:10s} {value}")
    for name, row in found["results"].items():
        print(
            f"{name:34s} ours {row['ours s']:6.3f} s  diffusers {row['diffusers s']:6.3f} s  "
            f"ratio {row['ours / diffusers']:.2f}"
        )
        if extra := row.get("with / without an image prompt"):
            print(f"{'  an image prompt adds':34s} {100 * (extra - 1):+.1f} % per step")


if __name__ == "__main__":
    main()
