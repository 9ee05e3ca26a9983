"""The compiled UNet: the same bits, and one graph for whatever changes from step to step.

MLX traces as on a GPU, but what it compiled is not run: on a CPU each kernel would take a C++
compiler. What runs is the function that it traced, on the same arguments.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Control, ImagePrompt
from ipa_mlx.compiled import CompiledUNet
from oracle import controlled, models

CALL: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "width": 32,
    "height": 32,
    "seed": 4,
    "output_type": "latent",
}


class Compiler:
    """`mx.compile`, its traces counted and its results dropped."""

    def __init__(self) -> None:
        self.traces = self.calls = 0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.traces += 1
            return function(*arguments)

        compiled = mx.compile(counted)

        def call(*arguments: Any) -> Any:
            self.calls += 1
            compiled(*arguments)
            return function(*arguments)

        return call


def compiles() -> bool:
    """Whether MLX compiles here: without a C++ compiler it calls the function itself.

    The first function of a process is traced twice, so it is not one of those that are counted.
    """
    calls: list[int] = []

    def double(x: mx.array) -> mx.array:
        calls.append(1)
        return x + x

    compiled = mx.compile(double)
    for _ in range(4):
        compiled(mx.array(1.0))
    return len(calls) < 3


needs_compiler = pytest.mark.skipif(not compiles(), reason="MLX finds no C++ compiler")


@pytest.fixture
def plain(tiny: Path, open_pipeline: Callable[..., ipa.Pipeline]) -> ipa.Pipeline:
    return open_pipeline(tiny, "mlx", "linear", "plus")


@pytest.fixture
def compiler() -> Compiler:
    return Compiler()


@pytest.fixture
def pipe(
    tiny: Path, open_pipeline: Callable[..., ipa.Pipeline], compiler: Compiler
) -> ipa.Pipeline:
    pipe = open_pipeline(tiny, "mlx", "linear", "plus")
    pipe._loaded.backend.compile_with(CompiledUNet(compiler))
    return pipe


def prompts(references: list[Image.Image]) -> dict[str, list[ImagePrompt]]:
    half = Image.new("L", (32, 32))
    half.paste(255, (0, 0, 16, 32))
    linear = ImagePrompt(references[0], adapter="linear", scale=0.7)
    return {
        "none": [],
        "one": [linear],
        "two, one masked": [
            linear,
            ImagePrompt(references[1], adapter="plus", scale=0.4, mask=half),
        ],
        "some sites": [ImagePrompt(references[0], adapter="linear", scale={1: 0.5, 3: 0.0})],
        "inside": [
            ImagePrompt(references[0], adapter="plus", embeds_scaling=name)
            for name in ("K+V", "K+mean(V) w/ C penalty")
        ],
        "off": [ImagePrompt(references[0], adapter="linear", scale=0.0)],
    }


KINDS = ("none", "one", "two, one masked", "some sites", "inside", "off")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits(
    kind: str,
    plain: ipa.Pipeline,
    pipe: ipa.Pipeline,
    compiler: Compiler,
    references: list[Image.Image],
) -> None:
    asked = prompts(references)[kind]
    expected = plain("a star", image_prompts=asked, **CALL).latents
    assert np.array_equal(pipe("a star", image_prompts=asked, **CALL).latents, expected)
    assert compiler.calls == 3


@needs_compiler
def test_no_new_trace_while_values_change(
    pipe: ipa.Pipeline, compiler: Compiler, references: list[Image.Image]
) -> None:
    """Of a slider, a seed, a text, a picture, a step, a sampler."""

    def run(text: str = "a star", scale: float = 0.7, picture: int = 0, **changes: Any) -> None:
        prompt = ImagePrompt(references[picture], adapter="linear", scale=scale)
        pipe(text, image_prompts=prompt, **(CALL | changes))

    run()
    assert compiler.traces == 1
    run(scale=0.3)
    run(seed=5)
    run("a long red dragon, seen from above", negative_prompt="rain")
    run(picture=3)
    run(num_inference_steps=5, guidance_scale=7.0)
    run(scheduler="euler")
    assert compiler.traces == 1 and compiler.calls > 15


@needs_compiler
def test_another_form_is_traced_once(
    pipe: ipa.Pipeline, compiler: Compiler, references: list[Image.Image]
) -> None:
    """A window closes, a size changes: each form has its graph, and keeps it."""
    window = ImagePrompt(references[0], adapter="linear", end=0.5)
    counts = []
    for changes in ({}, {}, {"width": 48}, {"guidance_scale": 1.0}, {}):
        pipe("a star", image_prompts=window, **(CALL | changes))
        counts.append(compiler.traces)
    assert counts == [2, 2, 4, 6, 6]  # with the image prompt, and without


@needs_compiler
def test_graphs_that_nobody_asks_for_are_dropped(
    pipe: ipa.Pipeline, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipa_mlx.compiled._MOST_TRACES", 1)
    pipe("a star", **CALL)
    assert compiler.traces == compiler.calls == 3


def test_off_is_the_base_model_bit_for_bit(
    pipe: ipa.Pipeline, compiler: Compiler, references: list[Image.Image]
) -> None:
    asked = prompts(references)["off"]
    base, off = pipe("a star", **CALL), pipe("a star", image_prompts=asked, **CALL)
    assert np.array_equal(base.latents, off.latents)
    assert compiler.calls == 6


def test_controls_and_reuse_are_arguments(
    plain: ipa.Pipeline,
    pipe: ipa.Pipeline,
    compiler: Compiler,
    tmp_path: Path,
    references: list[Image.Image],
) -> None:
    edges = Control(Image.fromarray(controlled.edges((32, 32), 1)), scale=0.7)
    net = tmp_path / "net"
    controlled.write_controlnet(net, models.UNET, seed=9)
    for each in (plain, pipe):
        each.load_controlnet(net)
    for changes in ({"controls": [edges]}, {"cache_interval": 2, "cache_branch": 1}):
        expected = plain("a star", **changes, **CALL).latents
        assert np.array_equal(pipe("a star", **changes, **CALL).latents, expected)
    assert compiler.calls == 6


def test_who_looks_inside_takes_the_plain_path(
    plain: ipa.Pipeline, pipe: ipa.Pipeline, compiler: Compiler, references: list[Image.Image]
) -> None:
    """Influence and stages need the arrays between."""
    asked = prompts(references)["one"]
    told = []

    class Tap:
        def wants(self, stage: str) -> bool:
            return "conv_norm_out" in stage

        def __call__(self, stage: str, array: np.ndarray) -> None:
            told.append(stage)

    found = pipe("a star", image_prompts=asked, influence=True, **CALL)
    assert np.array_equal(found.latents, plain("a star", image_prompts=asked, **CALL).latents)
    pipe("a star", tap=Tap(), **CALL)
    assert len(told) == 3 and compiler.calls == 0
    pipe("a star", **CALL)
    assert compiler.calls == 3


@needs_compiler
def test_other_weights_are_traced_again(pipe: ipa.Pipeline, compiler: Compiler) -> None:
    """A LoRA replaces layers; the graph has the weights of those that it was traced with."""
    pipe("a star", **CALL)
    compiled = pipe._loaded.backend._compiled
    before, call = compiler.traces, compiled._call
    pipe._loaded.backend.loras.acting.uses += 1
    pipe("a star", **CALL)
    assert compiler.traces == before + 1 and compiled._call is not call


def test_the_same_bits_of_sdxl(
    tiny_xl: Path, open_pipeline: Callable[..., ipa.Pipeline], compiler: Compiler
) -> None:
    """What it adds to the timestep is an argument too."""
    pipe = open_pipeline(tiny_xl, "mlx")
    expected = pipe("a star", **CALL).latents
    pipe._loaded.backend.compile_with(CompiledUNet(compiler))
    assert np.array_equal(pipe("a star", **CALL).latents, expected)
    assert compiler.calls == 3


def test_weights_that_leave_are_let_go_of(pipe: ipa.Pipeline, compiler: Compiler) -> None:
    """Or a network that is released for its memory would stay in the graph."""
    pipe("a star", **CALL)
    resident = pipe._loaded.backend.networks["unet"]
    gone = weakref.ref(resident.get())
    resident.release()
    gc.collect()
    assert gone() is None
    before = compiler.traces
    again = pipe("a star", **CALL)
    assert again.latents.shape and compiler.traces == before + (1 if compiles() else 3)
