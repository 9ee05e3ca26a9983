"""A1111's and Forge's text of parameters, and what others write in its form."""

from __future__ import annotations

import re

from ipa.metadata.a1111 import parse

from .foreign import Foreign, Reading, as_object

# Said by nobody who wants the same picture, or of the program itself.
_IGNORED = ("Version", "User", "Created Date")
_LORA = re.compile(r"<lora:([^:>]{1,200})(?::([^:>]{1,20}))?[^>]{0,50}>")
_HASHES = re.compile(r"([^:,]{1,200}): ?([0-9a-f]{8,64})")


def read_a1111(text: str) -> Foreign:
    """What a text of parameters says."""
    found = parse(text)
    reading = Reading("A1111 or Forge", dict(found.settings))
    reading.put("prompt", found.prompt, found.prompt)
    reading.put("negative_prompt", found.negative_prompt, found.negative_prompt)
    if not found.settings:
        reading.lost.append("all settings: the text has none")
        return reading.done()
    reading.arguments |= {"prompt_syntax": "a1111", "long_prompts": "chunks"}
    reading.integer("num_inference_steps", "Steps")
    reading.sampler(*_sampler(reading))
    reading.number("guidance_scale", "CFG scale")
    reading.integer("seed", "Seed")
    reading.size("Size")
    reading.integer("clip_skip", "Clip skip", less=1)
    _start(reading)
    if reading.pop("RNG") != "CPU":
        reading.lost.append(
            "the noise: a graphics card drew it (RNG is not CPU), the same seed gives another here"
        )
    _weights(reading, found.prompt)
    for key in [key for key in reading.given if re.fullmatch(r"ControlNet \d+", key)]:
        reading.lost.append(f"{key}, whose picture is not in the file: {reading.pop(key)[:300]}")
    return reading.done(_IGNORED)


def _sampler(reading: Reading) -> tuple[str | None, str | None]:
    """Sampler and schedule; "Automatic" is Karras for DPM++, as in A1111's samplers_kdiffusion."""
    name, levels = reading.pop("Sampler"), reading.pop("Schedule type")
    if levels == "Automatic":
        levels = "Karras" if str(name).startswith("DPM++") else None
    return name, None if levels in ("Uniform", "Normal") else levels


def _start(reading: Reading) -> None:
    strength = reading.given.get("Denoising strength")
    if strength is not None and not any(key.startswith("Hires") for key in reading.given):
        reading.number("strength", "Denoising strength")
        reading.lost.append("the picture that it began as, which is not in the file")


def _weights(reading: Reading, prompt: str) -> None:
    hashes = as_object(reading.pop("Hashes")) or {}
    known = {str(k).removeprefix("lora:"): str(v) for k, v in hashes.items()}
    known |= dict(_HASHES.findall(reading.pop("Lora hashes") or ""))
    known = {name.strip(): value for name, value in known.items()}
    model, sha256 = reading.pop("Model"), reading.pop("Model hash")
    reading.named("model", model or ("of that hash" if sha256 else None), sha256 or "")
    reading.named("VAE", reading.pop("VAE"), reading.pop("VAE hash") or "")
    for name, scale in _LORA.findall(prompt):
        reading.named("LoRA", name, known.get(name, ""), scale or 1.0)
