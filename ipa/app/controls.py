"""`--control` and `--controlnet` of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from ipa import demo
from ipa.app.generate import split_reference
from ipa.contract.control import Control
from ipa.contract.errors import CheckpointError, RequestError
from ipa.pipeline import Pipeline
from ipa.prepare.hub_name import hub_name
from ipa.prepare.images import open_image
from ipa.prepare.sources import resolve_file, resolve_repository

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


def parse_control(text: str) -> Control:
    """[NAME=]FILE[:SCALE][@START-END] as a control; the file is opened and checked."""
    name, file, scale, options = split_reference(text)
    weight = 1.0 if scale is None else scale
    return Control(open_image(file), name=name, scale=weight, **options)


def load_controlnets(
    pipe: Pipeline, controlnets: Sequence[str], controls: Sequence[Control], *, offline: bool
) -> None:
    """Load [NAME=]SOURCE for each, of either kind; the demo model brings its own if none is named.

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
        name, equals, source = text.partition("=")
        if not equals or Path(text).exists():
            name, source = "", text
        load = (
            pipe.load_t2i_adapter if _is_adapter(source, offline=offline) else pipe.load_controlnet
        )
        load(source, name=name or None, offline=offline)


def _is_adapter(source: str, *, offline: bool) -> bool:
    """Whether it is a T2I-Adapter; what is neither that nor a ControlNet is `load_controlnet`'s."""
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
