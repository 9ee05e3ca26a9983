"""What must hold of T2I-Adapters alone, beside `test_control_kinds`, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import CheckpointError, Control, RequestError
from ipa.model.control_files import T2IAdapterFiles
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.prepare.controls.planning import AttachedControl, plan_controls
from oracle import controlled, models, t2i_adapters

CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "width": 48,
    "height": 32,
    "output_type": "latent",
}
EDGES = Image.fromarray(controlled.edges((64, 48), 1))
FEATURES = 4
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a T2I-Adapter and a ControlNet beside it."""
    folder = tmp_path_factory.mktemp("t2i")
    models.build_folder(folder, models.Tiny(unet=t2i_adapters.UNET), seed=8)
    t2i_adapters.write_t2i_adapter(folder / "sketch", 9, **t2i_adapters.FULL)
    controlled.write_controlnet(folder / "net", t2i_adapters.UNET, seed=7)
    return folder


@pytest.fixture(scope="module")
def pipe(backend: str, model: Path, open_pipeline: Callable[..., ipa.Pipeline]) -> ipa.Pipeline:
    pipe = open_pipeline(model, backend)
    pipe.load_t2i_adapter(model / "sketch")
    return pipe


def latents(pipe: ipa.Pipeline, *controls: Control, **changes: Any) -> np.ndarray:
    return pipe("a star", controls=controls, **(CALL | changes)).latents


def test_it_is_told_apart_from_controlnets(pipe: ipa.Pipeline) -> None:
    assert pipe.info()["t2i_adapters"]["sketch"]["results"] == FEATURES
    assert pipe.info()["controlnets"] == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": (16, 32, 48, 48)}, "another base.*48 channels per 32 pixels"),
        ({"downscale_factor": 16}, "16 channels per 16 pixels.*: 16 channels per 8 pixels"),
        ({"adapter_type": "full_adapter_xl"}, "another base"),
        ({"channels": (16, 32, 32, 32, 32, 32)}, "another base"),
    ],
)
def test_another_base_is_refused(
    changes: dict[str, Any], words: str, own: ipa.Pipeline, model: Path, tmp_path: Path
) -> None:
    """Before its weights are looked at: there are none."""
    config = json.loads((model / "sketch" / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        own.load_t2i_adapter(tmp_path)


def test_the_other_call_is_named(own: ipa.Pipeline, model: Path) -> None:
    """By a folder and by a file."""
    for place in ("net", f"net/{FILE}"):
        with pytest.raises(CheckpointError, match="load it with load_controlnet"):
            own.load_t2i_adapter(model / place)
    for place in ("sketch", f"sketch/{FILE}"):
        with pytest.raises(CheckpointError, match="load it with load_t2i_adapter"):
            own.load_controlnet(model / place)


def test_names_are_shared_with_controlnets(own: ipa.Pipeline, model: Path) -> None:
    with pytest.raises(RequestError, match=r"a T2I-Adapter of this name.*unload_t2i_adapter"):
        own.load_controlnet(model / "net", name="sketch")
    own.load_controlnet(model / "net")
    simple = own("a star", controlnet_image=EDGES, **CALL).latents  # of the ControlNet alone
    assert np.array_equal(simple, latents(own, Control(EDGES, name="net")))
    with pytest.raises(RequestError, match="None; loaded: sketch, net"):
        latents(own, Control(EDGES))
    own.unload_controlnet()
    assert list(own.info()["t2i_adapters"]) == ["sketch"]


def test_wrong_requests(own: ipa.Pipeline, model: Path, tmp_path: Path) -> None:
    for wrong, words in (
        ({"controls": [Control(EDGES, name="depth")]}, "depth.*load_t2i_adapter"),
        ({"controls": [Control(EDGES, scale=[1.0, 2.0])]}, "4 are needed, one for each feature"),
        ({"controls": [Control(EDGES, guess_mode=True)]}, "sketch, a T2I-Adapter"),
        ({"controls": [Control(EDGES, mask=np.ones((4, 4)))]}, "for ControlNets for inpainting"),
        ({"controls": [Control(np.full((4, 4, 3), -1.0))]}, "for ControlNets for inpainting"),
        ({"controlnet_image": EDGES}, "no ControlNet"),
        ({"adapter_conditioning_factor": 0.5}, "end="),
    ):
        with pytest.raises(RequestError, match=words):
            own("", **wrong, **CALL)
    with pytest.raises(RequestError, match="needs its picture"):
        Control(None, name="sketch")
    with pytest.raises(RequestError, match="is loaded"):
        own.load_t2i_adapter(model / "sketch")
    with pytest.raises(RequestError, match="no T2I-Adapter of this name"):
        own.unload_t2i_adapter("depth")
    with pytest.raises(RequestError, match="config is for a file"):
        own.load_t2i_adapter(model / "sketch", config=model / "sketch" / "config.json")
    with pytest.raises(CheckpointError, match="does not exist"):
        own.load_t2i_adapter(model, subfolder="nowhere")


def test_pictures_that_its_factor_does_not_divide() -> None:
    """SDXL's wants multiples of 16 where its VAE is content with 8."""
    spec = T2IAdapterSpec.from_config(t2i_adapters.XL)
    files = T2IAdapterFiles(name="a", path=Path("a"), config=t2i_adapters.XL, spec=spec)
    attached = AttachedControl(files, 0)
    (planned,) = plan_controls((Control(EDGES),), {"xl": attached}, (80, 48), 2)
    assert planned.branch.pixels.shape == (1, 3, 48, 80)
    with pytest.raises(RequestError, match=r"multiples of 16.*72 × 48.*try 80 × 48"):
        plan_controls((Control(EDGES),), {"xl": attached}, (72, 48), 2)
