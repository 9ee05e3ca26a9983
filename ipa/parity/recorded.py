"""A run of the demo that is kept as data: every machine and backend holds itself against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ipa import demo
from ipa.arrays import Floats
from ipa.errors import CaptureError
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.capture_file import read
from ipa.parity.capture.header import header_of
from ipa.parity.capture.sketch import Kept, Sketch
from ipa.parity.compare.comparing_tap import ComparingTap
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.compatibility import check_compatible
from ipa.parity.compare.limits import FACTOR, Limits
from ipa.pipeline.loading import load
from ipa.prepare.images.pictures import open_image, to_rgb
from ipa.request.control import Control
from ipa.request.image_prompt import ImagePrompt
from ipa.request.result import Progress

if TYPE_CHECKING:
    from ipa.pipeline.pipeline import Pipeline
    from ipa.watching import CancelSignal

WHOLE = (
    *("start/latents", "text.*/states", "image.0/tokens.*"),
    *("step.*/latents", "decode/image"),
)
"""Stages that are kept whole, so that a run can be given them: an error stays in its step."""

SKETCHED = (
    *("text.*/text_encoder.embeddings", "text.*/text_encoder.layers.?", "image.0/pixels"),
    *("image.0/image_encoder.embeddings", "image.0/image_encoder.layers.[012]"),
    *("image.0/projector.proj_in", "image.0/projector.layers.?", "image.0/features.*"),
    *("condition/image.*", "condition/unet.*", "condition/*_cond_embedding"),
    *("step.000/unet.conv_in", "step.000/*.resnets.?", "step.000/*.attentions.?"),
    *("step.000/unet.*.attn?", "step.000/unet.*.transformer_blocks.0.ff"),
    *("step.000/unet.*.attn2.text", "step.000/unet.*.attn2.image.0", "step.000/*samplers.0.conv"),
    *("step.000/unet.conv_norm_out", "step.000/controlnet.edges.controlnet_*_block*"),
    *("step.*/unet.*_blocks.?", "step.*/unet.mid_block"),
    *("step.*/prediction", "step.*/guided", "step.*/denoised"),
    *("decode/vae.decoder.conv_in", "decode/*.resnets.?", "decode/*.attentions.0"),
    "decode/vae.decoder.conv_norm_out",
)
"""Stages that are kept as sketches."""

FACTORS = {"float32": FACTOR, "float16": 4.0}
"""How many times its floor a stage may be off. Measured with kernels for AVX-512, AVX2 and SSE: in
float32 MLX at most 3.0, torch 3.0; in float16 MLX 1.6, torch 1.2. Not yet measured on a GPU."""

_STEPS, _GUIDANCE, _SEED, _SCALE, _CONTROL = 8, 4.0, 7, 0.8, 0.7
_EDGE = 0.14


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The recorded run, by torch in float32, and what rounding makes of its stages.

    Attributes:
        capture: The run.
        floors: By precision and stage, relative L2 of the torch backend: float64 against this run,
            float16 against this run; each step from this run's latents, as in `hold`.
    """

    capture: Capture
    floors: Mapping[str, Mapping[str, float]] = field(repr=False)

    def limits(self, dtype: str) -> Limits:
        """The limits for a float32 run against this, or a float16 run against its backend's own."""
        return Limits(dtype, self.floors[dtype], FACTORS[dtype])


def recorded() -> Recorded:
    """The recorded run of this package. Raises CaptureError if it is damaged."""
    folder = demo.recorded()
    try:
        floors = json.loads((folder / "floors.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CaptureError(
            f"{folder / 'floors.json'} is damaged", found=str(error), remedy="install again"
        ) from error
    return Recorded(read(folder / "run.safetensors"), floors)


def open_demo(backend: str | None, dtype: str | None = None, device: str | None = None) -> Pipeline:
    """The demo model with what the run needs; arguments as of `ipa.load`."""
    pipe = load("demo", backend=backend, dtype=dtype, device=device)
    pipe.load_ip_adapter(demo.adapter("plus"), name="plus")
    pipe.load_controlnet(demo.controlnet(), name="edges")
    return pipe


def arguments() -> dict[str, Any]:
    """The arguments of the run's call: a picture and words, guidance, edges to follow."""
    style, content = (to_rgb(open_image(demo.references()[number])) for number in (7, 4))
    return {
        "prompt": "a star",
        "image_prompts": [ImagePrompt(style, adapter="plus", scale=_SCALE)],
        "controls": [Control(_edges(content), name="edges", scale=_CONTROL)],
        "num_inference_steps": _STEPS,
        "guidance_scale": _GUIDANCE,
        "seed": _SEED,
    }


def _edges(picture: Image.Image) -> Floats:
    """A picture's edges, where neighbours differ, as the demo's ControlNet was trained with."""
    values = np.pad(np.asarray(picture) / 255, ((0, 1), (0, 1), (0, 0)), "edge")
    rows, columns = (np.abs(np.diff(values, axis=axis)).max(-1) for axis in (0, 1))
    edges: Floats = (np.maximum(rows[:, :-1], columns[:-1]) > _EDGE).astype(np.float32)
    return edges


class _Beside(ComparingTap):
    """A tap that puts the recorded whole stages in, and keeps the run's own in that form."""

    def __init__(
        self, reference: Mapping[str, Kept], limits: Limits, inputs: Mapping[str, Kept]
    ) -> None:
        super().__init__(reference, limits)
        self._inputs = inputs
        self.made: dict[str, Kept] = {}

    def wants(self, stage: str) -> bool:
        """See `Tap`."""
        return stage in self._reference

    def __call__(self, stage: str, array: Floats) -> Floats | None:
        """See `Tap`."""
        super().__call__(stage, array)
        is_sketched = isinstance(self._reference[stage], Sketch)
        self.made[stage] = Sketch.of(array) if is_sketched else array
        instead = self._inputs[stage]
        return None if isinstance(instead, Sketch) else np.asarray(instead, np.float32)


def hold(
    pipe: Pipeline,
    reference: Capture,
    limits: Limits,
    *,
    inputs: Capture | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelSignal | None = None,
) -> tuple[Comparison, Capture]:
    """Repeat the recorded run, every step from the recorded latents, and compare.

    Args:
        pipe: Of `open_demo`.
        reference: The recorded capture, or one of this function's.
        limits: What its stages may be off.
        inputs: The recorded capture, where the reference is another.
        on_progress: Called with every event, in this thread.
        cancel: Asked between steps whether to stop.

    Returns:
        What was found, and this run, of the same stages.

    Raises:
        IncompatibleCaptures: The demo's weights are not those of the reference.
    """
    hashes = pipe.fingerprints()
    here = replace(reference.header, fingerprints=hashes)
    check_compatible(reference, Capture(here, reference.stages))
    tap = _Beside(reference.stages, limits, (inputs or reference).stages)
    result = pipe(**arguments(), tap=tap, on_progress=on_progress, cancel=cancel)
    made = Capture(header_of(pipe, hashes, result), tap.made)
    found = Comparison(
        a=reference.header.side,
        b=made.header.side,
        mode="teacher-forced",
        request=made.header.request,
        differences=tuple(tap.differences),
        only_a=tap.missing(),
    )
    return found, made
