"""Text and image prompts on models of Stable Diffusion 1.x's and 2.x's kinds, of odd shapes."""

from __future__ import annotations

from functools import partial
from typing import Any

from oracle import models, trajectories
from oracle.runs.suite import of_trajectories

LINEAR = models.Tiny(
    unet=models.UNET
    | {
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "transformer_layers_per_block": 2,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "use_linear_projection": True,
        "sample_size": 6,
    },
    scheduler=models.SCHEDULER | {"prediction_type": "v_prediction"},
)
DEEP = models.Tiny(
    unet=models.FOUR_LEVELS,
    vae=models.VAE | {"layers_per_block": 2, "mid_block_add_attention": False},
    scheduler=models.SCHEDULER | {"_class_name": "EulerDiscreteScheduler"},
)
MODELS = {"odd": models.Tiny(), "linear": LINEAR, "deep": DEEP}
BLOCKS = {
    "down": {"block_0": [0.2, 0.9], "block_2": 0.7},
    "mid": 0.5,
    "up": {"block_0": [0.1, 0.4, 1.0]},
}


Case = partial(trajectories.Case, model="odd", adapters=("linear",), pictures=((0,),), scale=0.8)
LONG = {"num_inference_steps": 6}  # where steps remember those before


CASES = {
    "text only": Case(adapters=(), pictures=(), scale=None),
    "picture only": Case(prompt="", scale=1.0),
    "picture and text": Case(arguments={"negative_prompt": "a blue circle"}),
    "three pictures": Case(pictures=((0, 1, 2),)),
    "resampler": Case(adapters=("plus",), pictures=((3,),)),
    "resampler, two pictures": Case(adapters=("plus",), pictures=((3, 4),), scale=0.6),
    "full": Case(adapters=("full",), pictures=((1,),)),
    "two adapters": Case(
        adapters=("linear", "plus"), pictures=((0,), (1, 2)), scale=[0.7, 0.4], prompt=""
    ),
    "three adapters": Case(
        adapters=("plus", "full", "linear"), pictures=((0,), (1,), (2,)), scale=[0.3, 0.4, 0.5]
    ),
    "scale by block": Case(scale=BLOCKS),
    "two scales by block": Case(
        adapters=("linear", "plus"), pictures=((0,), (5,)), scale=[BLOCKS, {"up": {"block_2": 0.9}}]
    ),
    "no guidance": Case(arguments={"guidance_scale": 1.0}),
    "wide": Case(arguments={"width": 104, "height": 56}),
    "tall": Case(arguments={"width": 40, "height": 136}),
    "batch": Case(arguments={"num_images": 3, "scheduler": "euler_ancestral"}),
    "euler": Case(arguments={"scheduler": "euler", **LONG}),
    "euler karras": Case(arguments={"scheduler": "euler_karras", **LONG}),
    "euler ancestral": Case(arguments={"scheduler": "euler_ancestral", **LONG}),
    "dpmpp_2m": Case(arguments={"scheduler": "dpmpp_2m", **LONG}),
    "dpmpp_2m karras": Case(arguments={"scheduler": "dpmpp_2m_karras", **LONG}),
    "linear projections, v-prediction": Case(model="linear"),
    "v-prediction, karras": Case(
        model="linear", arguments={"scheduler": "dpmpp_2m_karras", **LONG}
    ),
    "four levels, euler": Case(model="deep", adapters=("plus",), pictures=((6,),), arguments=LONG),
    "four levels, odd size": Case(model="deep", arguments={"width": 72, "height": 88}),
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 4.0,
    "width": 64,
    "height": 48,
    "seed": 3,
}
# Measured over all cases: torch 1.3e-6, mlx 1.8e-6.
SUITE = of_trajectories("Image prompts", MODELS, CASES, SHARED)
