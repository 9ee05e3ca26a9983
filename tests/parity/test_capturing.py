"""Runs that are recorded: the reference's of a model, and MLX's of the folder converted from it."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ipa
from ipa import ImagePrompt, demo
from ipa.errors import IncompatibleCaptures, RequestError
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.capture_file import read, write
from ipa.parity.capture.choice import Choice
from ipa.parity.capture.environment import environment
from ipa.parity.capture.sketch import Sketch
from ipa.parity.compare.captures import compare
from ipa.parity.recording import capture
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_adapter, convert_model

Open = Callable[..., ipa.Pipeline]


@pytest.fixture(scope="module")
def converted(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lab") / "model"
    model = open_model_folder(tiny, name="tiny")
    convert_model(model, root)
    convert_adapter(tiny / "plus.safetensors", root / "plus.safetensors", sites=model.sites)
    return root


@pytest.fixture(scope="module")
def opened(tiny: Path, converted: Path, open_pipeline: Open) -> dict[str, ipa.Pipeline]:
    pipes = {"torch": open_pipeline(tiny, "torch", "plus"), "mlx": open_pipeline(tiny, "mlx")}
    pipes["converted"] = open_pipeline(converted, "mlx", "plus")
    pipes["mlx"].load_ip_adapter(tiny / "plus.safetensors", name="plus")
    return pipes


def recorded(pipe: ipa.Pipeline, picture: Image.Image, seed: int = 3, **choice: object) -> Capture:
    prompt = ImagePrompt(picture.resize((64, 64)), adapter="plus", scale=0.7)
    arguments = {"prompt": "a star", "image_prompts": [prompt], "num_inference_steps": 1}
    arguments |= {"seed": seed, "width": 64, "height": 64, "guidance_scale": 3.0}
    return capture(pipe, arguments, Choice(**choice))


def test_the_reference_and_a_converted_folder(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image], tmp_path: Path
) -> None:
    """Measured: the worst of 769 stages at 2.3e-6. Sketches give the same verdict."""
    a, b = (recorded(opened[name], references[0]) for name in ("torch", "converted"))
    assert a.header.fingerprints == b.header.fingerprints
    assert {*a.header.fingerprints} == {
        *("unet", "vae", "text_encoder", "adapter.plus", "adapter.plus.image_encoder")
    }
    found = compare(a, b)
    assert found.ok
    assert max(one.measures.relative_l2 for one in found.differences) < 6e-6
    assert found.only_b == ()
    assert found.pictures.clip_cosine == pytest.approx(1.0, abs=1e-6)
    assert np.array_equal(a.stages["start/latents"], b.stages["start/latents"])
    few = recorded(opened["converted"], references[0], sketched=True)
    write(tmp_path / "b.safetensors", few)
    sketched = compare(a, read(tmp_path / "b.safetensors"))
    assert sketched.ok
    assert [one.stage for one in sketched.differences] == [one.stage for one in found.differences]
    assert sum(one.sketched for one in sketched.differences) > 400


def test_a_fault_is_named(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bias of the UNet is lost: its own stage is the first bad one, also among sketches."""
    few, stage = {"patterns": ("step.000/unet.down*",)}, "down_blocks.0.resnets.1.conv1"
    a = recorded(opened["mlx"], references[0], **few)
    unet = opened["converted"]._loaded.backend.unet
    convolution = unet.down_blocks[0].resnets[1].conv1
    monkeypatch.setitem(convolution, "bias", convolution.bias * 0)
    for sketched in (False, True):
        b = recorded(opened["converted"], references[0], sketched=sketched, **few)
        found = compare(a, b)
        assert found.first_bad is not None
        assert found.first_bad.stage == f"step.000/unet.{stage}"


def test_other_runs_are_refused(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image]
) -> None:
    few = {"patterns": ("*/latents",)}
    a, b = (recorded(opened["mlx"], references[0], seed, **few) for seed in (3, 4))
    with pytest.raises(IncompatibleCaptures) as caught:
        compare(a, b)
    assert [name for name, _, _ in caught.value.differences] == ["seed"]
    assert not compare(a, b, allow=("seed",)).ok
    c = recorded(opened["mlx"], references[1], **few)
    with pytest.raises(IncompatibleCaptures, match=r"image_prompts\.0\.images_sha256"):
        compare(a, c)
    with pytest.raises(RequestError, match="one picture at a time"):
        capture(opened["mlx"], {"num_images": 2})


def test_all_that_is_loaded_has_a_fingerprint() -> None:
    pipe = ipa.load("demo", backend="mlx")
    pipe.load_controlnet(demo.controlnet(), name="edges")
    assert {*pipe.fingerprints()} == {"unet", "vae", "text_encoder", "controlnet.edges"}


def test_the_environment_is_told_without_imports() -> None:
    """In a process of its own, in which no framework runs."""
    code = (
        "import sys, json\nfrom ipa.parity.capture.environment import environment\n"
        "found = environment({'device': 'gpu', 'quantization': {'unet': {'bits': 4}}})\n"
        "assert not {'mlx.core', 'torch'} & sys.modules.keys()\nprint(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["device"], found["quantised"]) == ("gpu", "unet: 4 bits")
    assert found["torch"] == importlib.metadata.version("torch")
    assert found["python"] == platform.python_version() and found["chip"]
    assert "torch threads" not in found
    here = environment({})
    assert here["torch threads"] == str(torch.get_num_threads())
    assert here["MLX_ENABLE_TF32"]


def test_a_budget_is_kept(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image], tmp_path: Path
) -> None:
    made = recorded(opened["mlx"], references[0], max_bytes=1_200_000, dtype="float16")
    write(tmp_path / "a.safetensors", made)
    assert 1_000_000 < (tmp_path / "a.safetensors").stat().st_size <= 1_200_000
    del made.stages["decode/image"]  # whole whatever it takes
    largest = max(int(np.prod(k.shape)) for k in made.stages.values() if not isinstance(k, Sketch))
    smallest = min(k.size for k in made.stages.values() if isinstance(k, Sketch))
    assert largest <= smallest
