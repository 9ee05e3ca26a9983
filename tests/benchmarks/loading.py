"""How long loading takes: UNet, VAE and text encoder from disk to ready, the file cache warm.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.loading [--folder FOLDER] [--rounds 3]

Each round loads once with either, in turn; the first round is not counted. Random weights of
SD1.5's true sizes, float32. What counts is the median of the rounds' ratios. (Stages and
generations are what `ipa-mlx bench` measures.)
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

from benchmarks import true_models
from ipa.sources.model_folder import open_model_folder
from ipa_mlx.blas import preload
from ipa_torch.files.weights import quiet


def ours(folder: Path) -> None:
    """The MLX backend."""
    from ipa_mlx import backend

    backend.load(open_model_folder(folder, name="bench"), dtype="float32")
    gc.collect()


def theirs(folder: Path) -> None:
    """diffusers and transformers."""
    for kind, name in (
        (UNet2DConditionModel, "unet"),
        (AutoencoderKL, "vae"),
        (CLIPTextModel, "text_encoder"),
    ):
        module = kind.from_pretrained(folder / name)
        # The file is only mapped so far: touch every page, as computing will.
        sum(float(p.detach().flatten()[::1024].sum()) for p in module.parameters())
    gc.collect()


def seconds(run: Callable[[Path], None], folder: Path) -> float:
    began = time.perf_counter()
    run(folder)
    return time.perf_counter() - began


def main() -> None:
    """Build (or take) the folder, measure, print."""
    preload()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="a folder made by an earlier run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with quiet(), tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model_index.json").is_file():
            true_models.build(folder)
        rounds = [
            [seconds(run, folder) for run in (ours, theirs)] for _ in range(options.rounds + 1)
        ]
    ratio = statistics.median(a / b for a, b in rounds[1:])
    medians = [statistics.median(column) for column in zip(*rounds[1:], strict=True)]
    print(f"ours {medians[0]:.2f} s, diffusers {medians[1]:.2f} s, ours / diffusers {ratio:.2f}")


if __name__ == "__main__":
    main()
