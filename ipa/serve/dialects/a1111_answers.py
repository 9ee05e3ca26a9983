"""A1111's answers: pictures with their info, lists, options and progress."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ipa.engine.needs import Part
from ipa.request.result import Progress
from ipa.version import __version__

from ..offers import Offers
from .a1111 import SAMPLERS, SCHEDULERS, Settings
from .a1111_units import IP_ADAPTERS, MODULES

UNITS = 8
"""The units that ControlNet's settings name; more may be sent."""


def answer(
    images: Sequence[str],
    parameters: Mapping[str, Any],
    info: Mapping[str, Any],
    model: str,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The answer to txt2img and img2img.

    Args:
        images: Base64.
        parameters: The body, which is given back.
        info: `Result.info`.
        model: The offered model's name.
        warnings: Ours: what was asked for and is not so.
    """
    told = _info(info, model, len(images)) | {"warnings": list(warnings)}
    return {"images": list(images), "parameters": dict(parameters), "info": json.dumps(told)}


def _info(info: Mapping[str, Any], model: str, count: int) -> dict[str, Any]:
    request = info.get("request", {})
    seed = int(request.get("seed", 0))
    told = {
        "prompt": request.get("prompt") or "",
        "negative_prompt": request.get("negative_prompt") or "",
        "seed": seed,
        "width": request.get("width"),
        "height": request.get("height"),
        "sampler_name": request.get("scheduler") or "",
        "cfg_scale": request.get("guidance_scale"),
        "steps": request.get("num_inference_steps"),
        "clip_skip": (request.get("clip_skip") or 0) + 1,
    }
    seeds = [seed + number for number in range(count)]
    return {
        **told,
        "all_prompts": [told["prompt"]] * count,
        "all_negative_prompts": [told["negative_prompt"]] * count,
        "all_seeds": seeds,
        "all_subseeds": seeds,
        "subseed": seed,
        "subseed_strength": 0,
        "batch_size": count,
        "index_of_first_image": 0,
        "sd_model_name": model,
        "sd_model_hash": None,
        "denoising_strength": request.get("strength"),
        "infotexts": [infotext(told | {"seed": one}, model) for one in seeds],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S"),
        "version": f"ipa-mlx {__version__}",
    }


def infotext(told: Mapping[str, Any], model: str) -> str:
    """A1111's text of a picture: prompt, negative prompt, and a line of settings."""
    settings = {
        "Steps": told["steps"],
        "Sampler": told["sampler_name"],
        "CFG scale": told["cfg_scale"],
        "Seed": told["seed"],
        "Size": f"{told['width']}x{told['height']}",
        "Model": model,
        "Clip skip": told["clip_skip"] if told["clip_skip"] > 1 else None,
        "RNG": "CPU",
        "Version": f"ipa-mlx {__version__}",
    }
    lines = [str(told["prompt"])]
    lines += [f"Negative prompt: {told['negative_prompt']}"] if told["negative_prompt"] else []
    said = ", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None)
    return "\n".join([*lines, said])


def options(settings: Settings) -> dict[str, Any]:
    """The options that clients read, and may send back whole."""
    return {
        "sd_model_checkpoint": settings.model,
        "CLIP_stop_at_last_layers": settings.clip_stop,
        "sd_vae": "Automatic",
        "samples_format": "png",
    }


def models(offers: Offers) -> list[dict[str, Any]]:
    """The offered models; where they lie is nobody's business."""
    keys = ("title", "model_name", "filename")
    rest = {"hash": None, "sha256": None, "config": None}
    return [dict.fromkeys(keys, name) | rest for name in offers.models]


def samplers() -> list[dict[str, Any]]:
    """The samplers by A1111's names."""
    return [{"name": name, "aliases": [], "options": {}} for name in SAMPLERS]


def schedulers() -> list[dict[str, Any]]:
    """The kinds of noise levels by A1111's names."""
    rest = {"aliases": None, "default_rho": -1, "need_inner_model": False}
    return [{"name": name, "label": name.capitalize(), **rest} for name in SCHEDULERS]


def loras(offers: Offers) -> list[dict[str, Any]]:
    """The offered LoRAs."""
    return [
        {"name": name, "alias": name, "path": "", "metadata": {}} for name in offers.parts["loras"]
    ]


def embeddings(offers: Offers) -> dict[str, Any]:
    """The offered learned words."""
    return {"loaded": {name: {} for name in offers.parts["textual_inversions"]}, "skipped": {}}


def progress(event: Progress | None, preview: str | None, waiting: int) -> dict[str, Any]:
    """How the running job stands; with none, what idle clients wait for: job_count 0.

    Args:
        event: The job's last event, None if none runs.
        preview: Its last preview in base64.
        waiting: The jobs behind it.
    """
    steps = (event.step, event.total) if event and event.stage == "denoise" else (0, 0)
    state = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": "" if event is None else event.stage,
        "job_count": 0 if event is None else 1 + waiting,
        "job_timestamp": "0" if event is None else time.strftime("%Y%m%d%H%M%S"),
        "job_no": 0,
        "sampling_step": steps[0],
        "sampling_steps": steps[1],
    }
    return {
        "progress": steps[0] / steps[1] if steps[1] else 0.0,
        "eta_relative": (event.eta_s if event else None) or 0.0,
        "state": state,
        "current_image": preview,
        "textinfo": None,
    }


def control_models(offers: Offers) -> list[str]:
    """What units may name as their model."""
    kinds = ("adapters", "controlnets", "t2i_adapters")
    return [name for kind in kinds for name in offers.parts[kind]]


def control_modules() -> dict[str, Any]:
    """The modules that units may have."""
    detail = {name: {"model_free": False, "sliders": []} for name in MODULES}
    return {"module_list": list(MODULES), "module_detail": detail}


def control_types(offers: Offers) -> dict[str, Any]:
    """What goes together: modules and models by what they are for."""
    structure = ("controlnets", "t2i_adapters")
    rows: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
        "All": (MODULES, control_models(offers)),
        "IP-Adapter": (IP_ADAPTERS, list(offers.parts["adapters"])),
        "Canny": (("none", "canny", "edges"), _names([offers.parts[kind] for kind in structure])),
    }
    return {
        name: {
            "module_list": list(modules),
            "model_list": list(named),
            "default_option": modules[0],
            "default_model": next(iter(named), "None"),
        }
        for name, (modules, named) in rows.items()
    }


def _names(parts: Sequence[Mapping[str, Part]]) -> list[str]:
    return [name for one in parts for name in one]
