"""Every sampler's whole trajectories, and what steers guidance, against diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from oracle import models, trajectories
from oracle.measure import relative
from oracle.scipy_stand_in import scipy_or_stand_in

# Relative L2 of the final latents. Measured over all cases: torch 2.6e-6, mlx 2.5e-6.
LIMITS = {"torch": 1e-5, "mlx": 1e-4}

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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return trajectories.build(MODELS, tmp_path_factory)


@pytest.fixture(scope="module")
def expected(
    folders: dict[str, Path], references: list[Image.Image]
) -> Callable[[str], np.ndarray]:
    def run(name: str) -> np.ndarray:
        case = CASES[name]
        # diffusers' pipelines do not take None: left out, it is their default.
        call = {k: v for k, v in (SHARED | case.arguments).items() if v is not None}
        plain = trajectories.Case(case.model, case.adapters, case.pictures, case.scale, case.prompt)
        with scipy_or_stand_in():
            return trajectories.theirs(plain, folders[case.model], references, call)

    return trajectories.once(run)


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_trajectory(
    name: str,
    backend: str,
    folders: dict[str, Path],
    references: list[Image.Image],
    expected: Callable[[str], np.ndarray],
    open_pipeline: Callable[..., ipa.Pipeline],
) -> None:
    case = CASES[name]
    pipe = open_pipeline(folders[case.model], backend, *case.adapters)
    found = trajectories.ours(case, pipe, references, SHARED)
    assert relative(found, expected(name)) < LIMITS[backend]
