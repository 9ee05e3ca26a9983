"""Identity embeddings of faces, as arrays or from an embedder that a program plugs in.

FaceID adapters take the vector that a face recognition network (ArcFace, 512 numbers) gives for a
face. Finding, aligning and embedding faces is not part of this package: `ipa.face_embedder` has an
adapter for the package insightface; anything else that gives such vectors will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.arrays import Floats
from ipa.errors import RequestError

_UNIT = 0.01  # how far from 1 a length may be that was meant to be 1: float16 is off by 1e-3


_LEAST_RAW = 2.0  # raw vectors of ArcFace are some 10 to 30 long


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face as an embedder saw it.

    Attributes:
        embedding: (512,) as the network gives it, not normalised: its length is used by the adapter
            "portrait-unnorm" and taken away for all others.
        crop: The face alone, upright, for adapters that look at it too (FaceID-Plus); None leaves
            the picture as it is.
    """

    embedding: Floats
    crop: Image.Image | npt.NDArray[Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "embedding", _vector(self.embedding, "Face.embedding"))


FaceEmbedder: TypeAlias = Callable[[Image.Image], Sequence[Face]]
"""A function from an RGB picture to all faces in it, the main one first."""


GivenFace: TypeAlias = "Face | npt.NDArray[Any] | Sequence[Face | npt.NDArray[Any]]"
"""One face or several: an embedder's, or vectors (512,) or (N, 512)."""


FaceEntry: TypeAlias = "Face | Floats"


def faces_of(given: object, where: str) -> tuple[FaceEntry, ...]:
    """Faces one by one, each a `Face` or a vector (width,).

    Raises:
        RequestError: There is none, or one is neither.
    """
    if isinstance(given, Face):
        return (given,)
    is_list = isinstance(given, (list, tuple)) or (
        isinstance(given, np.ndarray) and given.ndim == 2
    )
    rows: list[Any] = list(cast("Sequence[Any]", given)) if is_list else [given]
    if not rows:
        raise RequestError(f"{where} needs a face", found="none")
    return tuple(row if isinstance(row, Face) else _vector(row, where) for row in rows)


def identity(face: FaceEntry, *, width: int, raw: bool, where: str) -> Floats:
    """A face's vector as an adapter takes it, (width,).

    Args:
        face: A vector is checked and taken as it is; a `Face` is brought to length 1 where needed.
        width: What the adapter takes: 512.
        raw: Whether it takes vectors as the network gives them, or of length 1.
        where: The adapter, for messages.

    Raises:
        RequestError: It is of another width or length.
    """
    vector = face.embedding if isinstance(face, Face) else face
    if vector.size != width:
        raise RequestError(
            f"{where} takes identities of width {width}",
            found=f"{vector.size} numbers",
            remedy="use the embedding of an ArcFace network (insightface: face.normed_embedding)",
        )
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if raw and length < _LEAST_RAW:
        raise RequestError(
            f"{where} takes identities as the face network gives them",
            found=f"a vector of length {length:.3g}; they are 10 to 30 long",
            remedy="pass face.embedding, not face.normed_embedding",
        )
    if raw:
        return vector
    if isinstance(face, Face) and length > 0.0:
        return np.asarray(vector / length, dtype=np.float32)
    if abs(length - 1.0) > _UNIT:
        raise RequestError(
            f"{where} takes identities of length 1",
            found=f"a vector of length {length:.3g}",
            remedy="pass face.normed_embedding, or ipa.Face(embedding)",
        )
    return vector


def _vector(given: Any, where: str) -> Floats:
    if not isinstance(given, np.ndarray) or not np.issubdtype(given.dtype, np.floating):
        kind = getattr(given, "dtype", type(given).__name__)
        raise RequestError(
            f"{where} must be ipa.Face or a numpy array of floats, or a list of them",
            found=str(kind),
        )
    if given.ndim != 1 or not given.size:
        raise RequestError(f"{where} must be a vector per face", found=f"shape {given.shape}")
    if not np.isfinite(given).all():
        raise RequestError(f"{where} holds NaN or infinity")
    vector = np.array(given, dtype=np.float32)
    vector.setflags(write=False)
    return vector
