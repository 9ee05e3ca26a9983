"""`python -m benchmarks.steering`: how well pictures follow their reference.

MLX beside torch beside stock diffusers: eight unseen references, several seeds each, empty prompt,
DDIM, guidance 4.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

import ipa
from ipa import ImagePrompt, demo
from oracle.judge import WORDS, Judge, Reference, border_colour, clip_embeddings
from oracle.pipelines import diffusers_pipeline, run_diffusers

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)
Maker = Callable[[Image.Image, float, int, int, int], list[Image.Image]]


def ours(backend: str, adapter: str) -> Maker:
    """Our pipeline as a function of picture, scale, first seed, count, steps."""
    device = {"device": "cpu"} if backend == "torch" else {}
    pipe = ipa.load("demo", backend=backend, dtype="float32", **device)
    pipe.load_ip_adapter(demo.adapter(adapter))

    def make(
        image: Image.Image, scale: float, seed: int, count: int, steps: int
    ) -> list[Image.Image]:
        return pipe(
            image_prompts=[ImagePrompt(image, scale=scale)],
            num_inference_steps=steps,
            guidance_scale=4.0,
            seed=seed,
            num_images=count,
        ).images

    return make


def stock(adapter: str) -> Maker:
    """Diffusers' own pipeline as the same function."""
    pipe = diffusers_pipeline(demo.model(), [demo.adapter(adapter)])

    def make(
        image: Image.Image, scale: float, seed: int, count: int, steps: int
    ) -> list[Image.Image]:
        arrays = run_diffusers(
            pipe,
            "",
            images=[image],
            scale=scale,
            seed=seed,
            num_images=count,
            output_type="np",
            num_inference_steps=steps,
            guidance_scale=4.0,
        )
        return [Image.fromarray(np.round(a * 255).astype(np.uint8)) for a in arrays]

    return make


def row(images: Sequence[Image.Image], owners: Sequence[int], references: list[Reference]) -> str:
    """One line of the table."""
    read = Judge().read(images)
    right = np.array(
        [[r[k] == references[o].words[k] for k in WORDS] for r, o in zip(read, owners, strict=True)]
    )
    targets = clip_embeddings([r.image for r in references])
    cosines = clip_embeddings(images) @ targets.T
    own = cosines[np.arange(len(images)), owners]
    others = (cosines.sum(axis=1) - own) / (len(references) - 1)
    border = [
        np.abs(border_colour(i) - border_colour(references[o].image)).mean()
        for i, o in zip(images, owners, strict=True)
    ]
    words = "  ".join(f"{value:.3f}" for value in right.mean(axis=0))
    return (
        f"{words}  {right.all(axis=1).mean():.3f}   {own.mean():.3f}  {others.mean():.3f}   "
        f"{np.mean(border):.3f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4, help="pictures per reference and scale")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--adapter", choices=("base", "plus"), default="base")
    options = parser.parse_args()
    references = Reference.all()
    owners = [o for o in range(len(references)) for _ in range(options.seeds)]
    print(
        f"{options.adapter}, {len(owners)} pictures per row, {options.steps} DDIM steps, guidance 4"
    )
    print(f"{'':18s}{'  '.join(f'{k[:5]:>5s}' for k in WORDS)}    all   own    other   border")
    makers = {
        "mlx": ours("mlx", options.adapter),
        "torch": ours("torch", options.adapter),
        "diffusers": stock(options.adapter),
    }
    for scale in SCALES:
        for name, make in makers.items():
            images = [
                image
                for number, reference in enumerate(references)
                for image in make(
                    reference.image, scale, number * options.seeds, options.seeds, options.steps
                )
            ]
            print(f"{scale:<6g}{name:12s}{row(images, owners, references)}", flush=True)


if __name__ == "__main__":
    main()
