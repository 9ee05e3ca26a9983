"""Image embeds: an encoder's features, to keep, to combine, and to prompt with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ipa.arrays import Floats
from ipa.checks import checked
from ipa.errors import RequestError, shown
from ipa.model.adapter import Feature

from . import embeds_file
from .combining import CONCAT, combined

KEPT: tuple[Feature, ...] = ("embedding", "states", "face")


_RANKS: Mapping[Feature, int] = {"embedding": 2, "states": 3, "face": 2}


_PICTURES, _FACES = ("conditional", "unconditional"), ("conditional_face", "unconditional_face")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedsOrigin:
    """The origin of features, which tells the adapters that can read them.

    Attributes:
        feature: The kind of adapter: one that takes the pooled "embedding", the "states", or the
            identity of a "face" alone.
        encoder: The image encoder in words, for messages.
        encoder_sha256: Of the encoder's weights: `ipa.sources.encoders.fingerprint`.
        preprocessing_sha256: Of the settings that made pictures into its pixels.
    """

    feature: Feature
    encoder: str
    encoder_sha256: str
    preprocessing_sha256: str

    def check(self, needed: EmbedsOrigin, what: str) -> None:
        """Raise RequestError, with what was found and is needed, unless origins agree."""
        for name, words in (
            ("feature", "features of another kind"),
            ("encoder_sha256", "another image encoder"),
            ("preprocessing_sha256", "another preprocessing"),
        ):
            ours, other = getattr(self, name), getattr(needed, name)
            if ours != other:
                raise RequestError(
                    f"{what} come from {words} than this adapter needs",
                    found=f"{self.encoder}, {name} {ours[:16]}; needed: {needed.encoder}, "
                    f"{name} {other[:16]}",
                    remedy="encode the pictures again with this adapter and profile: "
                    "encode_image_prompt",
                )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageEmbeds:
    """An encoder's features of one or more pictures, as the adapter's projector takes them.

    What diffusers calls `ip_adapter_image_embeds`: nothing in it depends on the adapter's weights
    or the base model, so that every adapter of the same kind and encoder can use it.

    Attributes:
        conditional: (N, P) pooled embeddings or identities, or (N, T, C) states; float32, one row
            a picture.
        unconditional: What the unconditional half of guidance is given: as `conditional`, with N
            rows, or one row for all.
        origin: Where they come from.
        conditional_face: (N, P) identities beside states, for FaceID-Plus; None without.
        unconditional_face: As `unconditional`.
    """

    conditional: Floats = field(repr=False)
    unconditional: Floats = field(repr=False)
    origin: EmbedsOrigin
    conditional_face: Floats | None = field(default=None, repr=False)
    unconditional_face: Floats | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.origin, EmbedsOrigin):
            raise RequestError("ImageEmbeds.origin must be EmbedsOrigin", found=shown(self.origin))
        ranks = dict.fromkeys(_PICTURES, _RANKS[self.origin.feature])
        if self.conditional_face is not None:
            ranks |= dict.fromkeys(_FACES, 2)
        for name, rank in ranks.items():
            array = _floats(getattr(self, name), f"ImageEmbeds.{name}", rank)
            object.__setattr__(self, name, array)
        count = len(self.conditional)
        _check_halves(self.conditional, self.unconditional, count, "features")
        if self.conditional_face is not None and self.unconditional_face is not None:
            _check_halves(self.conditional_face, self.unconditional_face, count, "identities")
            if len(self.unconditional_face) not in (1, len(self.unconditional)):
                raise RequestError("unconditional identities are as many as unconditional features")

    def __len__(self) -> int:
        return len(self.conditional)

    def row(self, number: int) -> ImageEmbeds:
        """The embeds of one of the pictures."""
        parts: dict[str, Any] = {}
        for name in (*_PICTURES, *_FACES):
            rows = getattr(self, name)
            if rows is not None:
                parts[name] = rows if len(rows) == 1 else rows[number : number + 1]
        return replace(self, **parts)

    @checked
    def combine(self, mode: str, weights: Sequence[float] | None = None) -> ImageEmbeds:
        """Combine several pictures as one, before the projector; "concat" keeps them.

        Args:
            mode: "concat", "add", "subtract" (the first less the mean of the others), "average",
                "norm average", "max" or "min"; see `ipa.request.combining`.
            weights: One per picture, on its features; an average is divided by their sum.

        Returns:
            One row, and the first unconditional row, as in ComfyUI; for "concat" all rows.

        Raises:
            RequestError: The mode is unknown, or the weights do not fit.
        """
        first = slice(None) if mode == CONCAT else slice(1)
        joined = replace(
            self,
            conditional=combined(self.conditional, mode, weights),
            unconditional=self.unconditional[first],
            conditional_face=None,
            unconditional_face=None,
        )
        if self.conditional_face is None or self.unconditional_face is None:
            return joined
        identity = combined(self.conditional_face, mode, weights)
        return joined.with_faces(identity, self.unconditional_face[first])

    def with_faces(self, conditional: Floats, unconditional: Floats) -> ImageEmbeds:
        """The embeds with an identity beside each picture's states."""
        return replace(self, conditional_face=conditional, unconditional_face=unconditional)

    def against(self, negative: ImageEmbeds) -> ImageEmbeds:
        """The embeds with other pictures' features in place of the unconditional ones.

        With fewer negative pictures than pictures the last is repeated; more are left out.

        Raises:
            RequestError: They are of another encoder or kind.
        """
        _check_embeds([negative])
        negative.origin.check(self.origin, "the negative embeds")
        rows = np.minimum(np.arange(len(self)), len(negative) - 1)
        face = self.unconditional_face
        if negative.conditional_face is not None and face is not None:
            face = negative.conditional_face[rows]
        return replace(self, unconditional=negative.conditional[rows], unconditional_face=face)

    @staticmethod
    def join(several: Sequence[ImageEmbeds]) -> ImageEmbeds:
        """Join the pictures of several embeds, in order; as if encoded together.

        Raises:
            RequestError: There are none, or they are of different encoders or kinds.
        """
        _check_embeds(several)
        for embeds in several[1:]:
            embeds.origin.check(several[0].origin, "embeds that are to be joined")
        if len({embeds.conditional_face is None for embeds in several}) == 2:
            raise RequestError("embeds to join have all an identity beside them, or none")
        names = [*_PICTURES, *(() if several[0].conditional_face is None else _FACES)]
        parts: dict[str, Any] = {}
        for given, nothing in zip(names[::2], names[1::2], strict=True):
            parts[given] = np.concatenate([getattr(embeds, given) for embeds in several])
            first = getattr(several[0], nothing)[:1]
            if not all((getattr(embeds, nothing) == first).all() for embeds in several):
                shapes = [(getattr(e, nothing), getattr(e, given).shape) for e in several]
                first = np.concatenate([np.broadcast_to(rows, shape) for rows, shape in shapes])
            parts[nothing] = first
        return replace(several[0], **parts)

    def unconditional_rows(self) -> Floats:
        """One unconditional row for each picture."""
        return np.broadcast_to(self.unconditional, self.conditional.shape)

    @checked
    def to_diffusers(self, *, guided: bool = True) -> Floats:
        """An entry of diffusers' `ip_adapter_image_embeds`: (2, N, …), negative first.

        Args:
            guided: False gives (1, N, …), as diffusers needs it at a guidance scale of 1.
        """
        halves = [self.unconditional_rows(), self.conditional]
        return np.stack(halves if guided else halves[1:])

    @checked
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file with the hashes of encoder and preprocessing, whole or not.

        Raises:
            RequestError: It cannot be written there.
        """
        names = [n for n in (*_PICTURES, *_FACES) if getattr(self, n) is not None]
        tensors = {name: getattr(self, name) for name in names}
        about = {entry.name: getattr(self.origin, entry.name) for entry in fields(self.origin)}
        embeds_file.write(path, tensors, about)

    @classmethod
    @checked
    def load(cls, path: str | os.PathLike[str]) -> ImageEmbeds:
        """Read what `save` wrote. Whether an adapter can use it is checked when one is asked to.

        Raises:
            CheckpointError: The file is missing, damaged, or holds something else.
        """
        names = [entry.name for entry in fields(EmbedsOrigin)]
        tensors, about = embeds_file.read(path, [_PICTURES, (*_PICTURES, *_FACES)], names)
        with embeds_file.described(path):
            origin = EmbedsOrigin(feature=check_feature(about.pop("feature")), **about)
            return cls(**tensors, origin=origin)


def _check_embeds(given: object) -> None:
    if not isinstance(given, (list, tuple)) or not given:
        raise RequestError("a list of ImageEmbeds is needed", found=shown(given))
    for embeds in given:
        if not isinstance(embeds, ImageEmbeds):
            raise RequestError("embeds must be ImageEmbeds", found=type(embeds).__name__)


def _check_halves(conditional: Floats, unconditional: Floats, count: int, what: str) -> None:
    (pictures, *shape), (rows, *other) = conditional.shape, unconditional.shape
    if shape != other or pictures != count or rows not in (1, count):
        raise RequestError(
            f"the unconditional {what} do not fit the conditional ones",
            found=f"{unconditional.shape} beside {conditional.shape}, {count} pictures",
            remedy="one row for all pictures, or one for each",
        )


def check_feature(feature: str) -> Feature:
    """Check the name of a kind of features. Raises RequestError for another."""
    for kind in KEPT:
        if feature == kind:
            return kind
    raise RequestError("no such kind of image features", found=shown(feature))


def _floats(array: Any, name: str, rank: int) -> Floats:
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        kind = getattr(array, "dtype", type(array).__name__)
        raise RequestError(f"{name} must be a numpy array of floats", found=str(kind))
    if array.ndim != rank or 0 in array.shape:
        needed = {2: "(pictures, width)", 3: "(pictures, tokens, width)"}[rank]
        raise RequestError(f"{name} must have the shape {needed}", found=str(array.shape))
    if not (np.abs(array) <= np.finfo(np.float32).max).all():  # false for NaN too
        raise RequestError(f"{name} holds NaN, infinity, or more than float32 can")
    copy = np.array(array, dtype=np.float32)
    copy.setflags(write=False)
    return copy
