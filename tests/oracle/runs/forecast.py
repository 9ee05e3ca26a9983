"""Forecast features, judged by a restatement of Spectrum on diffusers' own pipelines."""

from __future__ import annotations

from functools import partial
from typing import Any

from oracle import models, trajectories
from oracle.runs.suite import of_trajectories
from oracle.workshop import XL

MODELS = {
    "sd": models.Tiny(unet=models.FOUR_LEVELS),
    "odd": models.Tiny(),
    "xl": XL,
    "told": models.Tiny(unet=models.UNET | {"time_cond_proj_dim": 12}),
}
Case = partial(trajectories.Case, adapters=("linear",), pictures=((0,),), scale=0.8)


def _forecast(model: str = "sd", **arguments: Any) -> Any:
    return Case(model=model, arguments={"scheduler": "ddim", "forecast": True} | arguments)


CASES = {
    "SD 1.x": _forecast(),
    "SDXL": _forecast("xl", scheduler="euler"),
    "guidance told": _forecast("told"),
    "text alone": trajectories.Case("sd", arguments={"scheduler": "dpmpp_2m", "forecast": True}),
    "two adapters, odd size": trajectories.Case(
        "odd",
        ("linear", "plus"),
        ((0, 1), (2,)),
        scale=[0.7, 0.4],
        arguments={"forecast": True, "width": 72, "height": 88, "num_images": 2},
    ),
    "a wide window at once": _forecast(forecast_window=3, forecast_growth=0, forecast_warmup=1),
    "a window that grows": _forecast(forecast_growth=2.5, forecast_warmup=2),
    "a window of one, that grows": _forecast(forecast_window=1, forecast_growth=0.5),
    "no guidance": _forecast(guidance_scale=1.0),
    "heun": _forecast(scheduler="heun", num_inference_steps=6),
    "kdpm2_ancestral": _forecast("odd", scheduler="kdpm2_ancestral", num_inference_steps=6),
    "pndm": _forecast(scheduler="pndm"),
    "guidance at the start": _forecast(guidance_end=0.5, num_images=2),
}
MORE = {
    f"{kind}, growth {growth}": _forecast(
        model,
        scheduler=scheduler,
        forecast_growth=growth,
        num_inference_steps=50,
    )
    for kind, model, scheduler in (
        ("SD 1.x, ddim", "sd", "ddim"),
        ("SD 1.x, dpmpp_2m_karras", "sd", "dpmpp_2m_karras"),
        ("SDXL, euler", "xl", "euler"),
    )
    for growth in (0.0, 0.75, 3.0)
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 11,
    "guidance_scale": 3.0,
    "width": 48,
    "height": 32,
    "seed": 3,
}
# Measured over the cases: torch 9.9e-7, mlx 1.1e-6.
LIMITS = {"torch": 5e-6, "mlx": 5e-6}
SUITE = of_trajectories("Forecast features", MODELS, CASES, SHARED, MORE, LIMITS)
