"""Runs of diffusers and of ours, watched: which classes ran, and the latents after every step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np

from ipa.pipeline.run import Run

_CONTROLLED = ("ControlNetImg2Img", "ControlNetInpaint")
JUDGES = tuple(
    f"StableDiffusion{xl}{kind}Pipeline"
    for kind in ("", "Img2Img", "Inpaint", "ControlNet", "Adapter", *_CONTROLLED)
    for xl in ("", "XL")
)
"""diffusers' pipelines that a run may be held to."""


@dataclass
class Seen:
    """What was seen of one run.

    Attributes:
        judge: diffusers' pipeline and its scheduler, by their classes; "" for ours.
        latents: After every evaluation; of fewer where the pipeline tells no more.
    """

    judge: str = ""
    latents: list[np.ndarray] = field(default_factory=list)


@contextmanager
def their_steps() -> Iterator[Seen]:
    """Within it, one of `JUDGES` is to run once."""
    seen = Seen()
    with ExitStack() as stack:
        for name in JUDGES:
            kind = getattr(diffusers, name)
            stack.enter_context(patch.object(kind, "__call__", _watched(kind.__call__, seen)))
        yield seen


def _watched(call: Callable[..., Any], seen: Seen) -> Callable[..., Any]:
    is_modern = "callback_on_step_end" in inspect.signature(call).parameters

    def watched(pipe: Any, *arguments: Any, **options: Any) -> Any:
        own = options.pop("callback_on_step_end", None)

        def keep(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            seen.latents.append(tensors["latents"].numpy().copy())
            return tensors if own is None else own(pipe, step, t, tensors)

        def keep_formerly(step: int, t: Any, latents: Any) -> None:
            seen.latents.append(latents.numpy().copy())

        options |= {"callback_on_step_end": keep} if is_modern else {"callback": keep_formerly}
        out = call(pipe, *arguments, **options)
        seen.judge = f"{type(pipe).__name__}, {type(pipe.scheduler).__name__}"
        if "set_timesteps" in vars(pipe.scheduler):  # see `pipelines.started_at_the_first`
            seen.judge += " with its begin index set to 0"
        return out

    return watched


@contextmanager
def our_steps() -> Iterator[Seen]:
    """Within it, one of our pipelines is to run once."""
    seen, denoise = Seen(), Run._denoise

    def watched(run: Run, *arguments: Any) -> Iterator[tuple[int, np.ndarray]]:
        for done, latents in denoise(run, *arguments):
            seen.latents.append(latents.copy())
            yield done, latents

    with patch.object(Run, "_denoise", watched):
        yield seen
