"""What must hold of ControlNets alone, beside `test_control_kinds`, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import ipa
from ipa import CheckpointError, Control, RequestError
from oracle import controlled, models
from oracle.measure import relative

CALL: dict[str, Any] = {
    "num_inference_steps": 3,
    "guidance_scale": 3.0,
    "width": 64,
    "height": 48,
    "output_type": "latent",
}
EDGES = Image.fromarray(controlled.edges((64, 48), 1))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("control") / "edges"
    controlled.write_controlnet(folder, models.UNET, seed=9)
    return folder


@pytest.fixture(scope="module")
def pipe(
    backend: str, tiny: Path, net: Path, open_pipeline: Callable[..., ipa.Pipeline]
) -> ipa.Pipeline:
    pipe = open_pipeline(tiny, backend, "linear")
    pipe.load_controlnet(net)
    return pipe


def latents(pipe: ipa.Pipeline, *controls: Control, **changes: Any) -> np.ndarray:
    return pipe("a star", controls=controls, **(CALL | changes)).latents


def test_equal_requests_are_equal_bit_for_bit(
    pipe: ipa.Pipeline, references: list[Image.Image]
) -> None:
    whole = latents(pipe, Control(EDGES, scale=0.7))
    turned = Control(EDGES.transpose(Image.Transpose.ROTATE_180), scale=0.7, preprocessor=_turned)
    assert np.array_equal(latents(pipe, turned), whole)
    simple = pipe("a star", controlnet_image=EDGES, **CALL).latents
    assert np.array_equal(simple, latents(pipe, Control(EDGES)))
    with_picture = pipe(
        "a star",
        image_prompts=ipa.ImagePrompt(references[0], scale=0.0),
        controlnet_image=EDGES,
        **CALL,
    )
    assert np.array_equal(with_picture.latents, simple)


def _turned(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.ROTATE_180)


def test_parts_add_up(pipe: ipa.Pipeline) -> None:
    whole = latents(pipe, Control(EDGES, scale=0.8))
    parts = (Control(EDGES, scale=0.3), Control(EDGES, scale=0.5))
    assert relative(latents(pipe, *parts), whole) < 2e-6  # measured: 8e-7


def test_guess_mode_leaves_the_unconditional_half(pipe: ipa.Pipeline) -> None:
    """With an empty prompt both halves are alike, so guidance shows what only one of them got."""
    call = {"num_inference_steps": 1}
    same, mild, strong = (
        pipe("", controls=[Control(EDGES)], **(CALL | call | {"guidance_scale": g})).latents
        for g in (1.0, 2.0, 4.0)
    )
    assert relative(mild, same) < 2e-7  # measured: 4e-8
    assert relative(strong, same) < 2e-7
    guess = [Control(EDGES, guess_mode=True)]
    one, two = (
        pipe("", controls=guess, **(CALL | call | {"guidance_scale": g})).latents
        for g in (1.0, 3.0)
    )
    assert relative(two, one) > 1e-3
    assert np.array_equal(latents(pipe, Control(EDGES, scale=0, guess_mode=True)), latents(pipe))


def test_prompts_of_a_batch_are_calls_of_their_own(pipe: ipa.Pipeline) -> None:
    control = Control(EDGES, scale=0.6)
    both = pipe(["a star", "a ring"], controls=control, seed=4, **CALL)
    for number, prompt in enumerate(("a star", "a ring")):
        alone = pipe(prompt, controls=control, seed=4 + number, **CALL)
        assert np.array_equal(both.latents[number], alone.latents[0])
    told = both.info["request"]["controls"]
    assert told == both.info["requests"][1]["controls"]
    assert json.loads(json.dumps(told)) == told
    assert (told[0]["control"], told[0]["scale"], told[0]["file"]) == ("edges", 0.6, "edges")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cross_attention_dim": 24}, "context width 24, needed 40"),
        ({"block_out_channels": (24, 48, 48)}, r"channels \(24, 48, 48\)"),
        ({"conditioning_embedding_out_channels": (4, 6)}, "pixels per latent 2, needed 8"),
        ({"layers_per_block": 1}, "layers per block"),
        (
            {"addition_embed_type": "text_time", "addition_time_embed_dim": 4}
            | {"projection_class_embeddings_input_dim": 34},
            "addition embedding Addition.*needed none",
        ),
    ],
)
def test_another_base_is_refused(
    changes: dict[str, Any], words: str, own: ipa.Pipeline, net: Path, tmp_path: Path
) -> None:
    """Before its weights are looked at: there are none."""
    config = json.loads((net / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=words):
        own.load_controlnet(tmp_path, name="other")


def test_unknown_tensors_are_ignored_by_name(
    backend: str, tiny: Path, net: Path, tmp_path: Path, open_pipeline: Callable[..., ipa.Pipeline]
) -> None:
    """From its folder, and from a file that lies alone."""
    tensors = safetensors.torch.load_file(net / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_bytes((net / "config.json").read_bytes())
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    safetensors.torch.save_file(tensors | {"gate.weight": torch.ones(2)}, file)
    found = {}
    for source, options in ((tmp_path, {}), (file, {"config": net / "config.json"})):
        pipe = open_pipeline(tiny, backend)
        with pytest.raises(CheckpointError, match=r"gate\.weight"):
            pipe.load_controlnet(source, name="edges", **options)
        with pytest.raises(RequestError, match="did you mean"):
            pipe.load_controlnet(source, ignore=["gate.weigh", "gate.*"], **options)
        pipe.load_controlnet(source, name="edges", ignore=["gate.*"], **options)
        assert pipe.info()["controlnets"]["edges"]["ignored"] == ["gate.*"]
        found[source] = latents(pipe, Control(EDGES))
        pipe.unload_controlnet()
    pipe.load_controlnet(net, name="edges")
    expected = latents(pipe, Control(EDGES))
    # Relative L2 between equal weights, which torch may round by their place in memory.
    for other in found.values():
        assert np.linalg.norm(other - expected) <= 1e-5 * np.linalg.norm(expected)


def test_wrong_requests(own: ipa.Pipeline, net: Path, tiny: Path) -> None:
    for wrong, words in (
        ({"controls": [Control(EDGES, name="depth")]}, "depth"),
        ({"controls": [EDGES]}, "list of Control"),
        ({"controls": [Control(EDGES, scale=[1.0, 2.0])]}, "10 are needed"),
        ({"controls": [Control(np.zeros((4, 0), np.uint8))]}, "shape"),
        ({"controls": [Control(EDGES, preprocessor=lambda _: None)]}, "picture"),
        ({"controls": Control(EDGES), "controlnet_image": EDGES}, "not both"),
        ({"controlnet_image": [EDGES, EDGES]}, "2 pictures; loaded: edges"),
        ({"controlnet_image": [None]}, "needs its picture"),
        ({"guess_mode": True}, "guess_mode"),
    ):
        with pytest.raises(RequestError, match=words):
            own("", **wrong, **CALL)
    with pytest.raises(RequestError, match="is loaded"):
        own.load_controlnet(net)
    with pytest.raises(RequestError, match="depth"):
        own.unload_controlnet("depth")
    with pytest.raises(CheckpointError, match="whole model"):
        own.load_controlnet(tiny)
    with pytest.raises(CheckpointError, match="plain ControlNet"):
        own.load_controlnet(tiny / "linear.safetensors")


def test_batched_controls_go_one_to_each_prompt(pipe: ipa.Pipeline) -> None:
    """Beside one that goes to all; every prompt is a call of its own, bit for bit."""
    texts, other = ["a star", "a ring"], Image.fromarray(controlled.edges((32, 24), 4))
    both, shared = Control([EDGES, other], scale=0.7, batched=True), Control(other, scale=0.2)
    call = CALL | {"num_inference_steps": 1}
    found = pipe(texts, controls=[both, shared], **call)
    for number, picture in enumerate((EDGES, other)):
        controls = [Control(picture, scale=0.7), shared]
        alone = pipe(texts[number], controls=controls, seed=number, **call)
        assert np.array_equal(found.latents[number], alone.latents[0])
        assert found.info["requests"][number] == alone.info["request"]
    first, second = found.info["request"]["controls"]
    hashes = [own["controls"][0]["image_sha256"] for own in found.info["requests"]]
    assert first["image_sha256"] == hashes and len(set(hashes)) == 2
    assert second["image_sha256"] == hashes[1]
    unnamed = pipe("a star", controls=both, **call)  # pictures alone make the list, too
    assert len(unnamed.latents) == 2
    with pytest.raises(RequestError, match="as many entries") as caught:
        pipe([*texts, "a heart"], controls=[shared, both], **call)
    assert caught.value.found == "prompt= 3, controls[1] (batched) 2"


@pytest.mark.parametrize(
    "wrong",
    [
        {"image": None},
        {"image": [EDGES]},
        {"image": [], "batched": True},
        {"image": [EDGES, None], "batched": True},
        {"batched": 1},
        {"scale": float("nan")},
        {"scale": "1"},
        {"scale": [1.0, None]},
        {"start": 0.6, "end": 0.5},
        {"end": 1.5},
        {"guess_mode": 1},
        {"name": 3},
        {"preprocessor": "canny"},
    ],
)
def test_wrong_controls(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        replace(Control(EDGES), **wrong)
