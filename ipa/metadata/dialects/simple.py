"""Programs whose pictures hold one flat object: InvokeAI, SwarmUI, Fooocus, Draw Things."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from .foreign import Foreign, Reading, as_object, objects


def read_invokeai(given: Mapping[str, Any]) -> Foreign:
    """InvokeAI's `invokeai_metadata`. Its pictures are names in its own store."""
    reading = Reading("InvokeAI", dict(given))
    reading.text("prompt", "positive_prompt")
    reading.text("negative_prompt", "negative_prompt")
    for name in ("width", "height", "seed"):
        reading.integer(name, name)
    reading.integer("num_inference_steps", "steps")
    reading.number("guidance_scale", "cfg_scale")
    reading.number("guidance_rescale", "cfg_rescale_multiplier")
    reading.integer("clip_skip", "clip_skip")
    scheduler = str(reading.pop("scheduler") or "")
    reading.sampler(re.sub(r"_k$", "_karras", scheduler).replace("kdpm_2", "kdpm2"))
    if reading.pop("rand_device") not in (None, "cpu"):
        reading.lost.append("the noise: a graphics card drew it (rand_device is not cpu)")
    model = _object(reading.pop("model"))
    reading.named("model", model.get("name"), model.get("hash", ""))
    reading.named("VAE", _object(reading.pop("vae")).get("name"))
    for lora in objects(reading.pop("loras")):
        known = _object(lora.get("model") or lora.get("lora"))
        name_of_lora = known.get("name") or known.get("model_name")
        reading.named("LoRA", name_of_lora, known.get("hash", ""), lora.get("weight"))
    _invokeai_pictures(reading)
    return reading.done(("app_version", "generation_mode", "ref_images", "_canvas_objects"))


def _invokeai_pictures(reading: Reading) -> None:
    for one in objects(reading.pop("ipAdapters")):
        adapter, method = _object(one.get("ip_adapter_model")), one.get("method", "full")
        name = adapter.get("name") or adapter.get("model_name")
        reading.named("adapter", name, adapter.get("hash", ""), one.get("weight"))
        image = _object(one.get("image")).get("image_name")
        window = f"{one.get('begin_step_percent', 0)} to {one.get('end_step_percent', 1)}"
        reading.lost.append(f"an image prompt of picture {image!s:.80}, {method!s:.40}, {window}")
    for key, role in (("controlnets", "control"), ("t2iAdapters", "control")):
        for one in objects(reading.pop(key)):
            model = _object(one.get("control_model") or one.get("t2i_adapter_model"))
            name = model.get("name") or model.get("model_name")
            reading.named(role, name, model.get("hash", ""), one.get("control_weight"))
            image = _object(one.get("image")).get("image_name")
            reading.lost.append(f"a control of picture {image!s:.80}")
    start, strength = reading.pop("init_image"), reading.pop("strength")
    if start is not None:
        reading.put("strength", strength, strength)
        reading.lost.append(f"the start picture {start!s:.80}")


def read_swarmui(given: Mapping[str, Any]) -> Foreign:
    """SwarmUI's `sui_image_params`: samplers by ComfyUI's names."""
    reading = Reading("SwarmUI", dict(_object(given.get("sui_image_params"))))
    reading.arguments |= {"long_prompts": "chunks", "prompt_syntax": "comfyui"}
    reading.text("prompt", "prompt")
    reading.text("negative_prompt", "negativeprompt")
    for name in ("width", "height", "seed"):
        reading.integer(name, name)
    reading.integer("num_inference_steps", "steps")
    reading.number("guidance_scale", "cfgscale")
    reading.sampler(*comfyui_sampler(reading.pop("sampler"), reading.pop("scheduler")))
    reading.named("model", reading.pop("model"))
    loras, scales = reading.pop("loras"), reading.pop("loraweights")
    if isinstance(loras, list):
        each = (
            scales if isinstance(scales, list) and len(scales) == len(loras) else [1] * len(loras)
        )
        for name, scale in zip(loras, each, strict=True):
            reading.named("LoRA", name, "", scale)
    return reading.done(("swarm_version", "date", "generation_time", "images", "aspectratio"))


def read_fooocus(given: Mapping[str, Any]) -> Foreign:
    """Fooocus' object, under `parameters` or `Comment`."""
    reading = Reading("Fooocus", {k.lower().replace(" ", "_"): v for k, v in given.items()})
    reading.arguments |= {"long_prompts": "chunks"}
    reading.text("prompt", "prompt")
    reading.text("negative_prompt", "negative_prompt")
    reading.integer("num_inference_steps", "steps")
    reading.number("guidance_scale", "guidance_scale")
    reading.integer("seed", "seed")
    _pair(reading, reading.pop("resolution"))
    sampler = re.sub(r"_gpu$", "", str(reading.pop("sampler") or ""))
    reading.sampler(*comfyui_sampler(sampler, reading.pop("scheduler")))
    reading.named("model", reading.pop("base_model"), reading.pop("base_model_hash") or "")
    loras = reading.pop("loras")
    for one in loras if isinstance(loras, list) else ():
        if isinstance(one, list) and len(one) >= 2:
            reading.named("LoRA", one[0], one[2] if len(one) > 2 else "", one[1])
    return reading.done(("version", "metadata_scheme", "full_prompt", "full_negative_prompt"))


def _pair(reading: Reading, value: Any) -> None:
    """A size such as "(1152, 896)"."""
    try:
        width, height = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        if value is not None:
            reading.lost.append(f"resolution {value!s:.40}")
        return
    reading.put("width", width, value)
    reading.put("height", height, value)


def read_drawthings(given: Mapping[str, Any]) -> Foreign:
    """Draw Things' object in EXIF's UserComment: `c`, `uc`, `steps`, …"""
    reading = Reading("Draw Things", dict(given))
    reading.text("prompt", "c")
    reading.text("negative_prompt", "uc")
    reading.integer("num_inference_steps", "steps")
    reading.number("guidance_scale", "scale")
    reading.integer("seed", "seed")
    reading.size("size")
    reading.sampler(reading.pop("sampler"))
    reading.named("model", reading.pop("model"))
    strength = reading.pop("strength")
    if strength not in (None, 1, 1.0):
        reading.put("strength", strength, strength)
        reading.lost.append("the picture that it began as, which is not in the file")
    for lora in objects(reading.pop("lora")):
        reading.named("LoRA", lora.get("model") or lora.get("file"), "", lora.get("weight"))
    return reading.done(("v2",))


_COMFYUI = {
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "uni_pc": "unipc",
    "uni_pc_bh2": "unipc",
    "euler_cfg_pp": None,
}
_NORMAL = ("normal",)


def comfyui_sampler(name: Any, levels: Any) -> tuple[str | None, str | None]:
    """ComfyUI's name of a sampler and of its noise levels, in words that ours are known by."""
    own = _COMFYUI.get(str(name), str(name)) if name else None
    return own, None if levels in (None, "", *_NORMAL) else str(levels)


def stem(name: Any) -> str | None:
    """A file's name without folders."""
    return PurePath(name.replace("\\", "/")).name if isinstance(name, str) else None


def _object(value: Any) -> dict[str, Any]:
    return as_object(value) or {}
