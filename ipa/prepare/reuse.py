"""At which steps the deep part of the network is taken from an earlier one (DeepCache)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipa.errors import RequestError
from ipa.model.folder import ModelFolder
from ipa.model.unet import UNetSpec
from ipa.request.request import Request


def up_layers(spec: UNetSpec) -> int:
    """The layers of a UNet's way up: as many branches as there are to cut it at."""
    return sum(count + 1 for count in spec.layers)


def full_steps(
    request: Request, model: ModelFolder, guided_steps: Sequence[bool]
) -> tuple[bool, ...]:
    """Whether all of the network is computed, at each evaluation of a run.

    Every `cache_interval`-th, counted from the run's first, as in the authors' code. And a guided
    one if the last full one was not guided: that kept nothing of the unconditional half.

    Raises:
        RequestError: The network has no such branch.
    """
    most = up_layers(model.unet) - 1
    if request.cache_branch > most:
        raise RequestError(
            f"cache_branch must be from 0 to {most} for this model",
            found=str(request.cache_branch),
            remedy="0 computes the least in a step between, and changes the most",
        )
    return tuple(_full(request.cache_interval, guided_steps))


def _full(interval: int, guided_steps: Sequence[bool]) -> Iterator[bool]:
    has_both = False
    for number, guided in enumerate(guided_steps):
        is_full = number % interval == 0 or (guided and not has_both)
        has_both = guided if is_full else has_both
        yield is_full


def reuse_warnings(request: Request, full: Sequence[bool]) -> list[str]:
    """Warnings about what of a request's reuse has no effect."""
    if request.cache_interval == 1 and request.cache_branch:
        return ["cache_interval is 1, all steps are full: cache_branch has no effect."]
    if request.cache_interval > 1 and all(full):
        return [f"cache_interval has no effect: each of {len(full)} steps is computed in full."]
    return []
