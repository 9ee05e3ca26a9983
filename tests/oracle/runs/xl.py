"""Text, sizes and image prompts on models of SDXL's kind."""

from __future__ import annotations

from functools import partial
from typing import Any

from oracle import models, trajectories
from oracle.runs.suite import of_trajectories

EULER = {
    key: value
    for key, value in models.SCHEDULER.items()
    if key not in {"clip_sample", "set_alpha_to_one", "steps_offset"}
} | {"_class_name": "EulerDiscreteScheduler"}
PLAIN = models.Tiny(unet=models.XL_UNET, second_text=models.SECOND_TEXT)
# What the first public configs say: an end token of 2, and zeros for no negative prompt left out.
OLD = models.Tiny(
    unet=models.XL_UNET
    | {"block_out_channels": (16, 32), "attention_head_dim": (2, 4)}
    | {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}
    | {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}
    | {"transformer_layers_per_block": (1, 2), "layers_per_block": 1},
    text=models.TEXT | {"eos_token_id": 2},
    second_text=models.SECOND_TEXT | {"eos_token_id": 2, "projection_dim": 48},
    scheduler=EULER,
    force_zeros=False,
)
OLD.unet["projection_class_embeddings_input_dim"] = 48 + 6 * 8
MODELS = {"plain": PLAIN, "old": OLD}


Case = partial(trajectories.Case, model="plain")


BLOCKS = {
    "down": {"block_1": [0.2, 0.9], "block_2": 0.7},
    "mid": 0.5,
    "up": {"block_0": [0.1, 0.4, 1.0]},
}
WIDE = {"width": 104, "height": 56}
LONG = {"num_inference_steps": 5}  # where steps remember those before
SIZES: dict[str, Any] = {
    "original_size": (512, 1000),
    "crops_coords_top_left": (16, 40),
    "target_size": (1024, 768),
}
NEGATIVE_SIZES: dict[str, Any] = {
    "negative_original_size": (256, 300),
    "negative_crops_coords_top_left": (0, 7),
    "negative_target_size": (512, 640),
}
CASES = {
    "text only": Case(),
    "negative prompt": Case(arguments={"negative_prompt": "a blue circle"}),
    "empty negative prompt": Case(arguments={"negative_prompt": ""}),
    "nothing at all": Case(prompt=""),
    "no guidance": Case(arguments={"guidance_scale": 1.0, **SIZES}),
    "second prompts": Case(
        arguments={
            "prompt_2": "a green ring",
            "negative_prompt": "a blue circle",
            "negative_prompt_2": "two hearts",
        }
    ),
    "second prompt alone": Case(arguments={"prompt_2": "a green ring"}),
    "empty second prompts": Case(
        arguments={"prompt_2": "", "negative_prompt": "a cat", "negative_prompt_2": ""}
    ),
    "an exclamation, which pads": Case(prompt="star! !"),
    "too long": Case(prompt="a red star and a blue ring " * 30),
    "sizes": Case(arguments=SIZES),
    "original size alone": Case(arguments={"original_size": (4099, 333)}),
    "negative sizes": Case(arguments=SIZES | NEGATIVE_SIZES),
    "negative sizes alone": Case(arguments=NEGATIVE_SIZES | {"negative_prompt": "a cat"}),
    "linear": Case(adapters=("linear",), pictures=((0,),), scale=0.8),
    "linear, three pictures": Case(adapters=("linear",), pictures=((0, 1, 2),), scale=0.7),
    "plus": Case(adapters=("plus",), pictures=((3, 4),), scale=0.6),
    "full": Case(adapters=("full",), pictures=((1,),), scale=1.0),
    "two adapters": Case(
        adapters=("linear", "plus"), pictures=((0,), (1, 2)), scale=[0.7, 0.4], prompt=""
    ),
    "scale by block": Case(adapters=("plus",), pictures=((5,),), scale=BLOCKS),
    "two pictures made": Case(
        adapters=("linear",),
        pictures=((2,),),
        scale=0.9,
        arguments={"num_images": 2, "scheduler": "euler_ancestral", **SIZES},
    ),
    "euler": Case(arguments={"scheduler": "euler", **LONG}),
    "euler karras": Case(arguments={"scheduler": "euler_karras", **LONG}),
    "dpmpp_2m": Case(arguments={"scheduler": "dpmpp_2m", **LONG}),
    "dpmpp_2m karras": Case(arguments={"scheduler": "dpmpp_2m_karras", **LONG, **WIDE}),
    "tall": Case(arguments={"width": 40, "height": 136}),
    "old configs": Case(model="old"),
    "old configs, zeros not forced": Case(model="old", arguments={"negative_prompt_2": "a ring"}),
    "old configs, ddim": Case(model="old", arguments={"scheduler": "ddim", **LONG}),
    "old configs, ddpm": Case(model="old", arguments={"scheduler": "ddpm", **LONG}),
    "old configs, adapter": Case(
        model="old", adapters=("plus",), pictures=((6,),), scale=0.5, arguments=SIZES
    ),
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 4.0,
    "width": 64,
    "height": 48,
    "seed": 3,
}
# Measured over all cases: torch 1.1e-6, mlx 1.9e-6.
LIMITS = {"torch": 5e-6, "mlx": 1e-5}
SUITE = of_trajectories("SDXL", MODELS, CASES, SHARED, limits=LIMITS)
