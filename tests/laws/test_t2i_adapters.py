"""What must hold of T2I-Adapters, bit for bit, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import ipa
from ipa import CheckpointError, Control, NumericalError, RequestError
from ipa.model.control_files import T2IAdapterFiles
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.prepare.controls.planning import AttachedControl, plan_controls
from ipa_convert import convert_component
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


def test_off_is_the_base_model_bit_for_bit(own: ipa.Pipeline, model: Path) -> None:
    base, whole = latents(own), latents(own, Control(EDGES))
    assert not np.array_equal(whole, base)
    for off in (
        Control(EDGES, scale=0),
        Control(EDGES, scale=[0.0] * FEATURES),
        Control(EDGES, start=0.5, end=0.5),
    ):
        assert np.array_equal(latents(own, off), base)
    own.unload_t2i_adapter("sketch")
    assert np.array_equal(latents(own), base)
    own.load_t2i_adapter(model / "sketch")
    assert np.array_equal(latents(own, Control(EDGES)), whole)


def test_equal_requests_are_equal_bit_for_bit(pipe: ipa.Pipeline) -> None:
    whole = latents(pipe, Control(EDGES, scale=0.8))
    assert np.array_equal(latents(pipe, Control(EDGES, scale=[0.8] * FEATURES)), whole)
    half = Control(EDGES, name="sketch", scale=0.4)
    assert np.array_equal(latents(pipe, half, half), whole)
    result = pipe("a star", controls=Control(EDGES, scale=0.8), **CALL)
    (told,) = json.loads(json.dumps(result.info["request"]["controls"]))
    assert (told["control"], told["file"], told["scale"]) == ("sketch", "sketch", 0.8)
    assert told["kind"] == "t2i_adapter"
    assert pipe.info()["t2i_adapters"]["sketch"]["results"] == FEATURES
    assert pipe.info()["controlnets"] == {}


def test_a_weight_of_zero_is_left_out(own: ipa.Pipeline, model: Path, tmp_path: Path) -> None:
    """Not multiplied by 0, which would not undo an overflow; each feature has its own."""
    tensors = safetensors.torch.load_file(model / "sketch" / FILE)
    tensors["adapter.body.3.resnets.1.block2.bias"] += 1e38
    (tmp_path / "config.json").write_bytes((model / "sketch" / "config.json").read_bytes())
    safetensors.torch.save_file(tensors, tmp_path / FILE)
    name, weights = own.load_t2i_adapter(tmp_path, name="wild"), [0.5, 1.0, 0.3, 0.0]
    expected = latents(own, Control(EDGES, name="sketch", scale=weights))
    assert np.array_equal(latents(own, Control(EDGES, name=name, scale=weights)), expected)
    with pytest.raises(NumericalError):
        latents(own, Control(EDGES, name=name, scale=1000))


def test_every_container_gives_the_same_bits(
    own: ipa.Pipeline, backend: str, model: Path, tmp_path: Path
) -> None:
    """A file in diffusers' naming and in TencentARC's, a folder with a pickle; and for MLX."""
    expected, folder = latents(own, Control(EDGES)), model / "sketch"
    net = t2i_adapters.read([folder])[0]
    (tmp_path / "plain.safetensors").write_bytes((folder / FILE).read_bytes())
    torch.save(t2i_adapters.original(net), tmp_path / "original.pth")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(net.state_dict(), tmp_path / "pickled" / "diffusion_pytorch_model.bin")
    sources: list[dict[str, Any]] = [
        {"weight_name": "plain.safetensors"},
        {"weight_name": "original.pth"},
        {"subfolder": "pickled"},
    ]
    if backend == "mlx":
        convert_component(folder, tmp_path / "converted")
        sources += [{"subfolder": "converted"}, {"subfolder": "converted", "weight_name": FILE}]
    for source in sources:
        name = own.load_t2i_adapter(tmp_path, **source)
        assert np.array_equal(latents(own, Control(EDGES, name=name)), expected), source
        own.unload_t2i_adapter(name)


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


def test_bad_weights_are_refused(own: ipa.Pipeline, model: Path, tmp_path: Path) -> None:
    tensors = safetensors.torch.load_file(model / "sketch" / FILE)
    name = "adapter.body.1.in_conv.weight"
    for number, (wrong, words) in enumerate(
        (
            ({name: torch.full_like(tensors[name], torch.nan)}, "NaN"),
            ({name: tensors[name][:1].clone()}, name),
            ({name: None}, name),
            ({"adapter.body.0.in_conv.weight": tensors[name] + 1}, "body.0.in_conv.weight"),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_bytes((model / "sketch" / "config.json").read_bytes())
        kept = {k: v for k, v in (tensors | wrong).items() if v is not None}
        safetensors.torch.save_file(kept, folder / FILE)
        for source in (folder, folder / FILE):
            with pytest.raises(CheckpointError, match=words):
                own.load_t2i_adapter(source, name="bad")
    assert list(own.info()["t2i_adapters"]) == ["sketch"]


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
