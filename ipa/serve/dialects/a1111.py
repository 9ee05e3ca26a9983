"""A1111's API: bodies of txt2img and img2img become ours.

As A1111 does, null is as if absent and unknown fields are passed over: its clients send all fields
of whatever version they know. What would make another picture is refused, not ignored.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ipa.errors import RequestError, shown
from ipa.prepare.samplers.names import nearest, own_name
from ipa.prepare.samplers.schedules import NAMES
from ipa.prepare.text.tags import lora_tags, without_tags
from ipa.request.masks import mask_values
from ipa.request.request import Request

from ..asked import Asked
from ..faults import Fault, fault_of
from ..fields import Field, names_of, read_fields, renamed
from ..limits import Limits
from ..offers import Offers
from ..pictures import Derived
from .a1111_units import read_unit, scripts

_LIMITS = Limits()

SAMPLERS: Mapping[str, str] = {
    "DPM++ 2M": "Karras",
    "DPM++ SDE": "Karras",
    "DPM++ 2M SDE": "Exponential",
    "Euler a": "",
    "Euler": "",
    "LMS": "",
    "Heun": "",
    "DPM2": "Karras",
    "DPM2 a": "Karras",
    "DDIM": "",
    "PLMS": "",
    "UniPC": "",
    "LCM": "",
    "DDPM": "",
}
"""A1111's samplers, with the noise levels that "Automatic" means (sd_samplers_kdiffusion.py)."""

SCHEDULERS: Mapping[str, str | None] = {
    "automatic": None,
    "uniform": "",
    "normal": "",
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
}
"""A1111's kinds of noise levels as a sampler's name ends with them; None is the sampler's own."""

TXT2IMG: Mapping[str, Field] = {
    "prompt": Field(kind="text", ours="prompt", longest=_LIMITS.prompt),
    "negative_prompt": Field(kind="text", ours="negative_prompt", longest=_LIMITS.prompt),
    "seed": Field(kind="whole", about="-1 draws one.", low=-1, high=2**64 - 1),
    "steps": Field(kind="whole", ours="num_inference_steps", low=1, high=1000),
    "cfg_scale": Field(kind="number", ours="guidance_scale"),
    "width": Field(kind="whole", ours="width", low=1, high=8192),
    "height": Field(kind="whole", ours="height", low=1, high=8192),
    "batch_size": Field(kind="whole", low=1, high=64),
    "n_iter": Field(kind="whole", low=1, high=64),
    "sampler_name": Field(kind="text", longest=80),
    "sampler_index": Field(kind="text", longest=80),
    "scheduler": Field(kind="text", longest=80),
    "enable_hr": Field(kind="flag", about="Refused."),
    "restore_faces": Field(kind="flag", about="Refused."),
    "tiling": Field(kind="flag", about="Refused."),
    "denoising_strength": Field(kind="number", low=0, high=1),
    "override_settings": Field(kind="object"),
    "alwayson_scripts": Field(
        kind="object", about="ControlNet units, whose module may be an IP-Adapter."
    ),
    "script_name": Field(kind="text", about="Refused.", longest=200),
    "clip_skip": Field(kind="whole", low=0, high=1000),
    "eta": Field(kind="number", about="Of DDIM; the ancestral ones have 1.", low=0, high=1),
    "styles": Field(kind="list", about="Without effect."),
    "subseed_strength": Field(kind="number", about="Refused above 0."),
}
"""The fields of txt2img; others are passed over."""

IMG2IMG: Mapping[str, Field] = {
    **TXT2IMG,
    "init_images": Field(kind="list", about="Base64.", longest=16),
    "mask": Field(kind="text", about="Base64; white is made anew."),
    "mask_blur": Field(kind="number", low=0, high=1024),
    "inpainting_fill": Field(kind="whole", about="As 1, original, whatever it says."),
    "inpaint_full_res": Field(kind="any"),
    "inpaint_full_res_padding": Field(kind="whole", low=0, high=8192),
    "inpainting_mask_invert": Field(kind="any"),
    "resize_mode": Field(kind="whole", about="0 alone, just resize."),
}
"""The fields of img2img."""

OPTIONS: Mapping[str, Field] = {
    "sd_model_checkpoint": Field(kind="text", about="An offered model.", longest=400),
    "CLIP_stop_at_last_layers": Field(kind="whole", low=1, high=1000),
}
"""The options that are kept; others are passed over."""

_NAMES = {
    "num_images": "batch_size",
    "scheduler": "sampler_name",
    "image_prompts": "alwayson_scripts",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A1111's options, as far as they are kept: those that clients set and read back.

    Attributes:
        model: The offered model that requests mean which name none.
        clip_stop: CLIP_stop_at_last_layers, counted from 1.
    """

    model: str
    clip_stop: int = 1


def read_txt2img(body: Mapping[str, Any], settings: Settings, offers: Offers) -> Asked:
    """A body of txt2img as what is asked for. Raises Fault."""
    return _asked(read_fields(body, TXT2IMG), {}, [], settings, offers)


def read_img2img(body: Mapping[str, Any], settings: Settings, offers: Offers) -> Asked:
    """A body of img2img as what is asked for. Raises Fault."""
    given = read_fields(body, IMG2IMG)
    pictures = given.get("init_images", [])
    if not pictures:
        raise Fault(422, "init_images is needed", field="init_images", remedy="one in base64")
    if not all(isinstance(one, str) for one in pictures):
        raise Fault(422, "init_images are texts in base64", field="init_images")
    start = {
        "image": pictures if len(pictures) > 1 else pictures[0],
        "strength": given.get("denoising_strength", 0.75),
    }
    warnings = []
    if given.get("resize_mode", 0) != 0:
        warnings.append("resize_mode is 0 here, just resize")
    if given.get("mask"):
        start |= _mask(given)
        if given.get("inpainting_fill", 1) != 1:
            warnings.append("inpainting_fill is 1 here, original")
    return _asked(given, start, warnings, settings, offers)


def _mask(given: Mapping[str, Any]) -> dict[str, Any]:
    mask: Any = given["mask"]
    if given.get("inpainting_mask_invert"):
        mask = Derived(mask, _inverted)
    made = {"mask_image": mask, "overlay": True, "mask_blur": float(given.get("mask_blur", 4))}
    if given.get("inpaint_full_res"):
        made["padding_mask_crop"] = given.get("inpaint_full_res_padding", 0)
    return made


def _inverted(mask: Image.Image) -> Image.Image:
    white = 1.0 - mask_values(mask, "mask")
    return Image.fromarray(np.round(white * 255).astype(np.uint8))


def _asked(
    given: Mapping[str, Any],
    start: Mapping[str, Any],
    warnings: list[str],
    settings: Settings,
    offers: Offers,
) -> Asked:
    _refuse(given)
    override = given.get("override_settings", {})
    request = renamed(given, TXT2IMG) | dict(start)
    request |= {"prompt_syntax": "a1111", "long_prompts": "chunks", "seed": _seed(given)}
    count = given.get("batch_size", 1) * given.get("n_iter", 1)
    images = start.get("image")
    request["num_images"] = len(images) if isinstance(images, list) and count == 1 else count
    sampler, told = _sampler(given)
    request |= sampler
    skip = _clip_skip(given, override, settings)
    if skip:
        request["clip_skip"] = skip
        told.append("clip_skip is of the prompt alone here; the negative one is read whole")
    loras = _without_loras(request)
    for unit in scripts(given.get("alwayson_scripts", {})):
        name, entry, notes = read_unit(unit, offers)
        request.setdefault(name, []).append(entry)
        told += notes
    if given.get("styles"):
        told.append("styles have no effect here")
    return Asked(
        request=request,
        model=_model(override) or settings.model,
        parts={"loras": loras},
        warnings=(*warnings, *told),
        names=names_of(TXT2IMG) | _NAMES,
    )


def _refuse(given: Mapping[str, Any]) -> None:
    """Raise Fault for what would make another picture and is not done here."""
    for name in ("enable_hr", "restore_faces", "tiling", "script_name"):
        if given.get(name):
            raise Fault(
                422,
                f"{name} is not done here",
                field=name,
                found=shown(given[name]),
                remedy=f"leave {name} out",
            )
    if given.get("subseed_strength", 0) > 0:
        raise Fault(422, "variations of a seed are not done here", field="subseed_strength")


def _model(override: Mapping[str, Any]) -> str | None:
    name = override.get("sd_model_checkpoint")
    if name is not None and not isinstance(name, str):
        raise Fault(
            422, "sd_model_checkpoint is a name", field="override_settings", found=shown(name)
        )
    return name


def _seed(given: Mapping[str, Any]) -> int:
    seed = given.get("seed", -1)
    return int(seed) if seed >= 0 else secrets.randbelow(2**32)


def _clip_skip(given: Mapping[str, Any], override: Mapping[str, Any], settings: Settings) -> int:
    """Ours, one less than A1111's, where 0 is as 1."""
    stop = override.get("CLIP_stop_at_last_layers", given.get("clip_skip", settings.clip_stop))
    if isinstance(stop, bool) or not isinstance(stop, int) or not 0 <= stop <= 1000:
        raise Fault(
            422, "CLIP_stop_at_last_layers is a whole number from 0", field="override_settings"
        )
    return max(stop - 1, 0)


def _sampler(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The scheduler of a call, if one is asked for, with its eta; and warnings."""
    asked = given.get("sampler_name") or given.get("sampler_index")
    kind = given.get("scheduler", "Automatic") or "Automatic"
    plain = kind.strip().lower()
    if plain not in SCHEDULERS:
        raise Fault(
            422,
            "this scheduler is not known here",
            field="scheduler",
            found=shown(kind),
            remedy=f"one of {', '.join(one.capitalize() for one in SCHEDULERS)}",
        )
    warnings = ["scheduler Normal is Uniform here"] if plain == "normal" else []
    if not asked:
        return {}, warnings
    levels = SCHEDULERS[plain]
    own = {name.lower(): usual for name, usual in SAMPLERS.items()}.get(asked.lower(), "")
    ending = own if levels is None else levels
    name = own_name(f"{asked} {ending}".strip(), NAMES)
    if name not in NAMES:
        near = ", ".join(nearest(asked, NAMES))
        raise Fault(
            422,
            "this sampler is not here",
            field="sampler_name",
            found=shown(f"{asked} {ending}".strip()),
            remedy=f"nearest: {near}; of A1111's there are {', '.join(SAMPLERS)}",
        )
    eta = given.get("eta", 0.0)
    if name == "ddim" and eta:
        return {"scheduler": name, "eta": float(eta)}, warnings
    if "ancestral" in name and given.get("eta", 1.0) != 1.0:
        warnings.append("eta is 1 here for ancestral samplers")
    return {"scheduler": name}, warnings


def _without_loras(request: dict[str, Any]) -> dict[str, float]:
    """Take the LoRAs that a prompt names out of it; their scales by name."""
    try:
        text = request.get("prompt", "")
        tags = lora_tags(Request(prompt=text, prompt_syntax="a1111"))
    except RequestError as error:
        raise fault_of(error, {"prompt": "prompt"}) from error
    if tags:
        request["prompt"] = without_tags(text)
    for tag in tags:
        if tag.scale.unet != tag.scale.text:
            raise Fault(
                422,
                "a LoRA has one weight here",
                field="prompt",
                found=tag.text[:80],
                remedy=f"write <lora:{tag.name}:{tag.scale.unet:g}>",
            )
    return {tag.name: tag.scale.unet for tag in tags}
