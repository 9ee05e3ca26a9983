"""Our own request in A1111's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from ipa.prepare.samplers.families import FAMILIES
from ipa.version import __version__

from .a1111 import Parameters, plain_value

_LEVELS = {"_karras": "Karras", "_exponential": "Exponential", "_beta": "Beta"}
_CALLED = {
    **{family: kind.others[0] for family, kind in FAMILIES.items() if kind.others},
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "deis": "DEIS",
    "euler": "Euler",
    "heun": "Heun",
    "lcm": "LCM",
    "lms": "LMS",
    "tcd": "TCD",
    "unipc": "UniPC",
}
_PARENTHESES = {"plain": r"()[]\\", "comfyui": "[]"}
"""By syntax, what is no weight there and would be one in A1111's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileHashes:
    """Hashes of files of weights in A1111's forms.

    Attributes:
        model: The first ten digits of the sha256 of a model's file; None of a folder.
        files: Of adapters and controls by their names in the request: the eight digits that
            A1111's ControlNet extension shows.
        loras: Of LoRAs by name: twelve digits.
    """

    model: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    loras: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {"model": self.model, "files": dict(self.files), "loras": dict(self.loras)}


NO_HASHES = FileHashes()


def a1111_sampler(name: str) -> tuple[str, str]:
    """Our name of a sampler as A1111's sampler and schedule type."""
    ending = next((end for end in _LEVELS if name.endswith(end)), "")
    family = name.removesuffix(ending) if ending else name
    return _CALLED.get(family, family), _LEVELS.get(ending, "Uniform")


def a1111_parameters(info: Mapping[str, Any], hashes: FileHashes = NO_HASHES) -> Parameters:
    """`Result.info` of one picture as A1111's parameters."""
    request = info["request"]
    syntax = request.get("prompt_syntax") or "plain"
    prompt = _escaped(request.get("prompt"), syntax)
    loras = {k: v for k, v in dict(request.get("loras") or {}).items() if "tag" not in v}
    tags = [f"<lora:{plain_value(name)}:{one['scale']:g}>" for name, one in loras.items()]
    return Parameters(
        prompt=" ".join(part for part in (prompt, *tags) if part),
        negative_prompt=_escaped(request.get("negative_prompt"), syntax),
        settings={name: str(value) for name, value in _settings(info, hashes) if value is not None},
    )


def _settings(info: Mapping[str, Any], hashes: FileHashes) -> Iterator[tuple[str, Any]]:
    request = info["request"]
    sampler, levels = a1111_sampler(str(request.get("scheduler")))
    yield "Steps", request.get("num_inference_steps")
    yield "Sampler", sampler
    yield "Schedule type", levels
    yield "CFG scale", _number(request.get("guidance_scale"))
    yield "Seed", request.get("seed")
    yield "Size", f"{request.get('width')}x{request.get('height')}"
    yield "Model hash", hashes.model
    yield "Model", plain_value(model_name(info)) or None
    if request.get("image_sha256"):
        yield "Denoising strength", _number(request.get("strength"))
    if request.get("clip_skip"):
        yield "Clip skip", request["clip_skip"] + 1
    if request.get("mask_image_sha256") and request.get("mask_blur"):
        yield "Mask blur", _number(request["mask_blur"])
    yield "RNG", "CPU"
    for number, words in enumerate(_units(request, hashes)):
        yield f"ControlNet {number}", words
    known = {plain_value(name): value for name, value in hashes.loras.items()}
    if known:
        yield "Lora hashes", ", ".join(f"{name}: {value}" for name, value in known.items())
    yield "Version", f"ipa-mlx {__version__}"


def _units(request: Mapping[str, Any], hashes: FileHashes) -> Iterator[str]:
    """Image prompts, then controls, as units of the extension."""
    for prompt in request.get("image_prompts") or ():
        yield _unit("ip-adapter-auto", prompt, hashes.files.get(str(prompt.get("adapter"))))
    for control in request.get("controls") or ():
        name = str(control.get("control"))
        yield _unit(
            "none", {**control, "file": control.get("file") or name}, hashes.files.get(name)
        )


def _unit(module: str, entry: Mapping[str, Any], sha256: str | None) -> str:
    model = plain_value(PurePath(str(entry.get("file") or "")).stem) or "None"
    mode = "ControlNet is more important" if entry.get("guess_mode") else "Balanced"
    values: Mapping[str, object] = {
        "Module": module,
        "Model": f"{model} [{sha256}]" if sha256 else model,
        "Weight": _weight(entry.get("scale")),
        "Resize Mode": "Crop and Resize",
        "Processor Res": 512,
        "Threshold A": 0.5,
        "Threshold B": 0.5,
        "Guidance Start": _float(entry.get("start"), 0.0),
        "Guidance End": _float(entry.get("end"), 1.0),
        "Pixel Perfect": False,
        "Control Mode": mode,
    }
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _weight(scale: Any) -> float:
    """A weight as one number: of several the mean; of a table of blocks 1."""
    several = scale if isinstance(scale, Sequence) and not isinstance(scale, str) else [scale]
    numbers = [float(one) for one in several if isinstance(one, (int, float))]
    return round(sum(numbers) / len(numbers), 4) if len(numbers) == len(several) else 1.0


def _float(value: Any, default: float) -> float:
    return float(value) if isinstance(value, (int, float)) else default


def _number(value: Any) -> str | None:
    """A number as short as it can be told."""
    return None if value is None else repr(value).removesuffix(".0")


def model_name(info: Mapping[str, Any]) -> str:
    """A model's name without its folders: names only, never paths."""
    name = str(info.get("model") or "")
    is_file = name.endswith((".safetensors", ".ckpt", ".pt", ".bin"))
    return PurePath(name).stem if is_file else PurePath(name).name


def _escaped(text: Any, syntax: str) -> str:
    """A prompt whose parentheses mean in A1111's syntax what they mean in its own."""
    words = text if isinstance(text, str) else ""
    signs = _PARENTHESES.get(syntax, "")
    return "".join(f"\\{sign}" if sign in signs else sign for sign in words)
