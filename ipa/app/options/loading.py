"""Adapters loaded as the options say, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipa import demo
from ipa.app.terminal import warn
from ipa.model.folder import ModelFolder
from ipa.pipeline.pipeline import Pipeline
from ipa.pipeline.plan import make_plan
from ipa.pipeline.snapshot import Snapshot
from ipa.prepare.scaling.lambdas import lambda_table
from ipa.prepare.scaling.unusual import unusual_numbers
from ipa.prepare.text.prompts import open_tokenizers
from ipa.request.request import Request
from ipa.request.scales import Scale

from .faces import check_finding, face_options
from .parsing import one_each


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
