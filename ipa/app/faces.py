"""Options about faces: whose they are, what kind of adapter takes them, and who looks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import numpy as np
import typer

from ipa.adapters import AdapterOptions
from ipa.contract.errors import RequestError
from ipa.contract.image_prompt import ImagePrompt

FaceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--face",
        metavar="[NUMBER=]FILE.npy",
        help="FaceID: the face embedding (512,) of the NUMBER-th -i; alone, a prompt of its own.",
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
                remedy="write --face 2=FILE.npy for the second -i",
            )
        found[chosen] = replace(found[chosen], face=_load(file))
    return found


def face_options(kind: str | None, *, find: bool) -> AdapterOptions:
    """Keywords of `Pipeline.load_ip_adapter`."""
    options: AdapterOptions = {"kind": kind}
    if find:
        from ipa.face_embedder import insightface  # an extra

        options["face_embedder"] = insightface()
    return options


def _load(file: str) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{file} holds no face embedding",
            found=str(error),
            remedy="save one with numpy.save(FILE, face.normed_embedding)",
        ) from error
