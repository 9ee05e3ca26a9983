"""What holds for LoRAs on both backends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipa
from ipa import CheckpointError, ImagePrompt, RequestError
from oracle import loras, models
from oracle.loras import File
from oracle.measure import relative
from oracle.pipelines import diffusers_pipeline

Open = Callable[..., ipa.Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "width": 64,
    "height": 48,
    "guidance_scale": 3.0,
    "seed": 5,
    "output_type": "latent",
}
# Where only the order of sums changes, relative L2: measured 1.9e-6 on both backends.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def files(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two LoRAs of every layer but some; the first with alphas."""
    root = tmp_path_factory.mktemp("loras")
    modules = loras.layers(diffusers_pipeline(tiny))
    pairs = loras.weak(loras.random_pairs(modules, seed=1, ranks=(4,)), alpha=2.0)
    first = loras.write(root / "first.v1.safetensors", loras.kohya(pairs, "sd"))
    some = dict(list(loras.random_pairs(modules, seed=2).items())[::2])
    some = {place: pair for place, pair in some.items() if place[0] == "unet"}
    return {
        "first": first,
        "second": loras.write(root / "second.safetensors", loras.peft(loras.weak(some))),
    }


@pytest.fixture
def pipe(tiny: Path, backend: str, open_pipeline: Open) -> ipa.Pipeline:
    return open_pipeline(tiny, backend)


def run(pipe: ipa.Pipeline, **changes: Any) -> np.ndarray:
    return pipe("a star", **(CALL | changes)).latents


@pytest.mark.parametrize("fuse", [False, True])
def test_what_is_gone_leaves_no_bit(
    fuse: bool, pipe: ipa.Pipeline, files: dict[str, Path], tiny: Path, references: list
) -> None:
    """Unloaded, at scale 0 or for one call; with an adapter loaded in between, and in any order."""
    base = run(pipe)
    assert pipe.load_lora(files["first"], fuse=fuse) == "first.v1"
    first = run(pipe)
    assert relative(first, base) > 1e-2
    pipe.load_ip_adapter(tiny / "linear.safetensors", name="linear")
    pipe.load_lora(files["second"], name="second", scale=-0.7)
    both = run(pipe)
    assert np.array_equal(run(pipe, loras={"second": 0.0}), first)
    assert np.array_equal(run(pipe, loras={"second": 0, "first.v1": 0}), base)
    assert np.array_equal(run(pipe), both)
    assert np.array_equal(run(pipe, loras={"first.v1": 0.5}), run(pipe, loras={"first.v1": 0.5}))
    pipe.set_lora_scale(0.0)
    assert np.array_equal(run(pipe), base)
    pipe.set_lora_scale(1.0, "first.v1")
    assert np.array_equal(run(pipe), first)
    pipe.unload_lora("second")
    assert np.array_equal(run(pipe), first)
    with_picture = run(pipe, image_prompts=ImagePrompt(references[0]), loras={"first.v1": 0})
    pipe.unload_lora()
    assert np.array_equal(run(pipe, image_prompts=ImagePrompt(references[0])), with_picture)
    assert np.array_equal(run(pipe), base)
    assert pipe.info()["loras"] == {}


def test_fused_forward_order_and_halves_differ_by_rounding(
    pipe: ipa.Pipeline, files: dict[str, Path]
) -> None:
    pipe.load_lora(files["first"], name="a", scale=0.6)
    pipe.load_lora(files["second"], name="b", scale=-0.7)
    expected = run(pipe)

    def check() -> None:
        assert relative(run(pipe), expected) < ROUNDING
        pipe.unload_lora()

    pipe.unload_lora()
    pipe.load_lora(files["second"], name="b", scale=-0.7)
    pipe.load_lora(files["first"], name="a", scale=0.6)
    check()
    for scale in (0.4, 0.2):
        pipe.load_lora(files["first"], name=f"a{scale}", scale=scale)
    pipe.load_lora(files["second"], name="b", scale=-0.7)
    check()
    pipe.load_lora(files["first"], name="a", scale=9.0, fuse=True)
    pipe.load_lora(files["second"], name="b", scale=-0.7)
    pipe.set_lora_scale(0.6, "a")
    check()
    pipe.load_lora(files["second"], name="b", scale=-0.7, fuse=True)
    pipe.load_lora(files["first"], name="a", scale=0.6, fuse=True)
    check()


def test_a_batch_and_a_cancelled_call(pipe: ipa.Pipeline, files: dict[str, Path]) -> None:
    pipe.load_lora(files["first"], name="a", scale=0.5)
    usual = run(pipe)
    stream = pipe.stream("a star", loras={"a": -1.0}, **CALL)
    next(stream)
    stream.close()
    assert np.array_equal(run(pipe), usual)
    result = pipe(["a star", "a heart"], loras={"a": 0.25}, **CALL)
    assert np.array_equal(result.latents[:1], run(pipe, loras={"a": 0.25}))
    told = {"a": {"file": "first.v1.safetensors", "scale": 0.25, "fused": False}}
    assert result.info["request"]["loras"] == result.info["requests"][1]["loras"] == told
    assert json.dumps(pipe.info()["loras"])
    assert pipe.info()["loras"]["a"]["layers"]["text_encoder"] == 12


def test_half_precision(
    tiny: Path, backend: str, pipe: ipa.Pipeline, files: dict[str, Path]
) -> None:
    """In bfloat16: no further from float32 than the model alone."""
    half = ipa.load(tiny, backend=backend, dtype="bfloat16")
    alone = relative(run(half), run(pipe))
    for each in (half, pipe):
        each.load_lora(files["first"], scale=0.5)
    assert relative(run(half), run(pipe)) < 2 * alone


QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
KEY = QUERY.replace("attn1_to_q", "attn2_to_k")


def pair(stem: str, inputs: int = 24, outputs: int = 24) -> dict[str, torch.Tensor]:
    return {
        f"{stem}.lora_down.weight": torch.ones(2, inputs),
        f"{stem}.lora_up.weight": torch.ones(outputs, 2),
    }


BAD: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a stray key": (pair(QUERY) | {"stray": torch.ones(1)}, "stray"),
    "no such layer": (pair(QUERY.replace("down_blocks_0", "down_blocks_7")), "down_blocks[._]7"),
    "another base": (pair(KEY, inputs=2048), "one for SDXL, the model is context width 40"),
    "another width": (pair(QUERY, inputs=25), "needed .2, 24"),
    "another text encoder": (
        pair("lora_te2_text_model_encoder_layers_0_mlp_fc1", 40, 72),
        "text.encoder that this model has not",
    ),
    "half a pair": (dict(list(pair(QUERY).items())[:1]), "attn1.to_q"),
    "an alpha alone": (pair(QUERY) | {f"{KEY}.alpha": torch.ones(())}, "attn2_to_k.alpha"),
    "DoRA": (pair(QUERY) | {f"{QUERY}.dora_scale": torch.ones(24)}, "to_q"),
    "LoHa": (pair(QUERY) | {f"{KEY}.hada_w1_a": torch.ones(2, 2)}, "to_k"),
    "NaN": (pair(QUERY) | {f"{QUERY}.lora_up.weight": torch.full((24, 2), torch.nan)}, "NaN|inf"),
    "nothing": ({}, "no pair|0 pairs|no tensors"),
}


def test_files_that_do_not_fit(pipe: ipa.Pipeline, tmp_path: Path) -> None:
    """Nothing is loaded, and nothing changed."""
    base = run(pipe)
    for name, (tensors, words) in BAD.items():
        path = loras.write(tmp_path / f"{name}.safetensors", File(tensors))
        with pytest.raises(CheckpointError, match=f"(?s){words}") as caught:
            pipe.load_lora(path)
        assert caught.value.found, name
    assert pipe.info()["loras"] == {}
    assert np.array_equal(run(pipe), base)
    loras.write(tmp_path / "good.safetensors", File(pair(QUERY)))
    assert pipe.load_lora(tmp_path, weight_name="good.safetensors") == "good"


def test_calls_that_cannot_be_honoured(pipe: ipa.Pipeline, files: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match=r"no such LoRA.*none"):
        run(pipe, loras={"a": 1.0})
    with pytest.raises(RequestError, match="finite"):
        pipe.load_lora(files["first"], scale=float("nan"))
    pipe.load_lora(files["first"], name="a")
    with pytest.raises(RequestError, match=r"is loaded.*unload_lora"):
        pipe.load_lora(files["second"], name="a")
    for given, words in (
        ({"a": "much"}, "finite"),
        ({"b": 1.0}, "no such LoRA.*loaded: a"),
        (0.5, "dict of names"),
    ):
        with pytest.raises(RequestError, match=words):
            run(pipe, loras=given)
    with pytest.raises(RequestError, match="use loras="):
        run(pipe, lora_scale=0.5)
    with pytest.raises(RequestError, match="no such LoRA"):
        pipe.set_lora_scale(0.5, "b")
    with pytest.raises(CheckpointError, match="does not exist"):
        pipe.load_lora(files["first"].parent)


def test_beside_few_bits(tmp_path: Path) -> None:
    """On MLX: quantised layers stay as they are, and the change keeps its precision."""
    wide = models.Tiny(
        unet=models.UNET
        | {"block_out_channels": (64, 64, 128), "norm_num_groups": 8}
        | {"cross_attention_dim": 64, "attention_head_dim": 4},
        text=models.TEXT | {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4},
    )
    (tmp_path / "model").mkdir()
    folder = models.build_folder(tmp_path / "model", wide, seed=3)
    modules = loras.layers(diffusers_pipeline(folder))
    pairs = loras.weak(loras.random_pairs(modules, seed=5, ranks=(4,)), alpha=2.0)
    path = loras.write(tmp_path / "a.safetensors", loras.kohya(pairs, "sd"))
    pipe = ipa.load(folder, backend="mlx", dtype="float32", quantize=8)
    plain = ipa.load(folder, backend="mlx", dtype="float32")
    base, bits = run(pipe), pipe.info()["quantization"]
    error = relative(base, run(plain))
    for each in (pipe, plain):
        each.load_lora(path, name="a", scale=0.5)
    assert pipe.info()["quantization"] == bits
    assert relative(run(pipe), base) > 10 * error
    assert relative(run(pipe), run(plain)) < 2 * error
    with pytest.raises(RequestError, match="cannot be fused with quantised layers"):
        pipe.load_lora(path, name="b", fuse=True)
    pipe.unload_lora("a")
    assert np.array_equal(run(pipe), base)
