"""A ControlNet in runs that start from a picture, also with a mask, beside an image prompt.

Also of a part of the picture alone, and told where there is to be painted, as ControlNets for
inpainting are: -1 there, in a tensor as diffusers' documentation makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

import ipa
from ipa_torch.files.weights import quiet
from oracle import controlled
from oracle.pipelines import run_diffusers
from oracle.runs import controls
from oracle.runs.editing import mask_of, picture
from oracle.runs.suite import Array, Suite
from oracle.workshop import Workshop

SIZE = (64, 48)
WHOLE = (88, 72)  # of which a part is worked on
HOLED = {"size": (64, 48), "other size": (50, 41)}
SHARED: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 4.0, "seed": 3}


@dataclass(frozen=True)
class Case:
    """A model with ControlNets; `masked` is inpainting.

    `crop` is padding_mask_crop. `holes` says how -1 is told: "mask" beside the picture; or an
    array of a size of HOLED.
    """

    of: controls.Case
    masked: bool
    strength: float = 0.7
    scheduler: str = "euler"
    crop: int | None = None
    holes: str = ""

    @property
    def whole(self) -> tuple[int, int]:
        """The size of the picture to start from."""
        return SIZE if self.crop is None else WHOLE

    @property
    def seen(self) -> list[Image.Image]:
        """Control pictures; of a cropped run, and with holes, of the picture's own size."""
        given = controls.pictures(self.of)
        if self.crop is None and not self.holes:
            return given
        return [image.resize(self.whole, Image.Resampling.NEAREST) for image in given]

    def by_hand(self, image: Image.Image) -> Image.Image:
        """What lies over the picture to start from, cropped as diffusers crops that."""
        processor, mask = VaeImageProcessor(), mask_of(self.whole)
        if self.crop is None:
            return image
        box = processor.get_crop_region(mask, *SIZE, pad=self.crop)
        return processor.resize(image.crop(box), SIZE[1], SIZE[0], resize_mode="fill")

    def tensor(self) -> torch.Tensor:
        """The control picture with -1 where the mask is white, by diffusers' own processors."""
        size = HOLED.get(self.holes, SIZE)
        place: dict[str, Any] = {"width": size[0], "height": size[1]}
        pixels = VaeImageProcessor(do_normalize=False, do_convert_rgb=True)
        masks = VaeImageProcessor(do_normalize=False, do_binarize=True, do_convert_grayscale=True)
        made = pixels.preprocess(self.by_hand(self.seen[0]), **place)
        holes = masks.preprocess(self.by_hand(mask_of(self.whole)), **place) > 0.5
        return torch.where(holes, -1.0, made)

    @property
    def call(self) -> dict[str, Any]:
        """What both sides are told in the same words."""
        mask = {"mask_image": mask_of(self.whole)} if self.masked else {}
        own = {"image": picture(self.whole), "strength": self.strength, "scheduler": self.scheduler}
        crop = {} if self.crop is None else {"padding_mask_crop": self.crop}
        return SHARED | own | mask | crop


CASES = {
    f"{kind}, {count}, {mode}": Case(controls.Case(model, **nets), is_masked)
    for kind, model in {"SD": "plain", "SDXL": "xl"}.items()
    for count, nets in {"one": {}, "two": controls.TWO}.items()
    for mode, is_masked in {"img2img": False, "inpainting": True}.items()
}

CROPPED: dict[str, Any] = {"masked": True, "crop": 6}
PARTS = {
    "SD, cropped": Case(controls.Case(), **CROPPED),
    "SDXL, cropped": Case(controls.Case("xl"), **CROPPED, strength=1.0),
    "SD, -1 by a mask": Case(controls.Case(), masked=True, holes="mask"),
    "SDXL, -1 by a mask": Case(controls.Case("xl"), masked=True, holes="mask", strength=1.0),
    "SD, -1 in an array": Case(controls.Case(), masked=True, holes="size"),
    "SD, -1 in an array of another size": Case(controls.Case(), masked=True, holes="other size"),
    "SD, -1 in img2img": Case(controls.Case(), masked=False, holes="mask"),
    "SD, -1 by a mask, cropped": Case(controls.Case(), **CROPPED, holes="mask"),
}
"""What lies over the picture is cropped with it; -1 where there is to be painted."""


def _adapter(case: Case, workshop: Workshop) -> Path:
    return controls.folder(case.of, workshop) / "linear.safetensors"


def files(case: Case, workshop: Workshop) -> list[Path]:
    return controls.files(case.of, workshop)


def theirs(case: Case, workshop: Workshop) -> Array:
    place, nets = controls.folder(case.of, workshop), case.of.nets
    stock = controlled.controlled_pipeline(
        place, [place / net for net in nets], [_adapter(case, workshop)]
    )
    xl, kind = "XL" * (case.of.model == "xl"), "Inpaint" if case.masked else "Img2Img"
    with quiet():
        pipe = getattr(diffusers, f"StableDiffusion{xl}ControlNet{kind}Pipeline").from_pipe(stock)
    pipe.set_progress_bar_config(disable=True)
    seen: list[Any] = [case.tensor()] if case.holes else case.seen
    scales, last = list(case.of.scales), list[torch.Tensor]()
    size = {"width": SIZE[0], "height": SIZE[1]}

    def keep(_: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        last.append(tensors["latents"])
        return tensors

    run_diffusers(
        pipe,
        "a red star",
        images=[[workshop.references[0]]],
        scale=0.6,
        control_image=seen if len(nets) > 1 else seen[0],
        controlnet_conditioning_scale=scales if len(nets) > 1 else scales[0],
        output_type="latent" if case.crop is None or case.holes else "pil",
        callback_on_step_end=keep,
        **(_call(case) | size),
    )
    return last[-1].numpy()


def _call(case: Case) -> dict[str, Any]:
    """What diffusers is told: it crops no tensors, so that all is cropped by hand beside one."""
    if case.crop is None or not case.holes:
        return case.call
    shown = {name: case.by_hand(case.call[name]) for name in ("image", "mask_image")}
    return {n: value for n, value in case.call.items() if n != "padding_mask_crop"} | shown


def _controls(case: Case) -> list[ipa.Control]:
    pairs = zip(case.seen, case.of.nets, case.of.scales, strict=True)
    if not case.holes:
        return [ipa.Control(image, name=net, scale=scale) for image, net, scale in pairs]
    ((image, net, scale),) = pairs
    if case.holes == "mask":
        return [ipa.Control(image, name=net, scale=scale, mask=mask_of(case.whole))]
    array = case.tensor()[0].permute(1, 2, 0).numpy()
    return [ipa.Control(array, name=net, scale=scale)]


def ours(case: Case, workshop: Workshop, backend: str) -> Array:
    place, nets = controls.folder(case.of, workshop), case.of.nets
    pipe = workshop.pipeline(place, backend, "linear")
    for net in nets:
        pipe.load_controlnet(place / net)
    told = _controls(case)
    size = {} if case.crop is None else {"width": SIZE[0], "height": SIZE[1]}
    prompt = ipa.ImagePrompt(workshop.references[0], scale=0.6)
    return pipe(
        "a red star", image_prompts=prompt, controls=told, output_type="latent", **case.call, **size
    ).latents


# Measured over all cases: torch 2.2e-6, mlx 2.3e-6.
LIMITS = {"torch": 5e-6, "mlx": 5e-6}
SUITE = Suite("ControlNet with img2img and inpainting", PARTS, theirs, ours, files, CASES, LIMITS)
