"""Quantised matrices are those of MLX, bit for bit; the folders with them are total and checked."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from ipa.errors import CheckpointError, RequestError
from ipa.model.files import STEMS
from ipa.model.folder import ModelFolder
from ipa.model.quantization import Quantization
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_model, inspect, read_component, verify_model
from ipa_convert.containers import quantization
from ipa_torch.files.weights import quiet
from oracle import models

TAGS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
UNET = "unet/diffusion_pytorch_model.safetensors"
KINDS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "image_encoder": CLIPVisionModelWithProjection,
}


def opened(path: Path) -> ModelFolder:
    return open_model_folder(path, name=path.name)


def metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return file.metadata()


def as_mlx(array: np.ndarray, tag: str) -> mx.array:
    made = mx.array(array)
    return made.view(mx.bfloat16) if tag == "BF16" else made


def bits_of(array: mx.array) -> np.ndarray:
    kinds = {4: mx.uint32, 2: mx.uint16}
    return np.array(array.view(kinds[array.dtype.size]))


def check(array: np.ndarray, tag: str, bits: int) -> None:
    """All three tensors against `mx.quantize`."""
    how, weights = Quantization(bits), as_mlx(array, tag)
    given = (array, tag, how, "w")
    makers = (quantization.packed, quantization.scales, quantization.biases)
    ours = [make(*given) for make in makers]
    theirs = mx.quantize(weights, how.group_size, bits)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert mine.shape == wanted.shape
        assert np.array_equal(mine.view(f"u{wanted.dtype.size}"), bits_of(wanted))


def values(kind: str, tag: str, draw: np.random.Generator) -> np.ndarray:
    """A matrix of (48, 192) in a type, of some unpleasant kind."""
    matrix = draw.standard_normal((48, 192), dtype=np.float32)
    sizes = 10.0 ** draw.uniform(-9, 4, (48, 1)).astype(np.float32)
    matrix = {
        "plain": lambda: matrix,
        "of all sizes": lambda: matrix * sizes,
        "positive": lambda: np.abs(matrix) + 3,
        "constant": lambda: np.repeat(matrix[:, :1] * sizes, 192, axis=1),
        "sparse": lambda: matrix * (draw.random(matrix.shape) < 0.02),
        "zero": lambda: matrix * 0,
        "halves": lambda: np.round(matrix * 4) / 2,
        "symmetric": lambda: np.sign(matrix),
    }[kind]()
    if tag == "BF16":
        return np.ascontiguousarray(matrix.view(np.uint16)[:, 1::2])  # the upper halves
    return matrix.astype({"F32": np.float32, "F16": np.float16}[tag])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize(
    "kind",
    ["plain", "of all sizes", "positive", "constant", "sparse", "zero", "halves", "symmetric"],
)
def test_the_bits_of_mlx(kind: str, tag: str, bits: int, draw: np.random.Generator) -> None:
    check(values(kind, tag, draw), tag, bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_over_several_pieces(bits: int, draw: np.random.Generator) -> None:
    """A large matrix; and what MLX makes of it again is no step away from where it was."""
    how, weights = Quantization(bits), draw.standard_normal((700, 320), dtype=np.float32)
    check(weights, "F32", bits)
    packed, scales, biases = (
        mx.array(make(weights, "F32", how, "w"))
        for make in (quantization.packed, quantization.scales, quantization.biases)
    )
    error = np.abs(np.array(mx.dequantize(packed, scales, biases, 64, bits)) - weights)
    steps = error.reshape(700, 5, 64) / np.abs(np.array(scales))[..., None]
    # Half a step; more at the edge that the step was not adjusted to.
    assert np.median(steps) < 0.27 and steps.max() < 1.01


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=64, max_size=64), st.integers(0, 31))
def test_the_bits_of_mlx_for_any_bits(words: list[int], shift: int) -> None:
    """Finite numbers of every size; those of a group within 2^shift of one another."""
    raw = np.array([words], np.uint32)
    raw = raw & np.uint32(0x8000_0000) | (raw & np.uint32(0x7FFF_FFFF)) >> np.uint32(shift)
    for tag in TAGS:
        array = raw if tag == "F32" else (raw >> np.uint32(16)).astype(np.uint16)
        array = array.view({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[tag])
        wide = np.array(as_mlx(array, tag).astype(mx.float32)).astype(np.float64)
        array = np.where(np.isfinite(wide), array, array.dtype.type(0))
        wide = np.where(np.isfinite(wide), wide, 0)
        for bits in (4, 8):
            if wide.max() - wide.min() < 3e38:
                check(array, tag, bits)
            elif wide.max() - wide.min() > 3.5e38:
                with pytest.raises(CheckpointError, match="w cannot be quantised"):
                    quantization.packed(array, tag, Quantization(bits), "w")


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Widths that are multiples of 64, and widths that are not."""
    tiny = models.Tiny(
        unet=models.UNET
        | {
            "block_out_channels": (32, 64, 96),
            "cross_attention_dim": 64,
            "attention_head_dim": (2, 4, 4),
            "norm_num_groups": 16,
            "down_block_types": ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
            "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2,
        },
        text=models.TEXT | {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96},
        vision=models.VISION | {"intermediate_size": 128},
        vae=models.VAE | {"block_out_channels": (6, 12, 12, 64), "norm_num_groups": 2},
    )
    return models.build_folder(tmp_path_factory.mktemp("partly") / "model", tiny, seed=4)


@pytest.fixture(scope="module", params=[4, 8])
def bits(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def quantised(partly: Path, bits: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("quantised") / "model"
    return convert_model(opened(partly), target, quantize=bits)


def layers(folder: Path) -> set[str]:
    """Linear layers in transformers' layers whose inputs are whole groups, by PyTorch's modules."""
    inside = re.compile(r"(transformer_blocks|encoder\.layers)\.\d+\.")
    with quiet():
        module = KINDS[folder.name].from_pretrained(folder)
    return {
        f"{name}.weight".removeprefix("text_model.")
        for name, layer in module.named_modules()
        if inside.search(name) and isinstance(layer, torch.nn.Linear) and not layer.in_features % 64
    }


def test_which_layers(partly: Path, quantised: Path) -> None:
    counts = {}
    for name in ("unet", "vae", "text_encoder", "image_encoder"):
        stem = STEMS[name]
        spec = getattr(opened(partly), name)
        stored = safetensors.torch.load_file(quantised / name / f"{stem}.safetensors")
        linear = layers(partly / name)
        found = {n.removesuffix(".scales") for n in stored if n.endswith(".scales")}
        wanted = {
            n.removesuffix(".weight")
            for n, tensor in read_component(name, partly / name, spec).items()
            if tensor.tensor.name.removeprefix("text_model.") in linear
        }
        assert found == wanted
        counts[name] = len(found)
    assert counts == {"unet": 68, "vae": 0, "text_encoder": 10, "image_encoder": 3}


def test_the_file_holds_what_mlx_computes(partly: Path, quantised: Path, bits: int) -> None:
    """From the original's values, read by the safetensors library; the rest as ever."""
    before = safetensors.torch.load_file(partly / UNET)
    after = safetensors.torch.load_file(quantised / UNET)
    old = "down_blocks.1.attentions.0.transformer_blocks.0"
    for source, path in (
        (f"{old}.attn2.to_k", f"{old}.attn2.to_k"),
        (f"{old}.attn1.to_out.0", f"{old}.attn1.to_out"),
        (f"{old}.ff.net.2", f"{old}.ff.proj_out"),
    ):
        wanted = mx.quantize(mx.array(before[f"{source}.weight"].numpy()), 64, bits)
        for part, array in zip(("weight", "scales", "biases"), wanted, strict=True):
            assert np.array_equal(after[f"{path}.{part}"].numpy(), np.array(array)), path
        if f"{source}.bias" in before:
            assert torch.equal(after[f"{path}.bias"], before[f"{source}.bias"])
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"  # 32 inputs
    assert torch.equal(after[name], before[name])
    name = "down_blocks.1.attentions.0.proj_in.weight"  # 64 inputs, not of the table
    assert torch.equal(after[name], before[name][:, :, 0, 0])


def test_files_say_so(partly: Path, quantised: Path, bits: int) -> None:
    own = {"format": "mlx", "ipa_layout": "1"}
    assert metadata(quantised / UNET) == own | {"ipa_quantization": f"{bits},64"}
    assert metadata(quantised / "vae" / f"{STEMS['vae']}.safetensors") == own
    for path in partly.rglob("config.json"):
        assert (quantised / path.relative_to(partly)).read_bytes() == path.read_bytes()
    manifest = json.loads((quantised / "conversion.json").read_text())
    assert manifest["quantization"] == {"bits": bits, "group_size": 64}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_another_precision(dtype: str, partly: Path, tmp_path: Path) -> None:
    """Weights are rounded first and quantised then; scales and offsets are of that precision."""
    target = convert_model(opened(partly), tmp_path / "out", dtype=dtype, quantize=4)
    before = safetensors.torch.load_file(partly / UNET)
    after = safetensors.torch.load_file(target / UNET)
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    weights = mx.array(before[f"{path}.weight"].numpy()).astype(getattr(mx, dtype))
    for part, array in zip(
        ("weight", "scales", "biases"), mx.quantize(weights, 64, 4), strict=True
    ):
        found = after[f"{path}.{part}"]
        assert part == "weight" or found.dtype == getattr(torch, dtype)
        assert np.array_equal(found.view(torch.uint8).numpy(), np.array(array.view(mx.uint8))), part
    assert verify_model(opened(partly), opened(target), dtype=dtype) > 100


def test_verification(partly: Path, quantised: Path, tmp_path: Path) -> None:
    count = sum(
        len(safetensors.torch.load_file(path)) for path in quantised.glob("*/*.safetensors")
    )
    assert verify_model(opened(partly), opened(quantised)) == count
    damaged = tmp_path / "damaged"
    shutil.copytree(quantised, damaged)
    tensors = safetensors.torch.load_file(damaged / UNET)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    words = tensors[name].view(torch.int32)
    words[3, 2] ^= 1 << 20
    tensors[name] = words.view(torch.uint32)
    safetensors.torch.save_file(tensors, damaged / UNET, metadata(quantised / UNET))
    with pytest.raises(CheckpointError, match=f"{re.escape(name)} is not what its source holds"):
        verify_model(opened(partly), opened(damaged))


def test_there_is_no_way_back(quantised: Path, tmp_path: Path) -> None:
    for options in ({"layout": "diffusers"}, {}, {"quantize": 8}, {"dtype": "float16"}):
        with pytest.raises(CheckpointError, match="quantised, which cannot be undone") as caught:
            convert_model(opened(quantised), tmp_path / "back", **options)
        assert "original" in caught.value.remedy
    with pytest.raises(CheckpointError, match="cannot be undone"):
        verify_model(opened(quantised), opened(quantised))
    converted = read_component("unet", quantised / "unet", opened(quantised).unet)
    with pytest.raises(CheckpointError, match="cannot be undone"):
        next(converted.originals())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": 5}, "unknown quantisation"),
        ({"quantize": True}, "unknown quantisation"),
        ({"quantize": "8"}, "unknown quantisation"),
        ({"quantize": 8, "layout": "diffusers"}, "only models in MLX's layout"),
    ],
)
def test_what_there_is_not(
    options: dict[str, Any], message: str, partly: Path, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        convert_model(opened(partly), tmp_path / "out", **options)
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_a_model_without_such_widths(tmp_path: Path) -> None:
    unet = models.UNET | {"block_out_channels": (24, 24, 72)}
    unet |= {"attention_head_dim": 2, "norm_num_groups": 6}
    source = models.build_folder(tmp_path / "source", models.Tiny(unet=unet))
    with pytest.raises(RequestError, match="no layer of this model can be quantised"):
        convert_model(opened(source), tmp_path / "out", quantize=8)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


QUERY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t, _: t.pop(f"{QUERY}.scales"), f"1 missing: {QUERY}.scales"),
        (lambda t, _: t.pop(f"{QUERY}.biases"), f"1 missing: {QUERY}.biases"),
        (lambda t, _: t.update({"conv_in.scales": torch.ones(1)}), "1 left over: conv_in.scales"),
        (
            lambda t, _: t.update({f"{QUERY}.weight": t[f"{QUERY}.weight"][:, 1:]}),
            "1 of another shape",
        ),
        (
            lambda t, _: t.update({f"{QUERY}.scales": t[f"{QUERY}.scales"].flatten()}),
            "1 of another shape",
        ),
        (
            lambda t, _: t.update({f"{QUERY}.weight": t[f"{QUERY}.weight"].float()}),
            f"1 of an unsupported type: {QUERY}.weight (F32)",
        ),
        (
            lambda t, _: t.update({f"{QUERY}.scales": t[f"{QUERY}.weight"][:, :1]}),
            f"1 of an unsupported type: {QUERY}.scales (U32)",
        ),
        (lambda _, m: m.pop("ipa_quantization"), "left over"),
    ],
)
def test_a_quantised_file_is_total(
    change: Any, found: str, quantised: Path, tmp_path: Path
) -> None:
    shutil.copytree(quantised, tmp_path / "model")
    tensors, marks = safetensors.torch.load_file(quantised / UNET), metadata(quantised / UNET)
    change(tensors, marks)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, tmp_path / "model" / UNET, marks)
    model = opened(tmp_path / "model")
    with pytest.raises(CheckpointError, match="does not fit this") as caught:
        read_component("unet", model.path / "unet", model.unet)
    assert found in caught.value.found


@pytest.mark.parametrize("tag", ["3,64", "8,32", "8", "", "8,64,affine", "²,64"])
def test_another_quantisation(tag: str, quantised: Path, tmp_path: Path) -> None:
    tensors, marks = safetensors.torch.load_file(quantised / UNET), metadata(quantised / UNET)
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path, marks | {"ipa_quantization": tag})
    with pytest.raises(CheckpointError, match="quantised in a way") as caught:
        inspect(path)
    assert "update ipa-mlx" in caught.value.remedy


def test_scales_that_are_not_numbers(quantised: Path, tmp_path: Path) -> None:
    shutil.copytree(quantised, tmp_path / "model")
    tensors = safetensors.torch.load_file(quantised / UNET)
    tensors[f"{QUERY}.scales"][1, 0] = torch.nan
    safetensors.torch.save_file(tensors, tmp_path / "model" / UNET, metadata(quantised / UNET))
    model = opened(tmp_path / "model")
    converted = read_component("unet", model.path / "unet", model.unet)
    with pytest.raises(CheckpointError, match="not finite"):
        converted[f"{QUERY}.scales"].array()


def test_inspection(partly: Path, quantised: Path, bits: int) -> None:
    """As many weights as before, in fewer bytes, of the same base."""
    before, after = inspect(partly), inspect(quantised)
    assert after.parameters == before.parameters
    assert after.base == before.base
    assert after.bytes < before.bytes
    remarks = {part.name.split("/")[0]: " ".join(part.remarks) for part in after.parts}
    assert f"in {bits} bits" in remarks["unet"]
    assert "bits" not in remarks["vae"]
