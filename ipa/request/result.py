"""Results of a pipeline: progress while it works, a result when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from .influence import Influence
from .references import References

Stage = Literal["load", "encode", "denoise", "decode", "done"]


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
    info: dict[str, Any]
    influence: Influence | None = field(default=None, repr=False)
    references: References | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One event of a run.

    Attributes:
        stage: "encode", "denoise", "decode", then "done" once, with the result. Of an engine's job
            "load" before them, where something had to be loaded.
        step: Steps of the stage that are finished; of "denoise", evaluations of the network.
        total: Steps of the stage.
        eta_s: Estimated seconds until the last denoising step; None before the first is timed.
        preview: A small picture of the current estimate, where one is made.
        result: The result, on the last event.
        notes: What is to be known before it starts, on the first event: that it takes a lot of
            memory, and how much.
    """

    stage: Stage
    step: int
    total: int
    eta_s: float | None = None
    preview: Image.Image | None = None
    notes: tuple[str, ...] = ()
    result: Result | None = None
