"""`--control` and `--controlnet` of the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from PIL import Image

from ipa import demo
from ipa.app.session import open_picture
from ipa.errors import CheckpointError, RequestError
from ipa.pipeline.pipeline import Pipeline
from ipa.prepare.controls.preprocessors import canny, edges
from ipa.prepare.images.pictures import to_rgb
from ipa.request.control import Control, Preprocessor
from ipa.sources.hub import hub_name
from ipa.sources.models import resolve_file, resolve_repository

from .ignoring import Ignored, named_source
from .parsing import one_each, split_reference

ControlOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]FILE[:SCALE][@START-END]",
        help="A control picture (edges, depth, …) for the ControlNet or T2I-Adapter NAME; may be "
        "repeated.",
    ),
]
ControlNetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]SOURCE",
        help="A ControlNet or T2I-Adapter, which its files tell: a folder, a file, owner/name on "
        "the hub; may be repeated.",
    ),
]
PreprocessorOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--control-preprocessor",
        help="Make the control picture of a photo: canny (needs OpenCV), edges (steps of colour), "
        "inpaint (shows where --mask-image is white), none; once for all of them, or once for "
        "each --control.",
    ),
]
GuessOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--guess-mode",
        help="Follow the control pictures without words: the unconditional half is left as it is.",
    ),
]

INPAINT = "inpaint"
PREPROCESSORS: Mapping[str, Preprocessor | None] = {
    "canny": canny,
    "edges": edges,
    INPAINT: None,
    "none": None,
}


def parse_controls(
    texts: Sequence[str] | None,
    preprocessors: Sequence[str] | None,
    *,
    guess_mode: bool,
    mask_image: Path | None = None,
) -> tuple[Control, ...]:
    """Parse the options; files are opened, preprocessors tried, before a model is read.

    The mask of the run is that of a control for inpainting too.

    Raises:
        RequestError: A file or a preprocessor is unusable, or an option stands without --control.
    """
    if guess_mode and not texts:
        raise RequestError("guess mode is that of controls", found="none", remedy="add --control")
    controls = [parse_control(text) for text in texts or ()]
    names = one_each("--control-preprocessor", preprocessors or (), len(controls), "--control")
    made = []
    for control, name in zip(controls, names, strict=True):
        how = _preprocessor(name or "none")
        if how is not None:
            how(to_rgb(control.pictures[0]))
        mask = _mask(mask_image) if name == INPAINT else None
        made.append(replace(control, preprocessor=how, guess_mode=guess_mode, mask=mask))
    return tuple(made)


def _preprocessor(name: str) -> Preprocessor | None:
    if name not in PREPROCESSORS:
        raise RequestError(
            "no such preprocessor", found=repr(name), remedy=f"one of {', '.join(PREPROCESSORS)}"
        )
    return PREPROCESSORS[name]


def _mask(mask_image: Path | None) -> Image.Image:
    if mask_image is None:
        raise RequestError(
            f"--control-preprocessor {INPAINT} shows a ControlNet where there is to be painted",
            found="no --mask-image",
            remedy="add --image and --mask-image",
        )
    return open_picture(mask_image)


def parse_control(text: str) -> Control:
    """Parse [NAME=]FILE[:SCALE][@START-END] as a control; the file is opened and checked."""
    name, file, scale, options = split_reference(text)
    weight = 1.0 if scale is None else scale
    return Control(open_picture(file), name=name, scale=weight, **options)


def load_controlnets(
    pipe: Pipeline,
    controlnets: Sequence[str],
    controls: Sequence[Control],
    ignored: Ignored,
    *,
    offline: bool,
) -> None:
    """Load [NAME=]SOURCE each, of either kind; the demo model brings its own by default.

    Raises:
        CheckpointError: It is neither a ControlNet nor a T2I-Adapter.
        RequestError: A ControlNet has no picture, or the name is taken.
    """
    if not controlnets and controls and pipe.info()["model"] == "demo":
        pipe.load_controlnet(demo.controlnet(), name="edges")
    if controlnets and not controls:
        raise RequestError(
            "a ControlNet needs its picture",
            found="--controlnet without --control",
            remedy="add --control NAME=FILE",
        )
    for text in controlnets:
        name, source = named_source(text)
        load = (
            pipe.load_t2i_adapter if _is_adapter(source, offline=offline) else pipe.load_controlnet
        )
        load(source, name=name, ignore=ignored.of_file(name, source), offline=offline)


def _is_adapter(source: str, *, offline: bool) -> bool:
    """Whether a file is a T2I-Adapter; anything else is left to `load_controlnet`."""
    import ipa_convert

    hub = hub_name(source)
    if hub is not None and not hub.path:
        path = resolve_repository(hub.repository, offline=offline)
    else:
        path = resolve_file(source, offline=offline)
    try:
        return ipa_convert.kind_of(path) == "t2i_adapter"
    except CheckpointError:
        return False
