"""Results of a pipeline: progress while it works, a result when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from ipa.watching import Unit

from .influence import Influence
from .references import References

Stage = Literal["download", "load", "encode", "denoise", "decode", "done"]
OnProgress: TypeAlias = "Callable[[Progress], None]"
"""A function that is told of each event."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The outcome of one call.

    Attributes:
        images: PIL images, or one float32 array (N, H, W, 3) in [0, 1] for output_type="np"; empty
            for "latent".
        latents: float32 (N, C, H/f, W/f), unscaled, as diffusers' output_type="latent".
        info: JSON-able: the request, the model, versions, timings in seconds, peak memory in bytes,
            and warnings.
        influence: Shares of the image prompts, if influence=True; else None.
        references: All pictures that a rerun needs, if embed_references=True; else None.
    """

    images: list[Image.Image] | npt.NDArray[np.float32]
    latents: npt.NDArray[np.float32] = field(repr=False)
    info: dict[str, Any] = field(repr=False)
    influence: Influence | None = field(default=None, repr=False)
    references: References | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One event of a run, or of what takes long before it.

    Attributes:
        stage: Of a run "encode", "denoise", "decode", then "done" once, with the result. Of what is
            loaded "download" and "load", of pictures that are encoded alone "encode"; an engine's
            job has them before its run, where something had to be loaded.
        step: How much of the stage is finished; of "denoise", evaluations of the network.
        total: How much there is; 0 where it is not known. It may grow while files are found.
        unit: What both count: "steps", "bytes", "parts" (files, networks), "pictures".
        eta_s: Estimated seconds until the last denoising step; None before the first is timed.
        preview: A small picture of the current estimate, where one is made.
        result: The result, on the last event.
        notes: What is to be known before it starts, on the first event: that it takes a lot of
            memory, and how much.
    """

    stage: Stage
    step: int
    total: int
    unit: Unit = "steps"
    eta_s: float | None = None
    preview: Image.Image | None = None
    notes: tuple[str, ...] = ()
    result: Result | None = None
