"""Samplers as A1111, Draw Things and ComfyUI call them.

What is what: the table of schedulers in diffusers' documentation.
"""

from __future__ import annotations

import pytest

import ipa
from ipa.errors import RequestError
from ipa.prepare.samplers.names import OTHERS, nearest, own_name
from ipa.prepare.samplers.schedules import NAMES, make_schedule

CONFIG = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
SAID = {
    "DPM++ 2M Karras": "dpmpp_2m_karras",
    "dpm++2mkarras": "dpmpp_2m_karras",
    "DPM++ 2M": "dpmpp_2m",
    "DPM++ 2M SDE Karras": "dpmpp_2m_sde_karras",
    "DPM++ 2M SDE Exponential": "dpmpp_2m_sde_exponential",
    "DPM++ SDE Karras": "dpmpp_sde_karras",
    "Euler a": "euler_ancestral",
    "EULER A": "euler_ancestral",
    "Euler": "euler",
    "DPM2 a Karras": "kdpm2_ancestral_karras",
    "DPM2 Karras": "kdpm2_karras",
    "LMS Karras": "lms_karras",
    "Heun": "heun",
    "UniPC": "unipc",
    "PLMS": "pndm",
    "DDIM": "ddim",
    "LCM": "lcm",
    "dpmpp-2m-sde": "dpmpp_2m_sde",
}


@pytest.mark.parametrize(("said", "meant"), SAID.items())
def test_other_names(said: str, meant: str) -> None:
    expected = meant if meant in NAMES else said
    assert own_name(said, NAMES) == expected
    if meant in NAMES:
        assert make_schedule(said, CONFIG, 4).name == meant


def test_most_of_them_are_there() -> None:
    assert sum(meant in NAMES for meant in SAID.values()) >= 16
    assert set(OTHERS.values()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_our_names_mean_themselves(name: str) -> None:
    assert own_name(name, NAMES) == name == nearest(name, NAMES)[0]
    assert own_name(name.replace("_", " ").upper(), NAMES) == name


@pytest.mark.parametrize(
    ("said", "near"),
    [
        ("dpm++2mkaras", "dpmpp_2m_karras"),
        ("eulr", "euler"),
        ("euler_ancestrel", "euler_ancestral"),
        ("unipcc", "unipc"),
    ],
)
def test_guesses(said: str, near: str) -> None:
    assert nearest(said, NAMES)[0] == near
    with pytest.raises(RequestError, match=f"did you mean '{near}'"):
        make_schedule(said, CONFIG, 4)


def test_a_run_tells_our_name(backend: str) -> None:
    pipe = ipa.load("demo", backend=backend)
    call = {"num_inference_steps": 2, "width": 32, "height": 32, "output_type": "latent"}
    made = [pipe("a star", scheduler=name, **call) for name in ("Euler a", "euler_ancestral")]
    assert [run.info["request"]["scheduler"] for run in made] == ["euler_ancestral"] * 2
    assert (made[0].latents == made[1].latents).all()
