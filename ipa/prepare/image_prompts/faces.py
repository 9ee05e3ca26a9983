"""The identities that a FaceID adapter is given: those of the request, or found in its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ipa.arrays import Floats
from ipa.errors import RequestError
from ipa.model.adapter import AdapterSpec
from ipa.prepare.images.pictures import to_rgb
from ipa.request.faces import Face, FaceEmbedder, FaceEntry, identity
from ipa.request.image_prompt import ImagePrompt
from ipa.request.pictures import Picture
from ipa.request.profiles import Profile

# What is done to pictures, and how it is left undone.
_ON_PICTURES: Mapping[str, object] = {
    "fit": None,
    "sharpen": 0.0,
    "encoder_mask": None,
    "enhance_tiles": 1,
    "neg_content_prompt": None,
}


@dataclass(frozen=True, slots=True)
class PlannedFaces:
    """Identities (N, width), and the pictures as the image encoder shall see them."""

    identities: Floats
    pictures: tuple[Picture, ...]


def check_fits(prompt: ImagePrompt, spec: AdapterSpec, where: str) -> None:
    """Raise RequestError for faces or options that an adapter would silently ignore.

    Raises:
        RequestError: Faces for an adapter that takes none, or what is done to pictures for one that
            sees none.
    """
    if prompt.shortcut_scale is not None and not spec.has_shortcut:
        raise RequestError(
            f"{where} has no shortcut",
            found=f"shortcut_scale={prompt.shortcut_scale:g}",
            remedy="only FaceID-Plus v2 has one; see ImagePrompt.scale",
        )
    if not spec.face_width and prompt.face is not None:
        raise RequestError(
            f"{where} takes pictures, not faces",
            found=f"face= with {len(prompt.faces)}",
            remedy="load a FaceID adapter, or leave face= out",
        )
    if spec.feature != "face":
        return
    if isinstance(prompt.negative, str):
        raise RequestError(
            f"{where} sees faces alone, and noise has none",
            found=f"negative={prompt.negative!r}",
            remedy="pass a picture with a face, or embeds",
        )
    unseen = [name for name, none in _ON_PICTURES.items() if getattr(prompt, name) != none]
    if unseen:
        raise RequestError(
            f"{where} sees faces alone, and no pictures",
            found=f"{', '.join(unseen)}=",
            remedy="leave it out",
        )


def plan_faces(
    prompt: ImagePrompt, spec: AdapterSpec, embedder: FaceEmbedder | None, where: str
) -> PlannedFaces | None:
    """Plan the identities of an image prompt: its own faces, or those found in its pictures.

    Args:
        prompt: Its faces are taken; without any, the first face of each of its pictures.
        spec: The adapter.
        embedder: Finds faces where none are given.
        where: The adapter, for messages.

    Returns:
        None where the adapter takes no faces.

    Raises:
        RequestError: The adapter needs faces and there are none, or they do not fit it.
    """
    if not spec.face_width:
        return None
    entries = prompt.faces or _found(prompt.images, embedder, where)
    sees_pictures = spec.feature == "states"
    if sees_pictures and len(entries) != len(prompt.images):
        raise RequestError(
            f"{where} needs a picture of each face and a face for each picture",
            found=f"{len(prompt.images)} pictures, {len(entries)} faces",
            remedy="write ImagePrompt([a, b], face=[of_a, of_b])",
        )
    raw, width = spec.takes_raw_face, spec.face_width
    rows = [identity(entry, width=width, raw=raw, where=where) for entry in entries]
    return PlannedFaces(np.stack(rows), _seen(prompt.images, entries) if sees_pictures else ())


def shortcut_scale(prompt: ImagePrompt, spec: AdapterSpec, profile: Profile) -> float | None:
    """The weight of the face's picture beside its identity; None without a shortcut."""
    if not spec.has_shortcut:
        return None
    return profile.shortcut_scale if prompt.shortcut_scale is None else prompt.shortcut_scale


def _found(
    pictures: Sequence[Picture], embedder: FaceEmbedder | None, where: str
) -> tuple[Face, ...]:
    if embedder is None or not pictures:
        raise RequestError(
            f"{where} needs to know whose face it is",
            found="no face=" + ("" if embedder else ", and no face_embedder= with the adapter"),
            remedy="pass ImagePrompt(picture, face=embedding), or load_ip_adapter(…, "
            "face_embedder=ipa.face_embedder.insightface())",
        )
    faces = []
    for number, picture in enumerate(pictures, start=1):
        found = embedder(to_rgb(picture))
        if not found:
            raise RequestError(
                f"no face was found in picture {number}",
                remedy="take one that shows a face from the front, or pass face=",
            )
        faces.append(found[0])
    return tuple(faces)


def _seen(pictures: Sequence[Picture], faces: Sequence[FaceEntry]) -> tuple[Picture, ...]:
    """The pictures as the encoder sees them: each whole, or the crop of its face."""
    pairs = zip(pictures, faces, strict=True)
    return tuple(
        face.crop if isinstance(face, Face) and face.crop is not None else picture
        for picture, face in pairs
    )
