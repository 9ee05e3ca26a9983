"""Options about faces: whose they are, what kind of adapter takes them, and who looks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer

from ipa.app.session import open_picture
from ipa.errors import RequestError
from ipa.pipeline.adapters import AdapterOptions
from ipa.pipeline.pipeline import Pipeline
from ipa.request.faces import Face
from ipa.request.image_prompt import ImagePrompt

from .pictures import numbering

FaceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--face",
        metavar="[NUMBER=]FILE",
        help="FaceID: whose face, of the NUMBER-th -i or alone: a photo, if insightface is "
        "installed, or an embedding (512,) as .npy.",
    ),
]
KindOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter-kind", help="What the -a is where its file does not tell, as faceid-plusv2."
    ),
]
FindOption: TypeAlias = Annotated[
    bool,
    typer.Option("--find-faces", help="FaceID: find faces in pictures with insightface."),
]


def with_faces(prompts: Sequence[ImagePrompt], faces: Sequence[str]) -> list[ImagePrompt]:
    """Image prompts with faces; those without a number become prompts of their own.

    Raises:
        RequestError: There is no such prompt, or the file holds no array.
    """
    found = list(prompts)
    for text in faces:
        number, equals, file = text.partition("=")
        if not equals or Path(text).exists():
            found.append(ImagePrompt(face=_load(text)))
            continue
        chosen = int(number) - 1 if number.isdecimal() else -1
        if not 0 <= chosen < len(prompts) or found[chosen].face is not None:
            raise RequestError(
                "--face must number one of the image prompts, each once",
                found=f"{text}, with {len(prompts)} image prompts",
                remedy=numbering("--face", len(prompts)),
            )
        found[chosen] = replace(found[chosen], face=_load(file))
    return found


def face_options(kind: str | None, *, find: bool) -> AdapterOptions:
    """The face keywords of `Pipeline.load_ip_adapter`."""
    options: AdapterOptions = {"kind": kind}
    if find:
        from ipa.prepare.image_prompts.face_embedder import insightface  # an extra

        options["face_embedder"] = insightface()
    return options


def _load(file: str) -> Any:
    if Path(file).suffix.lower() != ".npy" and Path(file).is_file():
        return _largest_face(file)
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{file} holds no face embedding",
            found=str(error),
            remedy="give a photo, or what numpy.save(FILE, face.normed_embedding) wrote",
        ) from error


def _largest_face(file: str) -> Face:
    """The largest face of a photo, by insightface. Raises RequestError without it."""
    from ipa.prepare.image_prompts.face_embedder import insightface  # an extra

    photo = open_picture(file)
    found = insightface()(photo)
    if not found:
        raise RequestError(
            f"no face was found in {file}", remedy="give a photo in which one is larger and upright"
        )
    return found[0]


def check_finding(pipe: Pipeline) -> None:
    """Raise RequestError if --find-faces has no adapter that asks for faces."""
    loaded = pipe.info()["adapters"]
    if not any(adapter["projector"].startswith("faceid") for adapter in loaded.values()):
        raise RequestError(
            "--find-faces is about faces for FaceID adapters: it has no effect here",
            found=f"adapters that see pictures: {', '.join(loaded) or 'none'}",
            remedy="load one with --adapter, such as faceid-sd15, or leave it out",
        )
