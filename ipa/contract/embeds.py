"""What an image encoder said about pictures: a value to keep, to combine, and to prompt with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import embeds_file
from .adapter import Feature
from .combining import CONCAT, combined
from .errors import RequestError

Floats: TypeAlias = npt.NDArray[np.float32]

KEPT: tuple[Feature, ...] = ("embedding", "states")
_RANKS: Mapping[Feature, int] = {"embedding": 2, "states": 3}


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedsOrigin:
    """Where features come from, and so which adapters can read them.

    Attributes:
        feature: The kind of adapter: one that takes the pooled "embedding", or the "states".
        encoder: The image encoder in words, for messages.
        encoder_sha256: Of the encoder's weights: `ipa.prepare.encoders.fingerprint`.
        preprocessing_sha256: Of the settings that made pictures into its pixels.
    """

    feature: Feature
    encoder: str
    encoder_sha256: str
    preprocessing_sha256: str

    def check(self, needed: EmbedsOrigin, what: str) -> None:
        """Raise RequestError, with what was found and what is needed, unless they agree."""
        for name, words in (
            ("feature", "features of another kind"),
            ("encoder_sha256", "another image encoder"),
            ("preprocessing_sha256", "another preprocessing"),
        ):
            own, other = getattr(self, name), getattr(needed, name)
            if own != other:
                raise RequestError(
                    f"{what} come from {words} than this adapter needs",
                    found=f"{self.encoder}, {name} {own[:16]}; needed: {needed.encoder}, "
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
        conditional: (N, P) pooled embeddings, or (N, T, C) states; float32, one row a picture.
        unconditional: What the unconditional half of guidance is given: as `conditional`, with N
            rows, or one row for all.
        origin: Where they come from.
    """

    conditional: Floats = field(repr=False)
    unconditional: Floats = field(repr=False)
    origin: EmbedsOrigin

    def __post_init__(self) -> None:
        for name in ("conditional", "unconditional"):
            array = _floats(getattr(self, name), f"ImageEmbeds.{name}", _RANKS[self.origin.feature])
            object.__setattr__(self, name, array)
        (count, *shape), (rows, *other) = self.conditional.shape, self.unconditional.shape
        if shape != other or rows not in (1, count):
            raise RequestError(
                "the unconditional features do not fit the conditional ones",
                found=f"{self.unconditional.shape} beside {self.conditional.shape}",
                remedy="one row for all pictures, or one for each",
            )

    def __len__(self) -> int:
        return len(self.conditional)

    def combine(self, mode: str, weights: Sequence[float] | None = None) -> ImageEmbeds:
        """Several pictures as one, before the projector; "concat" keeps them side by side.

        Args:
            mode: "concat", "add", "subtract" (the first less the mean of the others), "average",
                "norm average", "max" or "min"; see `ipa.contract.combining`.
            weights: One per picture, on its features; an average is divided by their sum.

        Returns:
            One row, and the first unconditional row, as in ComfyUI; for "concat" all rows.

        Raises:
            RequestError: The mode is unknown, or the weights do not fit.
        """
        features = combined(self.conditional, mode, weights)
        nothing = self.unconditional if mode == CONCAT else self.unconditional[:1]
        return replace(self, conditional=features, unconditional=nothing)

    def against(self, negative: ImageEmbeds) -> ImageEmbeds:
        """The same pictures, steered away from others: those replace the unconditional features.

        With fewer negative pictures than pictures the last is repeated; more are left out.

        Raises:
            RequestError: They are of another encoder or kind.
        """
        negative.origin.check(self.origin, "the negative embeds")
        rows = np.minimum(np.arange(len(self)), len(negative) - 1)
        return replace(self, unconditional=negative.conditional[rows])

    @staticmethod
    def join(several: Sequence[ImageEmbeds]) -> ImageEmbeds:
        """The pictures of several embeds in one, in order; as if encoded together.

        Raises:
            RequestError: There are none, or they are of different encoders or kinds.
        """
        if not several:
            raise RequestError("embeds to join are needed", found="an empty list")
        for embeds in several[1:]:
            embeds.origin.check(several[0].origin, "embeds that are to be joined")
        nothing = several[0].unconditional[:1]
        if not all((embeds.unconditional == nothing).all() for embeds in several):
            nothing = np.concatenate([embeds.unconditional_rows() for embeds in several])
        conditional = np.concatenate([embeds.conditional for embeds in several])
        return replace(several[0], conditional=conditional, unconditional=nothing)

    def unconditional_rows(self) -> Floats:
        """One unconditional row for each picture."""
        return np.broadcast_to(self.unconditional, self.conditional.shape)

    def to_diffusers(self, *, guided: bool = True) -> Floats:
        """One entry of diffusers' `ip_adapter_image_embeds`: (2, N, …), the negative row first.

        Args:
            guided: False gives (1, N, …), as diffusers needs it at a guidance scale of 1.
        """
        halves = [self.unconditional_rows(), self.conditional]
        return np.stack(halves if guided else halves[1:])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file with the hashes of encoder and preprocessing, whole or not.

        Raises:
            RequestError: It cannot be written there.
        """
        tensors = {"conditional": self.conditional, "unconditional": self.unconditional}
        about = {entry.name: getattr(self.origin, entry.name) for entry in fields(self.origin)}
        embeds_file.write(path, tensors, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ImageEmbeds:
        """Read what `save` wrote. Whether an adapter can use it is checked when one is asked to.

        Raises:
            CheckpointError: The file is missing, damaged, or holds something else.
        """
        names = [entry.name for entry in fields(EmbedsOrigin)]
        tensors, about = embeds_file.read(path, ("conditional", "unconditional"), names)
        with embeds_file.described(path):
            origin = EmbedsOrigin(feature=check_feature(about.pop("feature")), **about)
            return cls(**tensors, origin=origin)


def check_feature(feature: str) -> Feature:
    """The name of a kind of features that can be kept. Raises RequestError for another."""
    for known in KEPT:
        if feature == known:
            return known
    raise RequestError("no such kind of image features", found=repr(feature))


def _floats(array: Any, name: str, rank: int) -> Floats:
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
        kind = getattr(array, "dtype", type(array).__name__)
        raise RequestError(f"{name} must be a numpy array of floats", found=str(kind))
    if array.ndim != rank or 0 in array.shape:
        needed = {2: "(pictures, width)", 3: "(pictures, tokens, width)"}[rank]
        raise RequestError(f"{name} must have the shape {needed}", found=str(array.shape))
    if not (np.abs(array) <= np.finfo(np.float32).max).all():  # false for NaN too
        raise RequestError(f"{name} holds NaN, infinity, or more than float32 can")
    own = np.array(array, dtype=np.float32)
    own.setflags(write=False)
    return own
