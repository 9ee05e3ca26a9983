"""`python -m benchmarks.structure`: how well pictures keep to the edges of a control.

MLX beside torch beside stock diffusers, from the same noise: held-out references, DDIM, guidance 4.
`edges` is the F1 of edges with a pixel of tolerance; the others are the share of pictures in which
a classifier sees the shape of the reference, and what else words or another picture asked for.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from ipa import demo
from ipa_mlx.blas import preload
from ipa_torch.files.weights import quiet
from oracle.judge import Reference
from oracle.scenes import held_out
from oracle.structure import NOISES, measure, ours, runs, stock

MAKERS = {"mlx": lambda: ours("mlx"), "torch": lambda: ours("torch"), "diffusers": stock}
COLUMNS = ("edges", "shape", "colour", "pattern", "background")


@torch.no_grad()
def decoded(references: list[Reference]) -> list[Image.Image]:
    """What the VAE makes of the references: no picture can keep to edges better."""
    with quiet():
        vae = AutoencoderKL.from_pretrained(demo.model() / "vae", torch_dtype=torch.float32)
    stacked = np.stack([np.asarray(r.image, np.float32) / 127.5 - 1 for r in references])
    latents = vae.encode(torch.from_numpy(stacked.transpose(0, 3, 1, 2))).latent_dist.mean
    values = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray((v * 255).round().astype(np.uint8)) for v in values]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=tuple(MAKERS), nargs="*", default=list(MAKERS))
    parser.add_argument("--count", type=int, default=NOISES, help=f"at most {NOISES}")
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    if not 1 <= options.count <= NOISES:
        parser.error(f"--count must be from 1 to {NOISES}")
    preload()
    references = held_out(options.count)
    makers = {name: MAKERS[name]() for name in options.backend}
    print(f"{options.count} pictures per row, {options.steps} DDIM steps, guidance 4")
    print(f"{'':26s}{'':11s}" + "".join(f"{name:>12s}" for name in COLUMNS))
    table = runs(references)
    first = next(iter(table.values()))
    print(line("references, by the VAE", "", measure(decoded(references), first)), flush=True)
    for title, asks in table.items():
        for name, make in makers.items():
            images = [make(ask, options.steps) for ask in asks]
            print(line(title, name, measure(images, asks)), flush=True)


def line(title: str, name: str, found: dict[str, float]) -> str:
    """One of the table."""
    return f"{title:26s}{name:11s}" + "".join(f"{found[key]:12.3f}" for key in COLUMNS)


if __name__ == "__main__":
    main()
