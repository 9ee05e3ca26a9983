"""How well pictures keep to a control's edges and to what words or another picture say besides.

The runs are those that the makers of the demo's ControlNet measured it with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

import ipa
from ipa import Control, ImagePrompt, demo
from oracle.controlled import controlled_pipeline, outline
from oracle.judge import WORDS, Judge, Reference
from oracle.pipelines import run_diffusers
from oracle.scenes import caption

GUIDANCE, STYLE_SCALE, NOISES = 4.0, 0.8, 64


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One picture to make: words, a control's edges, perhaps a style; and what it shall show."""

    prompt: str
    edges: Image.Image
    control_scale: float
    expected: Mapping[str, str]
    noise: np.ndarray
    style: Image.Image | None = None


Maker = Callable[[Ask, int], Image.Image]
"""From what is asked and the steps to a picture."""


def runs(references: Sequence[Reference]) -> dict[str, list[Ask]]:
    """The table's rows: what is asked for every reference."""
    noises = torch.randn(NOISES, 4, 16, 16, generator=torch.Generator().manual_seed(0)).numpy()
    captioned = [
        Ask(
            prompt=caption(reference.words),
            edges=outline(reference.image),
            control_scale=1.0,
            expected=reference.words,
            noise=noise[None],
        )
        for reference, noise in zip(references, noises, strict=False)
    ]
    return {
        **{
            title: [replace(ask, control_scale=scale) for ask in captioned]
            for title, scale in {
                "caption, no control": 0.0,
                "caption + control 0.5": 0.5,
                "caption + control 1.0": 1.0,
            }.items()
        },
        "other colours by text": [_recoloured(ask) for ask in captioned],
        "another's style, no text": [
            _styled(ask, references[number - 1]) for number, ask in enumerate(captioned)
        ],
    }


def _recoloured(ask: Ask) -> Ask:
    words = dict(ask.expected)
    for kind in ("colour", "background"):
        words[kind] = _further(kind, words[kind], 3)
    if words["colour"] == words["background"]:
        words["background"] = _further("background", words["background"], 1)
    text = "a {colour} {pattern} shape on a {background} background".format(**words)
    return replace(ask, prompt=text, expected=words)


def _further(kind: str, word: str, by: int) -> str:
    words = WORDS[kind]
    return words[(words.index(word) + by) % len(words)]


def _styled(ask: Ask, style: Reference) -> Ask:
    expected = {**style.words, "shape": ask.expected["shape"]}
    return replace(ask, prompt="", style=style.image, expected=expected)


def ours(backend: str) -> Maker:
    """Our pipeline with the demo's ControlNet and base adapter."""
    device = {"device": "cpu"} if backend == "torch" else {}
    pipe = ipa.load("demo", backend=backend, dtype="float32", **device)
    pipe.load_ip_adapter(demo.adapter("base"))
    pipe.load_controlnet(demo.controlnet())

    def make(ask: Ask, steps: int) -> Image.Image:
        prompts = [] if ask.style is None else [ImagePrompt(ask.style, scale=STYLE_SCALE)]
        return pipe(
            ask.prompt,
            image_prompts=prompts,
            controls=Control(ask.edges, scale=ask.control_scale),
            latents=ask.noise,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
        ).images[0]

    return make


def stock() -> Maker:
    """Diffusers' own pipeline with the same files; without a style the adapter's scale is 0."""
    pipe = controlled_pipeline(demo.model(), [demo.controlnet()], [demo.adapter("base")])

    def make(ask: Ask, steps: int) -> Image.Image:
        arrays = run_diffusers(
            pipe,
            ask.prompt,
            images=[ask.edges if ask.style is None else ask.style],
            scale=0.0 if ask.style is None else STYLE_SCALE,
            image=ask.edges,
            controlnet_conditioning_scale=ask.control_scale,
            latents=torch.from_numpy(ask.noise),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            output_type="np",
        )
        return Image.fromarray(np.round(arrays[0] * 255).astype(np.uint8))

    return make


def measure(images: Sequence[Image.Image], asks: Sequence[Ask]) -> dict[str, float]:
    """Means over pictures: "edges", the F1 of edges, and the share that shows each word asked."""
    read = Judge().read(images)
    pairs = list(zip(images, asks, strict=True))
    found: dict[str, Any] = {
        "edges": np.mean([agreement(outline(image), ask.edges) for image, ask in pairs])
    }
    for kind in WORDS:
        right = [words[kind] == ask.expected[kind] for words, ask in zip(read, asks, strict=True)]
        found[kind] = np.mean(right)
    return {name: float(value) for name, value in found.items()}


def agreement(found: Image.Image, wanted: Image.Image) -> float:
    """F1 of two edge maps, a pixel of tolerance."""
    a, b = (np.asarray(picture.convert("L")) > 127 for picture in (found, wanted))
    precision = (a & _grown(b)).sum() / max(1, a.sum())
    recall = (b & _grown(a)).sum() / max(1, b.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))


def _grown(edges: np.ndarray) -> np.ndarray:
    wide = np.pad(edges, 1)
    height, width = edges.shape
    near = [wide[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.any(near, axis=0)
