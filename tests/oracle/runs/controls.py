"""ControlNets: one and several, windows, guess mode, beside image prompts, of SDXL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import ipa
from oracle import controlled, models
from oracle.pipelines import run_diffusers
from oracle.runs.suite import Array, Suite, folder_of, parts
from oracle.workshop import XL, Workshop

PLAIN = models.Tiny(unet=models.FOUR_LEVELS)
V2 = models.Tiny(
    unet=models.UNET | {"use_linear_projection": True, "upcast_attention": True},
    scheduler=models.SCHEDULER | {"prediction_type": "v_prediction"},
)
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
    "guidance at the end": Case(**TWO, arguments={"guidance_start": 0.5}),
    "guidance in the middle, guess mode": Case(
        guess=True, adapters=("linear",), arguments={"guidance_start": 0.3, "guidance_end": 0.7}
    ),
    # Not SDXL's pipeline: it keeps the scale that it is given first.
    "2.x, guidance at the start": Case(
        model="v2", adapters=("plus",), arguments={"guidance_end": 0.4, "num_images": 2}
    ),
    "reuse": Case(**TWO, adapters=("linear",), arguments={"cache_interval": 2}),
    "reuse, guess mode": Case(
        guess=True, arguments={"cache_interval": 3, "cache_branch": 4, "num_images": 2}
    ),
    "reuse, averaged, blue first": Case(
        nets=("shuffle", "bgr"),
        scales=(0.7, 0.4),
        arguments={"cache_interval": 2, "cache_branch": 3},
    ),
    "reuse, weights by result": Case(
        scales=((0.0, *WEIGHTS[1:]),), arguments={"cache_interval": 2, "cache_branch": 1}
    ),
    "reuse, windows, no residual": Case(
        scales=((0.0, *WEIGHTS[1:]),),
        windows=((0.0, 0.7),),
        arguments={"cache_interval": 2, "num_inference_steps": 4},
    ),
    "reuse, xl": Case(
        model="xl",
        nets=("small", "mid"),
        scales=(0.7, 0.9),
        adapters=("plus",),
        arguments={"cache_interval": 2, "cache_branch": 4},
    ),
    "xl, smaller": Case(model="xl", nets=("mid", "small"), scales=(0.7, 0.9)),
}
MORE = {
    f"{count}, {kind}{mode}": Case(model=model, guess=bool(mode), **nets)
    for count, nets in {"one": {}, "two": TWO}.items()
    for kind, model in {"SD 1.x": "plain", "SD 2.x": "v2", "SDXL": "xl"}.items()
    for mode in ("", ", guess mode")
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 4.0,
    "width": 64,
    "height": 48,
    "seed": 3,
}


def folder(case: Case, workshop: Workshop) -> Path:
    """Of the case's model; its ControlNets lie beside it."""
    place = folder_of("ControlNet", MODELS, case.model, workshop)
    for net in case.nets:
        unet, seed = MODELS[case.model].unet, 50 + list(NETS).index(net)
        workshop.made(
            f"ControlNet/{case.model}/{net}",
            lambda path, unet=unet, seed=seed, net=net: controlled.write_controlnet(
                path, unet, seed=seed, **NETS[net]
            ),
        )
    return place


def files(case: Case, workshop: Workshop) -> list[Path]:
    return parts(folder(case, workshop), NETS, case.nets)


def pictures(case: Case) -> list[Image.Image]:
    """Of other sizes and aspects than the result's."""
    sizes = ((100, 70), (64, 48))
    return [
        Image.fromarray(controlled.edges(size, seed))
        for seed, (size, _) in enumerate(zip(sizes, case.nets, strict=False))
    ]


def _images(case: Case, references: Sequence[Image.Image]) -> list[list[Image.Image]] | None:
    return [[references[i]] for i in range(len(case.adapters))] or None


def theirs(case: Case, workshop: Workshop) -> Array:
    place = folder(case, workshop)
    adapters = [place / f"{adapter}.safetensors" for adapter in case.adapters]
    pipe = controlled.controlled_pipeline(place, [place / n for n in case.nets], adapters)
    scales = list(case.scales)
    if isinstance(scales[0], tuple):
        controlled.weigh_results(pipe.controlnet, scales[0])
        scales = [1.0]
    starts, ends = zip(*case.bounds, strict=True)
    return run_diffusers(
        pipe,
        "a red star",
        images=_images(case, workshop.references),
        scale=[0.6] * len(adapters) if adapters else None,
        image=pictures(case) if len(case.nets) > 1 else pictures(case)[0],
        controlnet_conditioning_scale=scales if len(scales) > 1 else scales[0],
        control_guidance_start=list(starts),
        control_guidance_end=list(ends),
        guess_mode=case.guess,
        **(SHARED | case.arguments),
    )


def ours(case: Case, workshop: Workshop, backend: str) -> Array:
    place = folder(case, workshop)
    pipe = workshop.pipeline(place, backend)
    for net in case.nets:
        pipe.load_controlnet(place / net)
    for adapter in case.adapters:
        pipe.load_ip_adapter(place / f"{adapter}.safetensors", scale=0.6)
    controls = [
        ipa.Control(picture, name=net, scale=scale, start=start, end=end, guess_mode=case.guess)
        for picture, net, scale, (start, end) in zip(
            pictures(case), case.nets, case.scales, case.bounds, strict=True
        )
    ]
    call = SHARED | case.arguments | {"output_type": "latent"}
    images = _images(case, workshop.references)
    return pipe("a red star", ip_adapter_image=images, controls=controls, **call).latents


# Measured over all cases: torch 1.8e-6, mlx 1.9e-6.
LIMITS = {"torch": 5e-6, "mlx": 1e-5}
SUITE = Suite("ControlNet", CASES, theirs, ours, files, MORE, LIMITS)
