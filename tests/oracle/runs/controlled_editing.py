"""A ControlNet in runs that start from a picture, also with a mask, beside an image prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers

import ipa
from ipa_torch.loading import quiet
from oracle import controlled
from oracle.pipelines import run_diffusers
from oracle.runs import controls
from oracle.runs.editing import mask_of, picture
from oracle.runs.suite import Array, Suite
from oracle.workshop import Workshop

SIZE = (64, 48)
SHARED: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 4.0, "seed": 3}


@dataclass(frozen=True)
class Case:
    """A model with ControlNets; `masked` is inpainting."""

    of: controls.Case
    masked: bool
    strength: float = 0.7
    scheduler: str = "euler"

    @property
    def call(self) -> dict[str, Any]:
        """What both sides are told in the same words."""
        mask = {"mask_image": mask_of(SIZE)} if self.masked else {}
        own = {"image": picture(SIZE), "strength": self.strength, "scheduler": self.scheduler}
        return SHARED | own | mask


CASES = {
    f"{kind}, {count}, {mode}": Case(controls.Case(model, **nets), is_masked)
    for kind, model in {"SD": "plain", "SDXL": "xl"}.items()
    for count, nets in {"one": {}, "two": controls.TWO}.items()
    for mode, is_masked in {"img2img": False, "inpainting": True}.items()
}


def _adapter(case: Case, workshop: Workshop) -> Path:
    return controls.folder(case.of, workshop) / "linear.safetensors"


def theirs(case: Case, workshop: Workshop) -> Array:
    place, nets = controls.folder(case.of, workshop), case.of.nets
    stock = controlled.controlled_pipeline(
        place, [place / net for net in nets], [_adapter(case, workshop)]
    )
    xl, kind = "XL" * (case.of.model == "xl"), "Inpaint" if case.masked else "Img2Img"
    with quiet():
        pipe = getattr(diffusers, f"StableDiffusion{xl}ControlNet{kind}Pipeline").from_pipe(stock)
    pipe.set_progress_bar_config(disable=True)
    seen, scales = controls.pictures(case.of), list(case.of.scales)
    size = {"width": SIZE[0], "height": SIZE[1]}
    return run_diffusers(
        pipe,
        "a red star",
        images=[[workshop.references[0]]],
        scale=0.6,
        control_image=seen if len(nets) > 1 else seen[0],
        controlnet_conditioning_scale=scales if len(nets) > 1 else scales[0],
        **(case.call | size),
    )


def ours(case: Case, workshop: Workshop, backend: str) -> Array:
    place, nets = controls.folder(case.of, workshop), case.of.nets
    pipe = workshop.pipeline(place, backend, "linear")
    for net in nets:
        pipe.load_controlnet(place / net)
    told = [
        ipa.Control(image, name=net, scale=scale)
        for image, net, scale in zip(controls.pictures(case.of), nets, case.of.scales, strict=True)
    ]
    prompt = ipa.ImagePrompt(workshop.references[0], scale=0.6)
    return pipe(
        "a red star", image_prompts=prompt, controls=told, output_type="latent", **case.call
    ).latents


SUITE = Suite("ControlNet with img2img and inpainting", CASES, theirs, ours)
