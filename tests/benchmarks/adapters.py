"""`python -m benchmarks.adapters`: what the first to the fourth adapter cost a step.

Guided steps of SD1.5's UNet at its true size with none to four adapters (four tokens each, random
weights), ours on MLX and diffusers', interleaved in one run on the CPU. What counts is the median
of the rounds' ratios to the step without any.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel

from benchmarks import true_models
from benchmarks.compare import STEP, interleaved, ratio
from ipa.backend.protocol import Branch
from ipa.model.folder import AdapterFiles
from ipa.sources.model_folder import open_model_folder

MOST = 4
Contender = Callable[[], object]


def ours(folder: Path, side: int) -> dict[str, Contender]:
    """A step of the MLX backend with each number of adapters."""
    from ipa_mlx.blas import preload

    preload()
    from ipa_mlx import backend

    runtime = backend.load(open_model_folder(folder, name="bench"), dtype="float32")
    files = AdapterFiles(name="base", weights=folder / "base.safetensors", image_encoder=None)
    draw = np.random.default_rng(0).standard_normal
    text = runtime.encode_text(np.zeros((1, 77), np.int32))
    latents = runtime.from_numpy(draw((1, 4, side, side), dtype=np.float32))
    branches = []
    for name in map(str, range(MOST)):
        width = runtime.load_adapter(name, files).spec.feature_width
        features = draw((2, 1, width), dtype=np.float32)
        branches.append(Branch(name, runtime.project(name, *features)))

    def step(count: int) -> Contender:
        conditioning = runtime.condition([text, text], branches[:count], guided=True)
        scales = [(0.8,) * len(runtime.model.sites)] * count

        def run() -> None:
            output = runtime.guide(runtime.predict(latents, STEP, conditioning, scales), 7.5)
            runtime.advance(STEP, latents, output, [], None)

        return run

    return {f"ours {count}": step(count) for count in range(MOST + 1)}


def theirs(folder: Path, side: int) -> dict[str, Contender]:
    """The same of diffusers, which leaves out an adapter whose scale is 0."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in safetensors.torch.load_file(folder / "base.safetensors").items():
        part, _, rest = key.partition(".")
        parts[part][rest] = tensor
    unet._load_ip_adapter_weights([parts] * MOST)
    width = parts["image_proj"]["proj.weight"].shape[1]
    embeds = [torch.randn(2, 1, width) for _ in range(MOST)]
    latents, text = torch.randn(2, 4, side, side), torch.randn(2, 77, 768)

    def step(count: int) -> Contender:
        @torch.inference_mode()
        def run() -> None:
            for processor in unet.attn_processors.values():
                if hasattr(processor, "scale"):
                    processor.scale = [0.8] * count + [0.0] * (MOST - count)
            known = {"image_embeds": embeds}
            out = unet(latents, 501, text, added_cond_kwargs=known, return_dict=False)[0]
            unconditional, conditional = out.chunk(2)
            _ = unconditional + 7.5 * (conditional - unconditional)

        return run

    return {f"diffusers {count}": step(count) for count in range(MOST + 1)}


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = true_models.build(Path(root))
        contenders = ours(folder, options.side) | theirs(folder, options.side)
        times = interleaved(contenders, options.rounds)
    print("adapters  ours / ours without  diffusers / diffusers without")
    for count in range(1, MOST + 1):
        own, other = (ratio(times, f"{who} {count}", f"{who} 0") for who in ("ours", "diffusers"))
        print(f"{count:8d}  {own:19.3f}  {other:29.3f}")


if __name__ == "__main__":
    main()
