"""A job in the words of others: our command line, Python, diffusers, curl."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ipa.errors import RequestError

from .studio import Studio

_FLAGS: Mapping[str, str] = {
    "negative_prompt": "--negative-prompt",
    "width": "--width",
    "height": "--height",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "scheduler": "--scheduler",
    "seed": "--seed",
    "strength": "--strength",
}
_OF_DIFFUSERS = ("prompt", "negative_prompt", "width", "height", "num_inference_steps")
_HEAD = "# Pictures are named as they lie in the studio's folder.\n"


class _Words:
    """A job's parts as the writers need them.

    Args:
        job: As /api/v1/jobs takes it.
        studio: Whose pictures and models it names.
        address: The server's, such as "http://127.0.0.1:7860".
    """

    def __init__(self, job: Mapping[str, Any], studio: Studio, address: str) -> None:
        self.studio, self.job, self.address = studio, job, address
        self.request: Mapping[str, Any] = job.get("request") or {}
        offers = studio.desk.offers
        self.model = offers.models[offers.model(job.get("model"))].model

    def prompts(self) -> Iterator[tuple[Mapping[str, Any], str, str]]:
        """The image prompts, each with the name and the source of its adapter."""
        for entry in self.request.get("image_prompts") or ():
            name = self.studio.desk.offers.part("adapters", entry.get("adapter"))
            yield entry, name, self.studio.desk.offers.parts["adapters"][name].source

    def controls(self) -> Iterator[tuple[Mapping[str, Any], str, str]]:
        """The controls likewise."""
        for entry in self.request.get("controls") or ():
            name = self.studio.desk.offers.part("controlnets", entry.get("name"))
            yield entry, name, self.studio.desk.offers.parts["controlnets"][name].source

    def file(self, given: Any) -> str:
        """The path of a picture. Raises RequestError if it is several, or none of the studio's."""
        if not isinstance(given, Mapping) or not isinstance(given.get("sha256"), str):
            raise RequestError(
                "this request has pictures that cannot be written in a line",
                remedy="copy it as curl, or save the picture",
            )
        return str(self.studio.folder.kept_path(given["sha256"]))


def code(way: str, job: Mapping[str, Any], studio: Studio, address: str) -> str:
    """A job as one of `WAYS`, the server being at an address. Raises RequestError if that has no
    words for it."""
    return WAYS[way](_Words(job, studio, address))


def _cli(words: _Words) -> str:
    made = ["ipa-mlx", "generate", "--model", words.model]
    adapters = {name: source for _, name, source in words.prompts()}
    made += [word for name, source in adapters.items() for word in ("-a", f"{name}={source}")]
    fits, layers, masks = [], [], []
    for number, (entry, name, _) in enumerate(words.prompts(), start=1):
        window = f"@{entry.get('start', 0.0):g}-{entry.get('end', 1.0):g}"
        scale = f":{entry['scale']:g}" if "scale" in entry else ""
        made += ["-i", f"{name}={words.file(entry['image'])}{scale}{window}"]
        fits.append(entry.get("fit"))
        layers.append(entry.get("layers") or "linear")
        if entry.get("mask"):
            masks += ["--mask", f"{number}={words.file(entry['mask'])}"]
    if len({json.dumps(one) for one in fits}) > 1:
        raise RequestError(
            "the command line has one crop for all pictures", remedy="copy it as Python or curl"
        )
    made += (
        [word for one in layers for word in ("--layers", one)] if set(layers) > {"linear"} else []
    )
    made += ["--fit", _fit(fits[0])] if fits and fits[0] is not None else []
    made += masks
    for entry, name, source in words.controls():
        made += ["--controlnet", f"{name}={source}", "--control", words.file(entry["image"])]
    for name, option in (("image", "--image"), ("mask_image", "--mask-image")):
        made += [option, words.file(words.request[name])] if words.request.get(name) else []
    for name, option in _FLAGS.items():
        made += [option, str(words.request[name])] if words.request.get(name) is not None else []
    if words.request.get("prompt"):
        made += ["--prompt", words.request["prompt"]]
    return shlex.join(made)


def _fit(fit: Any) -> str:
    return fit if isinstance(fit, str) else ",".join(f"{edge:g}" for edge in fit)


def _python(words: _Words) -> str:
    lines = ["import ipa", "", f"pipe = ipa.load({words.model!r})"]
    loaded = {name: source for _, name, source in words.prompts()}
    lines += [f"pipe.load_ip_adapter({s!r}, name={n!r})" for n, s in loaded.items()]
    nets = {name: source for _, name, source in words.controls()}
    lines += [f"pipe.load_controlnet({s!r}, name={n!r})" for n, s in nets.items()]
    lines += ["result = pipe("]
    for name, value in words.request.items():
        if name in ("image_prompts", "controls"):
            kind = "ImagePrompt" if name == "image_prompts" else "Control"
            lines += [f"    {name}=["]
            lines += [f"        ipa.{kind}({_arguments(words, one)})," for one in value]
            lines += ["    ],"]
        else:
            lines.append(f"    {name}={_value(words, value)},")
    return _HEAD + "\n".join([*lines, ")", 'ipa.save_picture(result, "out.png")', ""])


def _arguments(words: _Words, entry: Mapping[str, Any]) -> str:
    first = _value(words, entry["image"])
    rest = [f"{k}={_value(words, v)}" for k, v in entry.items() if k != "image" and v is not None]
    return ", ".join([first, *rest])


def _value(words: _Words, value: Any) -> str:
    return f"ipa.open_image({words.file(value)!r})" if isinstance(value, Mapping) else repr(value)


def _diffusers(words: _Words) -> str:
    if list(words.controls()) or words.request.get("image"):
        raise RequestError(
            "structure and start pictures are other pipelines of diffusers",
            remedy="copy it as Python or curl",
        )
    lines = [
        "import torch",
        "from diffusers import AutoPipelineForText2Image",
        "from PIL import Image",
    ]
    lines += ["", f"pipe = AutoPipelineForText2Image.from_pretrained({words.model!r})"]
    prompts = list(words.prompts())
    for _, name, source in prompts[:1]:
        lines.append(f"pipe.load_ip_adapter({source!r})  # {name}: its folder and weight_name")
    lines += [f"pictures = [{', '.join(_pil(words, e['image'], e) for e, _, _ in prompts)}]"]
    scales = [entry.get("scale", 1.0) for entry, _, _ in prompts]
    if prompts:
        lines.append(f"pipe.set_ip_adapter_scale([{scales!r}])")
        lines += [
            f"# Not in diffusers: {name}={entry[name]!r}"
            for entry, _, _ in prompts
            for name in ("layers", "start", "end", "mask")
            if entry.get(name) not in (None, 0.0, 1.0)
        ]
    given = [f"{n}={words.request[n]!r}" for n in _OF_DIFFUSERS if words.request.get(n) is not None]
    given += [f"guidance_scale={words.request.get('guidance_scale', 7.5)!r}"]
    given += ["ip_adapter_image=[pictures]"] if prompts else []
    seed = words.request.get("seed", 0)
    given += [f'generator=torch.Generator("cpu").manual_seed({seed})']
    call = "".join(f"    {one},\n" for one in given)
    return _HEAD + "\n".join(lines) + f"\nimage = pipe(\n{call}).images[0]\n"


def _pil(words: _Words, given: Any, entry: Mapping[str, Any]) -> str:
    opened = f"Image.open({words.file(given)!r})"
    box = entry.get("fit")
    if not isinstance(box, (list, tuple)):
        return opened
    image = words.studio.pictures.open(given["sha256"])
    sides = (image.width, image.height) * 2
    pixels = tuple(round(edge * side) for edge, side in zip(box, sides, strict=True))
    return f"{opened}.crop({pixels})"


def _curl(words: _Words) -> str:
    files = sorted(set(_files(words, words.request)))
    kind = "-H 'Content-Type: application/octet-stream'"
    address = f"{words.address}/api/v1"
    lines = [f"curl -T {shlex.quote(path)} {kind} {address}/pictures" for path in files]
    body = json.dumps(dict(words.job), ensure_ascii=False)
    sent = f"curl -H 'Content-Type: application/json' -d {shlex.quote(body)} {address}/jobs"
    return "\n".join([*lines, sent, ""])


def _files(words: _Words, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "sha256" in value:
            yield words.file(value)
        else:
            for one in value.values():
                yield from _files(words, one)
    elif isinstance(value, list):
        for one in value:
            yield from _files(words, one)


WAYS: Mapping[str, Callable[[_Words], str]] = {
    "cli": _cli,
    "python": _python,
    "diffusers": _diffusers,
    "curl": _curl,
}
"""The ways by name."""
