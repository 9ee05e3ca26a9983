"""ControlNets: whole trajectories against diffusers' own pipelines, also with image prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from oracle import controlled, models, trajectories
from oracle.measure import relative
from oracle.pipelines import run_diffusers

# Relative L2 of the final latents. Measured over all cases: torch 1.8e-6, mlx 1.9e-6.
LIMITS = {"torch": 5e-6, "mlx": 1e-5}

PLAIN = models.Tiny(unet=models.FOUR_LEVELS)
V2 = models.Tiny(
    unet=models.UNET | {"use_linear_projection": True, "upcast_attention": True},
    scheduler=models.SCHEDULER | {"prediction_type": "v_prediction"},
)
XL = models.Tiny(unet=models.XL_UNET, second_text=models.SECOND_TEXT)
MODELS = {"plain": PLAIN, "v2": V2, "xl": XL}
SMALL = {
    "down_block_types": ("DownBlock2D",) * 3,
    "transformer_layers_per_block": (0, 0, 0),
}
NETS: dict[str, dict[str, Any]] = {
    "first": {},
    "second": {},
    "bgr": {"controlnet_conditioning_channel_order": "bgr"},
    "shuffle": {"global_pool_conditions": True},
    "small": SMALL,
    "mid": {"transformer_layers_per_block": (0, 0, 1)},
}
TWO = {"nets": ("first", "second"), "scales": (0.7, 0.4)}
WEIGHTS = tuple(np.linspace(0.1, 1.3, 13).tolist())


@dataclass(frozen=True)
class Case:
    """One run: ControlNets with their scales and windows, and perhaps adapters."""

    model: str = "plain"
    nets: tuple[str, ...] = ("first",)
    scales: tuple[Any, ...] = (0.8,)
    windows: tuple[tuple[float, float], ...] = ()
    guess: bool = False
    adapters: tuple[str, ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def bounds(self) -> tuple[tuple[float, float], ...]:
        return self.windows or ((0.0, 1.0),) * len(self.nets)


CASES = {
    "window, blue first": Case(nets=("bgr",), windows=((0.3, 0.7),)),
    "guess mode, no guidance": Case(guess=True, arguments={"guidance_scale": 1.0}),
    "weights by result, guess mode": Case(scales=(WEIGHTS,), guess=True),
    "two": Case(**TWO, windows=((0.0, 0.5), (0.25, 1.0))),
    "averaged": Case(nets=("shuffle",)),
    "two pictures, odd size": Case(
        adapters=("linear", "plus"), arguments={"num_images": 2, "width": 72, "height": 88}
    ),
    "2.x": Case(model="v2", adapters=("full",)),
    "xl, two": Case(
        model="xl",
        **TWO,
        adapters=("plus",),
        arguments={"negative_prompt": "a ring", "crops_coords_top_left": (8, 0)},
    ),
    "xl, guess mode": Case(model="xl", guess=True, adapters=("linear",)),
    "xl, smaller": Case(model="xl", nets=("mid", "small"), scales=(0.7, 0.9)),
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 4.0,
    "width": 64,
    "height": 48,
    "seed": 3,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each kind; its ControlNets lie beside it."""
    built = trajectories.build(MODELS, tmp_path_factory)
    used = {(case.model, net) for case in CASES.values() for net in case.nets}
    for model, net in used:
        unet, seed = MODELS[model].unet, 50 + list(NETS).index(net)
        controlled.write_controlnet(built[model] / net, unet, seed=seed, **NETS[net])
    return built


def pictures(case: Case) -> list[Image.Image]:
    """Of other sizes and aspects than the result's."""
    sizes = ((100, 70), (64, 48))
    return [
        Image.fromarray(controlled.edges(size, seed))
        for seed, (size, _) in enumerate(zip(sizes, case.nets, strict=False))
    ]


@pytest.fixture(scope="module")
def expected(
    folders: dict[str, Path], references: list[Image.Image]
) -> Callable[[str], np.ndarray]:
    def run(name: str) -> np.ndarray:
        case, folder = CASES[name], folders[CASES[name].model]
        adapters = [folder / f"{adapter}.safetensors" for adapter in case.adapters]
        pipe = controlled.controlled_pipeline(folder, [folder / n for n in case.nets], adapters)
        scales = list(case.scales)
        if isinstance(scales[0], tuple):
            controlled.weigh_results(pipe.controlnet, scales[0])
            scales = [1.0]
        starts, ends = zip(*case.bounds, strict=True)
        return run_diffusers(
            pipe,
            "a red star",
            images=_images(case, references),
            scale=[0.6] * len(adapters) if adapters else None,
            image=pictures(case) if len(case.nets) > 1 else pictures(case)[0],
            controlnet_conditioning_scale=scales if len(scales) > 1 else scales[0],
            control_guidance_start=list(starts),
            control_guidance_end=list(ends),
            guess_mode=case.guess,
            **(SHARED | case.arguments),
        )

    return trajectories.once(run)


def _images(case: Case, references: Sequence[Image.Image]) -> list[list[Image.Image]] | None:
    return [[references[i]] for i in range(len(case.adapters))] or None


@pytest.fixture(scope="module")
def pipelines(
    folders: dict[str, Path], open_pipeline: Callable[..., ipa.Pipeline]
) -> Callable[[str, str], ipa.Pipeline]:
    """One of a model and backend, for all cases: nothing stays of what was unloaded."""
    return cache(lambda model, backend: open_pipeline(folders[model], backend))


@pytest.mark.parametrize("name", CASES)
def test_trajectory(
    name: str,
    backend: str,
    folders: dict[str, Path],
    references: list[Image.Image],
    expected: Callable[[str], np.ndarray],
    pipelines: Callable[[str, str], ipa.Pipeline],
) -> None:
    case, folder = CASES[name], folders[CASES[name].model]
    pipe = pipelines(case.model, backend)
    pipe.unload_controlnet()
    pipe.unload_ip_adapter()
    for net in case.nets:
        pipe.load_controlnet(folder / net)
    for adapter in case.adapters:
        pipe.load_ip_adapter(folder / f"{adapter}.safetensors", scale=0.6)
    controls = [
        ipa.Control(picture, name=net, scale=scale, start=start, end=end, guess_mode=case.guess)
        for picture, net, scale, (start, end) in zip(
            pictures(case), case.nets, case.scales, case.bounds, strict=True
        )
    ]
    call = SHARED | case.arguments | {"output_type": "latent"}
    images = _images(case, references)
    found = pipe("a red star", ip_adapter_image=images, controls=controls, **call).latents
    assert relative(found, expected(name)) < LIMITS[backend]
