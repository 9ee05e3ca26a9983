"""Stock diffusers, run on the same folder, the same pictures and the same seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.guiders import ClassifierFreeGuidance

from ipa_torch.files.weights import quiet
from oracle.forecast import forecast as forecasting
from oracle.kept import Kept
from oracle.reuse import reused
from oracle.schedulers import diffusers_scheduler
from oracle.scipy_stand_in import scipy_or_stand_in

_LOADED = Kept()


def diffusers_pipeline(folder: Path, adapters: Sequence[Path] = ()) -> DiffusionPipeline:
    """A stock pipeline of the model's kind in float32 on the CPU, with original IP-Adapters."""
    return _LOADED.copy(tuple(adapters), folder, lambda: _load(folder, adapters))


def _load(folder: Path, adapters: Sequence[Path]) -> DiffusionPipeline:
    with quiet():
        pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        if adapters:
            pipe.load_ip_adapter(
                [str(path.parent) for path in adapters],
                subfolder=[""] * len(adapters),
                weight_name=[path.name for path in adapters],
                image_encoder_folder=None,
            )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_diffusers(
    pipe: DiffusionPipeline,
    prompt: str | Sequence[str] | None,
    *,
    images: Any = None,
    embeds: Any = None,
    scale: Any = None,
    seed: int = 0,
    scheduler: str | None = None,
    num_images: int = 1,
    output_type: str = "latent",
    one_generator: bool = False,
    guidance_start: float = 0.0,
    guidance_end: float = 1.0,
    cache_interval: int = 1,
    cache_branch: int = 0,
    forecast: bool = False,
    **arguments: Any,
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Our arguments, in diffusers' words: latents (N, C, h, w), or pictures (N, H, W, 3).

    Picture number p of all takes the generator of seed + p; or all take the same. An interval of
    guidance is for samplers that evaluate the network once in a step. Where guidance begins after
    steps whose deep part is reused, the first step of it is a full one.
    """
    if scheduler is not None:
        # Not diffusers' default for pixels, where a file says nothing: see `pipeline_config`.
        config = {"clip_sample": False} | dict(pipe.scheduler.config)
        named = diffusers_scheduler(scheduler, config)
        pipe.scheduler = started_at_the_first(named, arguments["num_inference_steps"])
    if scale is not None:
        pipe.set_ip_adapter_scale(scale)
    more: list[int] = []
    if (guidance_start, guidance_end) != (0.0, 1.0):
        more = [math.floor(guidance_start * arguments["num_inference_steps"])]
        arguments |= _interval(arguments, guidance_start, guidance_end)
    count = num_images * (len(prompt) if isinstance(prompt, (list, tuple)) else 1)
    generators = [torch.Generator("cpu").manual_seed(seed + n) for n in range(count)]
    windows = {
        name: arguments.pop(f"forecast_{name}")
        for name in ("window", "growth", "warmup")
        if f"forecast_{name}" in arguments
    }
    saving = (
        forecasting(pipe, **windows)
        if forecast
        else reused(pipe, cache_interval, cache_branch, scheduler, more)
    )
    with saving:
        out = pipe(
            prompt,
            ip_adapter_image=images,
            ip_adapter_image_embeds=embeds,
            generator=generators[0] if one_generator else generators,
            num_images_per_prompt=num_images,
            output_type=output_type,
            **arguments,
        ).images
    return out.numpy() if isinstance(out, torch.Tensor) else np.asarray(out)


def _interval(arguments: Any, start: float, end: float) -> dict[str, Any]:
    """A guidance scale that is as good as 1 where diffusers' guider would not guide.

    Just above 1 its pipelines compute both halves, and the sum of them is the conditional one.
    """
    count = arguments["num_inference_steps"]
    guider = ClassifierFreeGuidance(arguments["guidance_scale"], start=start, stop=end)

    def scale(step: int) -> float:
        guider.set_state(step=step, num_inference_steps=count, timestep=torch.tensor(0))
        return guider.guidance_scale if guider._is_cfg_enabled() else math.nextafter(1.0, 2.0)

    def next_step(pipe: Any, step: int, _: Any, __: Any) -> dict[str, Any]:
        pipe._guidance_scale = scale(step + 1)
        return {}

    return {"guidance_scale": scale(0), "callback_on_step_end": next_step}


def started_at_the_first(scheduler: Any, steps: int) -> Any:
    """The same, but that a run begins with the first of its timesteps if two of them are equal.

    diffusers looks the first timestep up and takes the second place where it stands: over 50 steps
    with beta levels its pipelines then run out of levels, an IndexError. Otherwise untouched.
    """
    with scipy_or_stand_in():
        scheduler.set_timesteps(steps)
    if len(scheduler.timesteps) < 2 or scheduler.timesteps[0] != scheduler.timesteps[1]:
        return scheduler
    plain = scheduler.set_timesteps

    def set_timesteps(*arguments: Any, **options: Any) -> None:
        plain(*arguments, **options)
        scheduler.set_begin_index(0)

    scheduler.set_timesteps = set_timesteps
    return scheduler
