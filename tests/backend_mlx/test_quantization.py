"""Quantised layers compute with the weights that MLX restores, wherever they were quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

import ipa
from ipa.errors import RequestError
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_model, read_component
from ipa_mlx import backend
from ipa_mlx.backend import MlxBackend
from ipa_mlx.conditioning import Conditioning
from ipa_mlx.networks.clip import TextEncoder, VisionEncoder
from ipa_mlx.networks.unet import UNet
from ipa_mlx.networks.weights import place
from oracle import models
from oracle.measure import relative

CALL = {
    "num_inference_steps": 1,
    "guidance_scale": 1.0,
    "width": 32,
    "height": 24,
    "output_type": "np",
}


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Widths that are multiples of 64, and widths that are not; an adapter beside the folder."""
    unet = models.UNET | {
        "block_out_channels": (32, 64, 128),
        "cross_attention_dim": 64,
        "attention_head_dim": (2, 4, 4),
        "norm_num_groups": 16,
    }
    tiny = models.Tiny(
        unet=unet,
        text=models.TEXT | {"hidden_size": 64, "num_attention_heads": 4},
        vision=models.VISION | {"hidden_size": 64, "num_attention_heads": 4},
    )
    folder = models.build_folder(tmp_path_factory.mktemp("partly") / "model", tiny, seed=4)
    tensors = models.adapter_tensors("linear", models.unet_sites(unet), context=64, feature=36)
    models.write_adapter(folder.with_name("linear.safetensors"), tensors)
    return folder


@pytest.fixture(scope="module", params=[("float32", 8), ("float16", 8), ("bfloat16", 4)])
def case(
    request: pytest.FixtureRequest, partly: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, int]:
    """A quantised folder, its precision, its bits."""
    dtype, bits = request.param
    model = open_model_folder(partly, name="partly")
    target = tmp_path_factory.mktemp("quantised") / "model"
    return convert_model(model, target, dtype=dtype, quantize=bits), dtype, bits


def loaded(folder: Path, dtype: str, quantize: int | None = None) -> MlxBackend:
    return backend.load(open_model_folder(folder, name="x"), dtype=dtype, quantize=quantize)


def parameters(module: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(module.parameters()))


def test_loading_is_quantising_on_loading(case: tuple[Path, str, int], partly: Path) -> None:
    folder, dtype, bits = case
    one, two = loaded(folder, dtype), loaded(partly, dtype, bits)
    for name in ("unet", "vae", "text_encoder"):
        first, second = (parameters(getattr(runtime, name)) for runtime in (one, two))
        assert first.keys() == second.keys()
        for key, array in first.items():
            is_packed = key.removesuffix("weight") + "scales" in first
            assert array.dtype == (mx.uint32 if is_packed else getattr(mx, dtype))
            assert array.dtype == second[key].dtype
            assert mx.array_equal(array, second[key]), key


@pytest.mark.parametrize("bits", [4, 8])
def test_the_same_picture(
    bits: int, partly: Path, references: list[Image.Image], tmp_path: Path
) -> None:
    """With an adapter, whose image encoder is quantised alike: none lies beside it."""
    model = open_model_folder(partly, name="partly")
    folder = convert_model(model, tmp_path / "model", quantize=bits)
    pictures = []
    for path, quantize in ((folder, None), (partly, bits), (partly, None)):
        pipe = ipa.load(path, backend="mlx", dtype="float32", quantize=quantize)
        pipe.load_ip_adapter(partly.with_name("linear.safetensors"))
        pictures.append(pipe("a star", ip_adapter_image=references[0], **CALL).images)
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_what_is_said(case: tuple[Path, str, int], partly: Path) -> None:
    folder, dtype, bits = case
    pipe = ipa.load(folder, backend="mlx", dtype=dtype)
    pipe.load_ip_adapter(partly.with_name("linear.safetensors"))
    info, plain = pipe.info(), ipa.load(partly, backend="mlx", dtype=dtype).info()
    assert plain["quantization"] == {}
    found = {part: (f["bits"], f["group_size"]) for part, f in info["quantization"].items()}
    named = {"unet", "text_encoder", "image_encoder:image_encoder"}
    assert found == dict.fromkeys(named, (bits, 64))
    assert info["bytes"]["vae"] == plain["bytes"]["vae"]
    assert info["bytes"]["unet"] < plain["bytes"]["unet"]


def restored(kind: Any, quantised: nn.Module, spec: Any) -> nn.Module:
    """An ordinary module with the weights that `mx.dequantize` gives."""
    module, given = kind(spec), parameters(quantised)
    bits = next(m.bits for m in quantised.modules() if isinstance(m, nn.QuantizedLinear))
    for path in [name.removesuffix(".scales") for name in given if name.endswith(".scales")]:
        parts = [given.pop(f"{path}.{part}") for part in ("weight", "scales", "biases")]
        given[f"{path}.weight"] = mx.dequantize(*parts, 64, bits)
    module.load_weights(list(given.items()))  # strict
    return module


@pytest.mark.parametrize("bits", [4, 8])
def test_every_use_of_a_quantised_layer(bits: int, partly: Path, draw: np.random.Generator) -> None:
    """The three networks against ordinary ones with the restored weights."""
    model = open_model_folder(partly, name="partly")
    runtime = loaded(partly, "float32", bits)
    unet = restored(UNet, runtime.unet, model.unet)
    x = mx.array(draw.standard_normal((2, 9, 7, 4), dtype=np.float32))
    text = mx.array(draw.standard_normal((2, 11, 64), dtype=np.float32))
    outputs = []
    for network in (runtime.unet, unet):
        pairs = tuple(attention.keys_values(text) for attention in network.cross_attentions)
        outputs.append(np.array(network(x, 481.0, Conditioning(2, pairs, ()).context(()))))
    assert relative(*outputs) < 2e-6  # measured 7.8e-7
    ids = mx.array(draw.integers(0, 674, (2, 77)))
    tower = restored(TextEncoder, runtime.text_encoder, model.text_encoder)
    outputs = [np.array(network(ids)) for network in (runtime.text_encoder, tower)]
    assert relative(*outputs) < 1e-6  # measured 3.7e-7
    encoder = VisionEncoder(model.image_encoder)
    converted = read_component("image_encoder", partly / "image_encoder", model.image_encoder)
    place(encoder, converted, mx.float32, "tiny", runtime.quantization)
    tower = restored(VisionEncoder, encoder, model.image_encoder)
    pixels = mx.array(draw.standard_normal((2, 28, 28, 3), dtype=np.float32))
    outputs = [np.array(network.embedding(pixels)) for network in (encoder, tower)]
    assert relative(*outputs) < 1e-6  # measured 2.8e-7


def test_an_adapter_that_is_off_changes_nothing(
    partly: Path, references: list[Image.Image]
) -> None:
    pipe = ipa.load(partly, backend="mlx", dtype="float32", quantize=8)
    before = pipe("a star", **CALL).images
    pipe.load_ip_adapter(partly.with_name("linear.safetensors"), scale=0.0)
    off = pipe("a star", ip_adapter_image=references[0], **CALL).images
    assert np.array_equal(before, off)
    pipe.set_ip_adapter_scale(1.0)
    assert not np.array_equal(before, pipe("a star", ip_adapter_image=references[0], **CALL).images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "mlx", "quantize": 5}, "unknown quantisation"),
        ({"backend": "mlx", "quantize": True}, "unknown quantisation"),
        ({"backend": "torch", "quantize": 8}, "the torch backend takes no quantize"),
    ],
)
def test_what_there_is_not(options: dict[str, Any], message: str) -> None:
    """Told before the model is looked for."""
    with pytest.raises(RequestError, match=message):
        ipa.load("none/at/all", offline=True, **options)


def test_a_folder_keeps_its_bits(case: tuple[Path, str, int]) -> None:
    folder, dtype, bits = case
    assert loaded(folder, dtype, bits).describe() == loaded(folder, dtype).describe()
    with pytest.raises(RequestError, match="quantised already") as caught:
        loaded(folder, dtype, 12 - bits)
    assert f"{bits} bits" in caught.value.found


def test_a_model_without_such_widths(tmp_path: Path) -> None:
    unet = models.UNET | {"block_out_channels": (24, 24, 72)}
    unet |= {"attention_head_dim": 2, "norm_num_groups": 6}
    folder = models.build_folder(tmp_path / "model", models.Tiny(unet=unet))
    with pytest.raises(RequestError, match="no layer of this model can be quantised"):
        loaded(folder, "float32", 8)
