"""T2I-Adapters, alone and with image prompts and a ControlNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.t2i_adapter.pipeline_stable_diffusion_adapter import (
    _preprocess_adapter_image,
)
from PIL import Image

import ipa
from oracle import controlled, models, t2i_adapters
from oracle.pipelines import run_diffusers
from oracle.reuse import reused
from oracle.runs.suite import Array, Suite, folder_of, parts
from oracle.workshop import Workshop

MODELS = {
    "plain": models.Tiny(unet=t2i_adapters.UNET),
    "xl": models.Tiny(unet=models.XL_UNET, second_text=models.SECOND_TEXT),
}
NETS: dict[str, dict[str, Any]] = {
    "edges": t2i_adapters.FULL,
    "grey": t2i_adapters.FULL | {"in_channels": 1, "num_res_blocks": 1},
    "light": t2i_adapters.LIGHT,
    "fewer": {"channels": (16, 32)},
    "xl": t2i_adapters.XL,
    "xl grey": t2i_adapters.XL | {"in_channels": 1, "num_res_blocks": 2},
}


@dataclass(frozen=True)
class Case:
    """One run: T2I-Adapters with their scales, and perhaps image adapters.

    `end` is of all of them; `direct`: diffusers has a pipeline for it.
    """

    model: str = "plain"
    nets: tuple[str, ...] = ("edges",)
    scales: tuple[float, ...] = (0.8,)
    end: float = 1.0
    adapters: tuple[str, ...] = ()
    controlnet: bool = False
    direct: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)


CASES = {
    "one": Case(arguments={"num_images": 2, "width": 72, "height": 88}),
    "two, one grey": Case(nets=("edges", "grey"), scales=(0.7, 0.4)),
    "light": Case(nets=("light",), arguments={"guidance_scale": 1.0}),
    "fewer features than blocks": Case(nets=("fewer", "fewer"), scales=(0.4, 0.5)),
    "image prompts, a ControlNet, window": Case(
        nets=("grey",), end=0.5, adapters=("linear", "plus"), controlnet=True, direct=False
    ),
    "reuse": Case(
        arguments={"cache_interval": 2, "cache_branch": 2, "num_inference_steps": 4},
    ),
    "reuse, image prompts, a ControlNet, window": Case(
        nets=("grey",),
        end=0.5,
        adapters=("linear", "plus"),
        controlnet=True,
        direct=False,
        arguments={"cache_interval": 2, "cache_branch": 5, "num_inference_steps": 4},
    ),
    "reuse, xl": Case(
        model="xl",
        nets=("xl",),
        arguments={"cache_interval": 2, "cache_branch": 6, "num_inference_steps": 4},
    ),
    "xl, window": Case(model="xl", nets=("xl",), end=0.5, arguments={"num_inference_steps": 4}),
    "xl, two, image prompt": Case(
        model="xl",
        nets=("xl", "xl grey"),
        scales=(0.6, 0.5),
        adapters=("plus",),
        arguments={"negative_prompt": "a ring", "num_images": 2},
    ),
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 4.0,
    "width": 64,
    "height": 48,
    "seed": 3,
}
SIZE = (100, 70)  # of the pictures: another than the results'


def folder(case: Case, workshop: Workshop) -> Path:
    """Of the case's model; its T2I-Adapters lie beside it."""
    place = folder_of("T2I-Adapter", MODELS, case.model, workshop)
    for net in case.nets:
        seed = 70 + list(NETS).index(net)
        workshop.made(
            f"T2I-Adapter/{case.model}/{net}",
            lambda path, seed=seed, net=net: t2i_adapters.write_t2i_adapter(
                path, seed, **NETS[net]
            ),
        )
    if case.controlnet:
        workshop.made(
            f"T2I-Adapter/{case.model}/controlnet",
            lambda path: controlled.write_controlnet(path, t2i_adapters.UNET, seed=60),
        )
    return place


def files(case: Case, workshop: Workshop) -> list[Path]:
    own = [*case.nets, *(["controlnet"] if case.controlnet else [])]
    return parts(folder(case, workshop), {*NETS, "controlnet"}, own)


def pictures(case: Case) -> list[Image.Image]:
    """Grey where the adapter is: diffusers converts nothing."""
    found = [Image.fromarray(controlled.edges(SIZE, n)) for n, _ in enumerate(case.nets)]
    modes = ["L" if NETS[net].get("in_channels") == 1 else "RGB" for net in case.nets]
    return [picture.convert(mode) for picture, mode in zip(found, modes, strict=True)]


def theirs(case: Case, workshop: Workshop) -> Array:
    place, references = folder(case, workshop), workshop.references
    if not case.direct:
        return _injected(case, place, references)
    call = SHARED | case.arguments
    adapters = [place / f"{adapter}.safetensors" for adapter in case.adapters]
    pipe = t2i_adapters.adapted_pipeline(place, [place / net for net in case.nets], adapters)
    several = len(case.nets) > 1
    own: dict[str, Any] = {"image": pictures(case) if several else pictures(case)[0]}
    own["adapter_conditioning_scale"] = list(case.scales) if several else case.scales[0]
    if case.model == "xl":
        own["adapter_conditioning_factor"] = case.end
        own["ip_adapter_image"] = _images(case, references)
    if case.adapters:
        pipe.set_ip_adapter_scale([0.6] * len(adapters))
    count, seed = call.pop("num_images", 1), call.pop("seed")
    with reused(pipe, call.pop("cache_interval", 1), call.pop("cache_branch", 0)):
        latents = pipe(
            "a red star",
            generator=[torch.Generator("cpu").manual_seed(seed + n) for n in range(count)],
            num_images_per_prompt=count,
            output_type="latent",
            **call,
            **own,
        ).images
    return latents.numpy()


def _injected(case: Case, place: Path, references: Sequence[Image.Image]) -> Array:
    """diffusers' ControlNet pipeline and UNet, with what its T2I-Adapter gives."""
    files = [place / f"{adapter}.safetensors" for adapter in case.adapters]
    pipe = controlled.controlled_pipeline(place, [place / "controlnet"], files)
    (net,) = t2i_adapters.read([place / name for name in case.nets])
    call = SHARED | case.arguments
    pixels = _preprocess_adapter_image(pictures(case)[0], call["height"], call["width"])
    with torch.inference_mode():
        features = net(pixels)
    steps = range(int(call["num_inference_steps"] * case.end))
    t2i_adapters.inject(pipe, features, dict.fromkeys(steps, case.scales[0]))
    return run_diffusers(
        pipe,
        "a red star",
        images=_images(case, references),
        scale=[0.6] * len(files),
        image=Image.fromarray(controlled.edges(SIZE, 9)),
        controlnet_conditioning_scale=0.5,
        **call,
    )


def _images(case: Case, references: Sequence[Image.Image]) -> list[list[Image.Image]] | None:
    return [[references[i]] for i in range(len(case.adapters))] or None


def ours(case: Case, workshop: Workshop, backend: str) -> Array:
    place = folder(case, workshop)
    pipe = workshop.pipeline(place, backend)
    for adapter in case.adapters:
        pipe.load_ip_adapter(place / f"{adapter}.safetensors", scale=0.6)
    controls = [
        ipa.Control(
            picture,
            name=pipe.load_t2i_adapter(place / net, name=f"{net} {number}"),
            scale=scale,
            end=case.end,
        )
        for number, (picture, net, scale) in enumerate(
            zip(pictures(case), case.nets, case.scales, strict=True)
        )
    ]
    if case.controlnet:
        edges = Image.fromarray(controlled.edges(SIZE, 9))
        name = pipe.load_controlnet(place / "controlnet")
        controls.append(ipa.Control(edges, name=name, scale=0.5))
    call = SHARED | case.arguments | {"output_type": "latent"}
    images = _images(case, workshop.references)
    return pipe("a red star", ip_adapter_image=images, controls=controls, **call).latents


# Measured over all cases: torch 1.2e-6, mlx 1.6e-6.
LIMITS = {"torch": 5e-6, "mlx": 1e-5}
SUITE = Suite("T2I-Adapter", CASES, theirs, ours, files, limits=LIMITS)
