"""`ipa-mlx generate`: options become a call, pictures become files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipa import demo
from ipa.app.editing import steps_done
from ipa.app.faces import check_finding, face_options
from ipa.app.output import Saving, png_name
from ipa.app.preview_file import ENLARGED, PreviewFile, preview_path
from ipa.app.provenance import provenance
from ipa.app.session import open_picture
from ipa.app.show import progress_bar
from ipa.app.suffixes import check_suffix
from ipa.app.terminal import warn
from ipa.app.texts import TEXT_OPTIONS
from ipa.contract.embeds_scaling import V_ONLY
from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import ImagePrompt
from ipa.contract.model import ModelFolder
from ipa.contract.request import Request
from ipa.contract.result import Result
from ipa.contract.weights import Curve, Layers, Scale
from ipa.pipeline import Pipeline
from ipa.plan import make_plan
from ipa.prepare.lambdas import lambda_table
from ipa.prepare.texts import open_tokenizers
from ipa.prepare.unusual import unusual_numbers
from ipa.registry import Snapshot
from ipa.run import CancelSignal

REQUEST_OPTIONS = (
    *("prompt", "negative_prompt", "width", "height"),
    *("guidance_scale", "scheduler", "seed", "num_images", "profile"),
    *TEXT_OPTIONS,
    *("guidance_rescale", "eta", "timestep_spacing"),
    *("strength", "padding_mask_crop", "mask_blur", "overlay"),
)
"""Options that are called as the request's fields are."""

_WINDOW = re.compile(r"^(?P<rest>.+)@(?P<start>[0-9.]+)-(?P<end>[0-9.]+)$")


def parse_image_prompt(text: str) -> ImagePrompt:
    """[ADAPTER=]FILE[:SCALE][@START-END] as an image prompt; the file is opened and checked."""
    name, file, scale, options = split_reference(text)
    return ImagePrompt(open_picture(file), adapter=name, scale=scale, **options)


def split_reference(text: str) -> tuple[str | None, Path, float | None, dict[str, Any]]:
    """[NAME=]FILE[:SCALE][@START-END] in its parts; of the window, start and end by name."""
    rest, options = text, dict[str, Any]()
    if Path(text).is_file():  # whatever its name looks like
        return None, Path(text), None, {}
    if window := _WINDOW.match(rest):
        rest = window["rest"]
        try:
            options = {"start": float(window["start"]), "end": float(window["end"])}
        except ValueError as error:
            raise RequestError("a window is two fractions", found=text) from error
    head, colon, tail = rest.rpartition(":")
    scale = _number(tail) if colon else None
    if scale is not None:
        rest = head
    name, equals, file = rest.partition("=")
    if not equals or Path(rest).exists():
        name, file = "", rest
    if not Path(file).is_file():
        check_suffix(text)
    return name or None, Path(file), scale, options


def with_weights(
    prompts: Sequence[ImagePrompt], layers: Sequence[str], curves: Sequence[str]
) -> tuple[ImagePrompt, ...]:
    """Image prompts with their layers and curves: one for all of them, or one for each in order."""
    per_prompt = zip(
        prompts,
        one_each("--layers", [parse_layers(text) for text in layers], len(prompts)),
        one_each("--curve", [parse_curve(text) for text in curves], len(prompts)),
        strict=True,
    )
    return tuple(replace(prompt, layers=by, curve=curve) for prompt, by, curve in per_prompt)


def with_scaling(prompts: Sequence[ImagePrompt], given: Sequence[str]) -> tuple[ImagePrompt, ...]:
    """Image prompts with their embeds_scaling: one for all of them, or one for each in order."""
    modes = one_each("--embeds-scaling", given or [V_ONLY] * len(prompts), len(prompts))
    pairs = zip(prompts, modes, strict=True)
    return tuple(replace(prompt, embeds_scaling=mode) for prompt, mode in pairs)


def one_each(option: str, given: Sequence[Any], count: int, of: str = "-i") -> Sequence[Any]:
    """A value for each of a number of other options, given once for all or once for each."""
    if len(given) == 1 and count:
        return [given[0]] * count
    if given and len(given) != count:
        raise RequestError(
            f"{option} is given once for all {of}, or once for each",
            found=f"{len(given)} for {count} {of}",
            remedy=f"write as many {option} as {of}",
        )
    return given or [None] * count


def parse_curve(text: str) -> Curve:
    """A name, or points FRACTION:WEIGHT,FRACTION:WEIGHT,…"""
    if ":" not in text:
        return text
    points = [part.partition(":")[::2] for part in text.split(",")]
    try:
        return [(float(fraction), float(weight)) for fraction, weight in points]
    except ValueError as error:
        raise RequestError(
            "a curve is a name, or points fraction:weight",
            found=repr(text),
            remedy="write 0:1,0.5:0.2,1:0",
        ) from error


def parse_layers(text: str) -> Layers:
    """A name or NUMBER:WEIGHT,…; or factors by name as JSON, also with a precise type's boost."""
    return _object(text, "layers are names, or") if text.lstrip().startswith("{") else text


def parse_scale(text: str) -> Scale:
    """A number, or diffusers' nested dict as JSON."""
    number = _number(text)
    return _object(text, "a scale is a number or") if number is None else number


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RequestError(f"{what} a JSON object", found=text) from error
    if not isinstance(value, dict):
        raise RequestError(f"{what} a JSON object", found=text)
    return value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def check_arguments(arguments: dict[str, Any], model: ModelFolder, scale: Scale) -> None:
    """Plan the call without adapters: what cannot be honoured is told before weights are read.

    Raises:
        RequestError: An argument is wrong for this model.
    """
    request = Request(**arguments)
    # What is loaded is not known yet.
    bare = replace(request, image_prompts=(), controls=(), loras=None)
    plan = make_plan(bare, Snapshot(model=model, tokenizers=open_tokenizers(model)))
    warn(unusual_numbers(request, {"": scale}))
    for prompt in request.image_prompts:
        lambda_table(prompt, scale, model.sites, len(plan.schedule.steps))


def load_adapters(
    pipe: Pipeline,
    adapters: Sequence[str],
    scale: Scale,
    *,
    offline: bool,
    kinds: Sequence[str] = (),
    find_faces: bool = False,
    encoders: Sequence[str] = (),
) -> None:
    """Load [NAME=]SOURCE for each; the demo model brings its own where none is named.

    SOURCE is a file, a short name, or owner/name/folder/file.safetensors on the hub.
    """
    told = one_each("--adapter-kind", kinds, len(adapters), "-a")
    seen_by = one_each("--image-encoder", encoders, len(adapters), "-a")
    if not adapters and pipe.info()["model"] == "demo":
        pipe.load_ip_adapter(demo.adapter("base"), name="base", scale=scale)
    for text, kind, encoder in zip(adapters, told, seen_by, strict=True):
        name, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            name, source = "", text
        options = face_options(kind, find=find_faces)
        pipe.load_ip_adapter(
            source,
            name=name or None,
            scale=scale,
            image_encoder_folder=encoder or "image_encoder",
            offline=offline,
            **options,
        )
    if find_faces:
        check_finding(pipe)


def load_named_adapters(pipe: Pipeline, options: Mapping[str, Any], scale: Scale) -> None:
    """Load what the options of a command name: adapters, their kinds and image encoders."""
    load_adapters(
        pipe,
        options["adapter"] or (),
        scale,
        offline=options["offline"],
        kinds=options["adapter_kind"] or (),
        find_faces=options["find_faces"],
        encoders=options["image_encoder"] or (),
    )


def _of_picture(request: dict[str, Any], number: int) -> dict[str, Any]:
    """The request that makes one picture again: alone, or with those drawn by its generator."""
    seeds = request["seeds"]
    if len(set(seeds)) < len(seeds):
        return {**request, "picture": number + 1}
    return {**request, "seed": seeds[number], "seeds": [seeds[number]], "num_images": 1}


def generate(
    pipe: Pipeline,
    output: Path,
    paths: Sequence[Path],
    arguments: dict[str, Any],
    cancel: CancelSignal,
    preview: Path | None = None,
) -> tuple[Result, list[Path]]:
    """Run a call with a progress bar and write its pictures, the request inside each.

    Returns:
        What was made, and where the pictures are: at `paths`, or numbered where those were taken.
    """
    with progress_bar(steps_done(arguments)) as bar:
        bar.describe("generating")
        enlarged = ENLARGED if arguments.get("preview") == "latent" else 1
        events = PreviewFile(bar, preview and preview_path(preview), enlarged)
        with events.kept_if_cancelled():
            result = pipe(**arguments, on_progress=events, cancel=cancel)
    saving = Saving(png_name(output))
    for number, (image, path) in enumerate(zip(result.images, paths, strict=True)):
        own = _of_picture(result.info["request"], number)
        info = {**result.info, **provenance(own), "request": own}
        if result.influence is not None:
            info["influence"] = [info["influence"][number]]
        saving.save(image, path, info)
    return result, saving.finish()
