"""Deep-feature reuse, judged by its authors' own extension of diffusers' pipelines."""

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
    "one layer": models.Tiny(unet=models.UNET | {"layers_per_block": 1}),
    "told": models.Tiny(unet=models.UNET | {"time_cond_proj_dim": 12}),
}
Case = partial(trajectories.Case, adapters=("linear",), pictures=((0,),), scale=0.8)
LAST = {"sd": 11, "xl": 8, "one layer": 5}


def _reused(interval: int, branch: int = 0, model: str = "sd", **arguments: Any) -> Any:
    own = {"scheduler": "ddim", "cache_interval": interval, "cache_branch": branch}
    return Case(model=model, arguments=own | arguments)


CASES = {
    **{
        f"every {interval}, branch {branch}, {model}": _reused(interval, branch, model)
        for model in ("sd", "xl")
        for interval, branch in ((2, 0), (3, 1), (5, 4), (9, 0))
    },
    **{
        f"branch {branch}, {model}": _reused(2, branch, model)
        for model, last in LAST.items()
        for branch in (2, 3, last)
    },
    "text alone": trajectories.Case("sd", arguments={"scheduler": "dpmpp_2m", "cache_interval": 2}),
    "text alone, SDXL": trajectories.Case(
        "xl", arguments={"scheduler": "euler", "cache_interval": 3, "cache_branch": 1}
    ),
    "two adapters, odd size": trajectories.Case(
        "odd",
        ("linear", "plus"),
        ((0, 1), (2,)),
        scale=[0.7, 0.4],
        arguments={"cache_interval": 2, "cache_branch": 4, "width": 72, "height": 88}
        | {"num_images": 2},
    ),
    "no guidance": _reused(2, 1, guidance_scale=1.0),
    "guidance told": _reused(2, 1, "told"),
    "heun": _reused(2, 1, scheduler="heun"),
    "kdpm2_ancestral": _reused(3, 0, "odd", scheduler="kdpm2_ancestral"),
    "pndm": _reused(2, 3, scheduler="pndm"),
    "guidance at the end": _reused(4, 1, guidance_start=0.5),
    "guidance at the start": _reused(3, 1, guidance_end=0.5, num_images=2),
}
MORE = {
    f"{kind}, every {interval}, branch {branch}": _reused(
        interval, branch, model, scheduler=scheduler, num_inference_steps=20
    )
    for kind, model, scheduler in (
        ("SD 1.x, ddim", "sd", "ddim"),
        ("SD 1.x, dpmpp_2m_karras", "sd", "dpmpp_2m_karras"),
        ("SDXL, euler", "xl", "euler"),
    )
    for interval in (2, 3, 5)
    for branch in (0, 1, 4)
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 6,
    "guidance_scale": 3.0,
    "width": 48,
    "height": 32,
    "seed": 3,
}
# Measured over the cases: torch 1.2e-6, mlx 1.2e-6; without reuse they are 4e-3 to 0.3 away.
LIMITS = {"torch": 5e-6, "mlx": 5e-6}
SUITE = of_trajectories("Deep-feature reuse", MODELS, CASES, SHARED, MORE, LIMITS)
