"""What a stage of a run computes, by shapes alone: what a backend foretells its memory from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ipa.model.adapter import AdapterSpec
from ipa.model.clip import ClipVisionSpec
from ipa.model.control_files import ControlSpec

from .vae_memory import VaeMemory


@dataclass(frozen=True, kw_only=True, slots=True)
class TextWork:
    """One prompt through the text encoders, in chunks of `tokens`."""

    chunks: int = 1
    tokens: int = 77


@dataclass(frozen=True, kw_only=True, slots=True)
class ImagesWork:
    """Pictures through an image encoder at once, and an adapter's projector.

    `encoder` is None for an adapter that takes the identity of a face alone, and for embeds.
    """

    adapter: AdapterSpec
    encoder: ClipVisionSpec | None
    pictures: int
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionWork:
    """Keys and values of a text and of image prompts, and the pictures of controls.

    Attributes:
        rows: 2 if guided, else 1.
        text_tokens: Of all chunks.
        image_tokens: Of each image prompt, all its pictures together.
        controls: Each control, in order.
        height: Of the picture, in pixels.
        width: Likewise.
    """

    rows: int
    text_tokens: int
    image_tokens: tuple[int, ...] = ()
    controls: tuple[ControlSpec, ...] = ()
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseWork:
    """One evaluation of the network with all that acts in it, and the step after it.

    `pictures` are made at once; `masked` says for each image prompt whether it has masks. `branch`
    is that whose deep feature is kept for steps that reuse it, `past` the number of last features
    that are there when the last is computed. See `ConditionWork` for the rest.
    """

    pictures: int
    rows: int
    text_tokens: int
    image_tokens: tuple[int, ...] = ()
    masked: tuple[bool, ...] = ()
    controls: tuple[ControlSpec, ...] = ()
    branch: int | None = None
    past: int = 0
    height: int
    width: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeWork:
    """A picture of height × width pixels through the VAE, one way or the other."""

    way: Literal["encode", "decode"]
    height: int
    width: int
    memory: VaeMemory = None


Work: TypeAlias = TextWork | ImagesWork | ConditionWork | DenoiseWork | VaeWork


@dataclass(frozen=True, slots=True)
class WorkMemory:
    """The memory of some work in bytes: the most that it takes beside its inputs, and its results.

    `results` are what it leaves for later stages, which the peak counts too.
    """

    peak: int
    results: int = 0
