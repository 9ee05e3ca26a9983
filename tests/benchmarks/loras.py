"""What LoRAs cost per step: none, one, two and a fused one, interleaved, at half of SD1.5's widths.

PYTHONPATH=tests .venv/bin/python -m benchmarks.loras [mlx|torch]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

import ipa
from ipa_mlx.blas import preload
from oracle import loras, models
from oracle.pipelines import diffusers_pipeline

ROUNDS, RANK = 5, 16
UNET = models.FOUR_LEVELS | {
    "block_out_channels": (160, 320, 640, 640),
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
CALL = {"num_inference_steps": 2, "width": 256, "height": 256, "output_type": "latent"}


def main(backend: str) -> None:
    """Medians of seconds a step, and their ratio to none."""
    preload()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "model").mkdir()
        folder = models.build_folder(root / "model", models.Tiny(unet=UNET))
        modules = loras.layers(diffusers_pipeline(folder))
        pipe = ipa.load(folder, backend=backend, dtype="float32")
        for name, fuse in (("a", False), ("b", False), ("fused", True)):
            pairs = loras.weak(loras.random_pairs(modules, seed=len(name), ranks=(RANK,)))
            path = loras.write(root / f"{name}.safetensors", loras.kohya(pairs, "sd"))
            pipe.load_lora(path, name=name, scale=0.0, fuse=fuse)
    cases = {"none": {}, "one": {"a": 1.0}, "two": {"a": 1.0, "b": 1.0}, "fused": {"fused": 1.0}}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        for name, scales in cases.items():
            seconds = pipe("a star", loras=scales, **CALL).info["timings_s"]["denoise"]
            if number:  # the first is warming up
                times[name].append(seconds / CALL["num_inference_steps"])
    none = statistics.median(times["none"])
    for name, values in times.items():
        found = statistics.median(values)
        print(f"{backend} {name:>6}: {found:.3f} s a step, {found / none:.2f} of none")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["mlx"]))
