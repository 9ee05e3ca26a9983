"""Evaluations of the UNet, both backends, against diffusers' own in float64 with attention64 in it.

Weights and sites come from tables that are written anew here. What no library has: ComfyUI's
embeds_scaling and its precise weight types, beside curves, windows, masks, negative and joint
pictures, at the places of SD1.5's 16 and SDXL's 11 transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image

from ipa import ImagePrompt, Pipeline
from ipa.backend.protocol import Branch
from oracle import models, trajectories
from oracle.attention64 import Picture64
from oracle.measure import relative
from oracle.unet64 import Site64, unet64

STEPS, SIDE = 4, 64
LEFT = np.tile(np.linspace(1.0, 0.0, SIDE) > 0.4, (SIDE, 1))
BASES: dict[str, dict[str, Any]] = {
    "SD1.5": models.FOUR_LEVELS,
    "SDXL": {
        key: value
        for key, value in models.XL_UNET.items()
        if not key.startswith(("addition", "projection"))
    }
    | {"in_channels": 4, "out_channels": 4, "cross_attention_dim": models.TEXT["hidden_size"]},
}
COUNT = {"SD1.5": 16, "SDXL": 11}
ADAPTERS = ("linear", "plus", "full")
# Relative L2 of one evaluation, measured: at most 5.0e-7 with MLX, 4.5e-7 with torch.
LIMIT = 1.5e-6


@dataclass(frozen=True)
class Asked:
    """An image prompt in the product's words, and the same in numbers by (base, t) and step."""

    options: dict[str, Any]
    weight: Callable[[str, int, int], float]
    moved: Callable[[str, int], bool] = lambda base, t: False
    pictures: tuple[int, ...] = (0,)
    adapter: str = "linear"
    negative: int | None = None
    mode: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", self.options.get("embeds_scaling", "V only"))

    def prompt(self, references: Sequence[Image.Image]) -> ImagePrompt:
        images = [references[i] for i in self.pictures]
        negative = {} if self.negative is None else {"negative": references[self.negative]}
        return ImagePrompt(images, adapter=self.adapter, **self.options, **negative)


def style(base: str, t: int, w: float, boost: float) -> float:
    """ComfyUI's "style transfer precise"."""
    if base == "SDXL":
        return {3: boost, 6: w}.get(t, 0.0)
    return {4: 0.25 * boost, 5: boost, 6: 0.0, 7: 0.0, 8: 0.0}.get(t, w)


def composition(base: str, t: int, w: float, boost: float) -> float:
    """ComfyUI's "composition precise"."""
    if base == "SDXL":
        return {3: w, 6: boost}.get(t, 0.1 * boost)
    return {4: 0.25 * w, 5: w, 6: 0.1 * boost, 7: 0.1 * boost, 8: 0.1 * boost}.get(t, boost)


def is_layout(base: str, t: int) -> bool:
    return t in ({3} if base == "SDXL" else {4, 5})


CASES: dict[str, tuple[Asked, ...]] = {
    "style transfer precise": (
        Asked(
            {"layers": {"style transfer precise": 0.5, "boost": 1.5}, "scale": 0.9},
            lambda base, t, i: style(base, t, 0.9 * 0.5, 0.9 * 1.5),
            is_layout,
            pictures=(0, 2),
            negative=4,
        ),
    ),
    "composition precise": (
        Asked(
            {"layers": "composition precise", "curve": [(0.0, 1.0), (1.0, 0.5)], "mask": LEFT},
            lambda base, t, i: composition(base, t, *[1.0 - 0.5 * i / STEPS] * 2),
            lambda base, t: not is_layout(base, t),
            adapter="plus",
            negative=1,
        ),
    ),
    "modes": (
        Asked(
            {"embeds_scaling": "K+V", "layers": "ease out", "start": 0.25},
            lambda base, t, i: (0.05 + 0.95 * t / COUNT[base]) * (i >= 1),
        ),
        Asked(
            {
                "embeds_scaling": "K+mean(V) w/ C penalty",
                "scale": 40.0,
                "layers": "composition precise",
            },
            lambda base, t, i: composition(base, t, 40.0, 40.0),
            lambda base, t: not is_layout(base, t),
            pictures=(3, 1),
            adapter="plus",
        ),
        Asked(
            {"embeds_scaling": "K+V w/ C penalty", "scale": -30.0, "mask": ~LEFT, "end": 0.5},
            lambda base, t, i: -30.0 * (i < 2),
            pictures=(5,),
            adapter="full",
        ),
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trajectories.build(
        {base: models.Tiny(unet=BASES[base]) for base in BASES}, tmp_path_factory
    )


@pytest.fixture(scope="module", params=BASES)
def base(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(base: str, folders: dict[str, Path]) -> Path:
    return folders[base]


@pytest.fixture(scope="module")
def pipe(folder: Path, backend: str, open_pipeline: Callable[..., Pipeline]) -> Pipeline:
    return open_pipeline(folder, backend, *ADAPTERS)


class Tape:
    """What a run gave its backend, and what the UNet answered, in numpy."""

    def __init__(self, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend = backend
        self.steps: list[tuple[np.ndarray, float, np.ndarray]] = []
        self.originals = {name: getattr(backend, name) for name in ("condition", "predict")}
        for name in self.originals:
            monkeypatch.setattr(backend, name, getattr(self, name))

    def condition(self, text: Any, branches: Sequence[Branch], **options: Any) -> Any:
        self.text = np.concatenate([np.array(row.states) for row in text])
        tokens = [branch.tokens for branch in branches]
        both = [(np.array(each.unconditional), np.array(each.conditional)) for each in tokens]
        self.tokens = [[rows[0] for rows in pair][-len(text) :] for pair in both]
        return self.originals["condition"](text, branches, **options)

    def predict(self, latents: Any, step: Any, *rest: Any, **named: Any) -> Any:
        out = self.originals["predict"](latents, step, *rest, **named)
        rows = out.reshape(-1, *out.shape[2:])
        answer = self.backend.to_numpy(rows).reshape(len(self.text), len(latents), 4, 8, 8)
        x = self.backend.to_numpy(latents) * np.float32(step.input_scale)
        self.steps.append((x, step.timestep, answer))
        return out


def judged(tape: Tape, asked: Sequence[Asked], base: str, folder: Path, number: int) -> np.ndarray:
    """Step `number` of a tape, evaluated anew."""
    files = {name: safetensors.numpy.load_file(folder / f"{name}.safetensors") for name in ADAPTERS}

    def pictures(site: Site64) -> list[Picture64]:
        return [
            Picture64(
                tokens,
                *(files[each.adapter][f"ip_adapter.{site.number}.to_{x}_ip.weight"] for x in "kv"),
                weight=each.weight(base, site.t, number),
                mode=each.mode,
                mask=mask_at(each.options.get("mask"), site.queries),
                moved=each.moved(base, site.t),
            )
            for each, tokens in zip(asked, tape.tokens, strict=True)
        ]

    x, timestep, _ = tape.steps[number]
    return unet64(folder, x, timestep, tape.text, pictures)


def mask_at(mask: np.ndarray | None, queries: int) -> np.ndarray | None:
    """As diffusers resamples it."""
    if mask is None:
        return None
    values = torch.from_numpy(mask.astype(np.float32))[None]
    return IPAdapterMaskProcessor.downsample(values, 1, queries, 1)[0, :, 0].numpy()


@pytest.mark.parametrize(
    ("name", "guidance"), [*((name, 3.0) for name in CASES), ("composition precise", 1.0)]
)
def test_every_step(
    name: str,
    guidance: float,
    base: str,
    folder: Path,
    pipe: Pipeline,
    references: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tape, asked = Tape(pipe._loaded.backend, monkeypatch), CASES[name]
    pipe(
        "a star",
        image_prompts=[each.prompt(references) for each in asked],
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        width=SIDE,
        height=SIDE,
        num_images=2 if name == "modes" else 1,
        seed=3,
        output_type="latent",
    )
    assert len(tape.steps) == STEPS and len(tape.text) == 1 + (guidance > 1.0)
    for number in (0, 2) if name == "modes" else (1,):
        found, expected = tape.steps[number][2], judged(tape, asked, base, folder, number)
        error = relative(found, expected)
        assert error < LIMIT
