"""Every sampler, and what steers guidance."""

from __future__ import annotations

from functools import partial
from typing import Any

from oracle import models, trajectories
from oracle.runs.suite import of_trajectories
from oracle.schedulers import COMPARABLE

# As published with Stable Diffusion 1.5.
PNDM = models.SCHEDULER | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
MODELS = {
    "odd": models.Tiny(scheduler=PNDM),
    "velocity": models.Tiny(scheduler=models.SCHEDULER | {"prediction_type": "v_prediction"}),
    "xl": models.Tiny(unet=models.XL_UNET, second_text=models.SECOND_TEXT),
}
Case = partial(trajectories.Case, model="odd", adapters=("linear",), pictures=((0,),), scale=0.8)


def _sampler(name: str, model: str = "odd", **arguments: Any) -> trajectories.Case:
    return Case(model=model, arguments={"scheduler": name, **arguments})


CASES = {
    "the checkpoint's own, PLMS": Case(),
    "pndm, v-prediction": _sampler("pndm", "velocity"),
    "unipc": _sampler("unipc"),
    "unipc, v-prediction": _sampler("unipc_karras", "velocity"),
    "heun": _sampler("heun"),
    "heun, beta levels": _sampler("heun_beta", "velocity"),
    "lms": _sampler("lms"),
    "kdpm2": _sampler("kdpm2"),
    "kdpm2_ancestral": _sampler("kdpm2_ancestral", num_images=2),
    "deis": _sampler("deis"),
    "sa": _sampler("sa", num_images=2),
    "dpmpp_2m_sde": _sampler("dpmpp_2m_sde", num_images=2),
    "dpmpp_2m_sde, karras": _sampler("dpmpp_2m_sde_karras", "velocity"),
    "dpmpp_2s": _sampler("dpmpp_2s"),
    "dpmpp_sde": _sampler("dpmpp_sde"),
    "ddpm": _sampler("ddpm"),
    "lcm": _sampler("lcm", guidance_scale=1.5),
    "tcd": _sampler("tcd", eta=0.3, guidance_scale=1.0),
    "ddim with noise": _sampler("ddim", eta=0.7),
    "timesteps of the call": _sampler("dpmpp_2m", timesteps=[999, 850, 343, 24]),
    "noise levels of the call": _sampler("euler", sigmas=[14.0, 3.5, 1.25, 0.5, 0.0]),
    "rescaled guidance": _sampler("euler", "velocity", guidance_rescale=0.7, num_images=2),
    "guidance at the end": _sampler("euler", guidance_start=0.5),
    "guidance in the middle": _sampler("dpmpp_2m", guidance_start=0.25, guidance_end=0.75),
    "guidance at the start, SDXL": _sampler("ddim", "xl", guidance_end=0.6, num_images=2),
    "usual guidance": Case(arguments={"guidance_scale": None}),
    "usual guidance of SDXL": Case(model="xl", arguments={"guidance_scale": None}),
}
SHARED: dict[str, Any] = {
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "width": 48,
    "height": 32,
    "seed": 3,
}
STEPS = (4, 20, 50)
# Every sampler that diffusers has, over as many steps as people take.
MORE = {
    f"{name}, {steps} steps": _sampler(name, num_inference_steps=steps)
    for name in COMPARABLE
    for steps in STEPS
}
# Measured over all cases: torch 2.6e-6, mlx 2.5e-6.
SUITE = of_trajectories("Samplers", MODELS, CASES, SHARED, MORE)
