"""The parts of an image prompt: each is attended to in one softmax.

Several pictures are joint, or each for itself, as a profile says (D3, D4 and D10 of
`profiles.DECIDED`); see its fields `image_list`, `masked_pictures` and `picture_scales`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from ipa.errors import RequestError
from ipa.request.combining import CONCAT
from ipa.request.image_prompt import ImagePrompt
from ipa.request.profiles import Profile
from ipa.request.scales import Scale


@dataclass(frozen=True, slots=True)
class PromptPart:
    """An image prompt with one mask and one scale, or none, for all of its pictures.

    Attributes:
        prompt: It.
        weights: A factor on each picture's features before the projector, or None.
    """

    prompt: ImagePrompt
    weights: tuple[float, ...] | None = None


def listed(prompt: ImagePrompt, profile: Profile, *, joins_faces: bool = False) -> ImagePrompt:
    """An image prompt, `batched` if its profile takes a list of pictures for a batch.

    Args:
        prompt: With pictures, rows of embeds, or faces alone.
        profile: Whose meaning of a list is followed.
        joins_faces: Whether its adapter takes several faces of one person at once: Portrait.
    """
    if not isinstance(prompt, ImagePrompt):  # Request tells of it
        return prompt
    is_joint = profile.image_list == "joint" or joins_faces
    if is_joint or prompt.count < 2 or prompt.combine != CONCAT:
        return prompt
    return replace(prompt, batched=True)


def prompt_parts(prompt: ImagePrompt, profile: Profile, default: Scale) -> tuple[PromptPart, ...]:
    """The parts of an image prompt, each attended to in a softmax of its own.

    Args:
        prompt: Any image prompt.
        profile: Whose meaning of several pictures is followed.
        default: The adapter's scale.

    Raises:
        RequestError: The profile's program cannot do what is asked.
    """
    weights = None
    if profile.picture_scales == "features" and isinstance(prompt.scale, tuple):
        weights = _feature_weights(prompt.scale, profile, default)
        prompt = replace(prompt, scale=1.0)
    if profile.masked_pictures == "joint" and isinstance(prompt.mask, tuple):
        prompt = replace(prompt, mask=_only_mask(prompt.mask, profile))
    parts = prompt.parts
    if profile.masked_pictures == "separate" and len(parts) == 1 and prompt.mask is not None:
        parts = _each_alone(prompt)
    return tuple(PromptPart(part, weights) for part in parts)


def _feature_weights(scales: Any, profile: Profile, default: Scale) -> tuple[float, ...]:
    chosen = [default if scale is None else scale for scale in scales]
    if any(isinstance(scale, Mapping) for scale in chosen):
        raise RequestError(
            f"a list of scales multiplies features under the profile {profile.name!r}: numbers",
            found="scales by block or by site in a list",
            remedy="pass numbers in the list and layers= beside it, or an image prompt per picture",
        )
    return tuple(cast("float", scale) for scale in chosen)


def _only_mask(masks: Any, profile: Profile) -> Any:
    if len(masks) > 1:
        raise RequestError(
            f"several pictures share one mask under the profile {profile.name!r}, in one softmax",
            found=f"a list of {len(masks)} masks",
            remedy="pass an image prompt per picture, each with its mask",
        )
    return masks[0]


def _each_alone(prompt: ImagePrompt) -> tuple[ImagePrompt, ...]:
    """A prompt per picture, or per row of embeds; a prompt that is combined stays one."""
    if prompt.combine != CONCAT:
        return (prompt,)
    return tuple(prompt.share(number) for number in range(prompt.count))
