"""ControlNets: tables, both namings, every container, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import (
    convert_controlnet_checkpoint,
    convert_ldm_unet_checkpoint,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.errors import CheckpointError
from ipa.model.controlnet import ControlNetSpec
from ipa_convert import Converted, read_component
from ipa_convert.containers.checkpoint import CONVERTED, open_file
from ipa_convert.containers.safetensors_file import write_safetensors
from ipa_convert.tables import controlnet
from ipa_convert.tables.matching import convert
from ipa_convert.writing.rows import rows
from oracle import controlnets
from oracle.containers import array_bits, bits, save, save_shards
from oracle.controlnets import CONFIGS, CROSS, PLAIN, TRUE, base_model, built, original, weights

STEM = "diffusion_pytorch_model"
Tensors = dict[str, torch.Tensor]


def save_zip(path: Path, tensors: Tensors) -> Path:
    torch.save(tensors, path)
    return path


def save_stream(path: Path, tensors: Tensors) -> Path:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    return path


def save_state(path: Path, tensors: Tensors) -> Path:
    torch.save({"state_dict": tensors, "epoch": 3}, path)
    return path


CONTAINERS: dict[str, tuple[str, Callable[[Path, Tensors], Path]]] = {
    "safetensors": ("a.safetensors", save),
    "zip": ("a.pth", save_zip),
    "stream": ("a.pth", save_stream),
    "training": ("a.ckpt", save_state),
}


def spec(name: str) -> ControlNetSpec:
    return ControlNetSpec.from_config(CONFIGS[name])


def table_of(config: Any) -> dict[str, tuple[int, ...]]:
    listed = list(controlnet.tensors(ControlNetSpec.from_config(config)))
    found = {tensor.name: tensor.shape for tensor in listed}
    assert len(found) == len(listed), "a name occurs twice"
    return found


def meta(config: dict[str, Any]) -> tuple[dict[str, tuple[int, ...]], Any]:
    module = built(ControlNetModel, **config)
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}, module.config


def expected(tensors: Tensors) -> Tensors:
    """What MLX should get, by PyTorch's means."""
    result = {}
    for name, value in tensors.items():
        module = name.split(".")[-2]
        pointwise = module in {"conv_shortcut", "proj_in", "proj_out"} or name.startswith(
            ("controlnet_down_blocks.", "controlnet_mid_block.")
        )
        if value.ndim == 4:
            value = value[:, :, 0, 0] if pointwise else value.movedim(1, 3)
        for old, new in (
            (".to_out.0.", ".to_out."),
            (".ff.net.0.proj.", ".ff.proj_in."),
            (".ff.net.2.", ".ff.proj_out."),
            (".downsamplers.0.conv.", ".downsample."),
            ("controlnet_cond_embedding.", "conditioning_embedding."),
        ):
            name = name.replace(old, new)
        result[name] = value
    return result


def check(converted: Converted, tensors: Tensors) -> None:
    wanted = expected(tensors)
    assert converted.keys() == wanted.keys()
    for name, value in wanted.items():
        array = converted[name].array()
        assert array.shape == tuple(value.shape)
        assert np.array_equal(array_bits(array), bits(value)), name


@pytest.mark.parametrize("name", CONFIGS)
def test_tables(name: str) -> None:
    shapes, config = meta(CONFIGS[name])
    assert table_of(config) == shapes


@pytest.mark.parametrize(
    ("name", "tensors", "parameters"),
    [
        ("SD1.5", 340, 361_279_120),
        ("SD2", 340, 364_228_240),
        ("SDXL", 844, 1_251_014_160),
        ("SDXL mid", 224, 272_586_000),
        ("SDXL small", 140, 160_111_120),
    ],
)
def test_true_sizes(name: str, tensors: int, parameters: int) -> None:
    shapes, config = meta(TRUE[name])
    found = table_of(config)
    assert (len(found), sum(map(prod, found.values()))) == (tensors, parameters)
    assert found == shapes


@st.composite
def any_config(draw: st.DrawFn) -> dict[str, Any]:
    levels = draw(st.integers(1, 4))

    def per_level(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        return tuple(draw(st.lists(values, min_size=levels, max_size=levels)))

    widths = st.lists(st.integers(1, 9), min_size=1, max_size=5)
    return {
        "block_out_channels": per_level(st.sampled_from([8, 16, 24])),
        "down_block_types": per_level(st.sampled_from([CROSS, PLAIN])),
        "layers_per_block": draw(st.integers(1, 3)),
        "transformer_layers_per_block": per_level(st.integers(0, 2)),
        "attention_head_dim": per_level(st.sampled_from([1, 2, 4])),
        "cross_attention_dim": draw(st.integers(1, 30)),
        "norm_num_groups": 4,
        "use_linear_projection": draw(st.booleans()),
        "in_channels": draw(st.integers(1, 9)),
        "conditioning_channels": draw(st.integers(1, 6)),
        "conditioning_embedding_out_channels": tuple(draw(widths)),
    }


@settings(max_examples=40, deadline=None)
@given(any_config())
def test_any_controlnet(config: dict[str, Any]) -> None:
    shapes, parsed = meta(config)
    assert table_of(parsed) == shapes


@pytest.mark.parametrize("name", CONFIGS)
def test_original_names(name: str) -> None:
    """The test's own spelling, judged by diffusers; its reader of ControlNets knows no SDXL."""
    tensors = weights(name)
    config = dict(ControlNetModel(**CONFIGS[name]).config)
    control = convert_controlnet_checkpoint(original(tensors, "control_model."), config)
    unet = convert_ldm_unet_checkpoint(original(tensors, "model.diffusion_model."), config)
    for judged in (control, unet):
        common = judged.keys() & tensors.keys()
        assert all(torch.equal(judged[key], tensors[key]) for key in common)
    assert control.keys() <= tensors.keys()
    assert control.keys() | unet.keys() >= tensors.keys()


@pytest.mark.matrix
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_diffusers_folders(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {key: value.to(dtype) for key, value in weights(name).items()}
    save(tmp_path / f"{STEM}.safetensors", tensors)
    converted = read_component("controlnet", tmp_path, spec(name))
    check(converted, tensors)
    found = {key: array for key, _, array in converted.originals()}
    assert found.keys() == tensors.keys()
    for key, value in tensors.items():
        assert np.array_equal(array_bits(found[key]), bits(value)), key


def test_shards_and_variants(tmp_path: Path) -> None:
    tensors = weights("SD1.5")
    save_shards(tmp_path, STEM, tensors, 3, "fp16")
    check(read_component("controlnet", tmp_path, spec("SD1.5"), variant="fp16"), tensors)


@pytest.mark.matrix
@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("prefix", ["", "control_model."])
@pytest.mark.parametrize("name", CONFIGS)
def test_original_files(name: str, prefix: str, kind: str, tmp_path: Path) -> None:
    tensors = weights(name)
    file, write = CONTAINERS[kind]
    path = write(tmp_path / file, original(tensors, prefix))
    converted = convert(open_file(path), controlnet.table(spec(name)))
    check(converted, tensors)
    assert not converted.dropped


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["safetensors", "zip", "training"])
@pytest.mark.parametrize("name", ["SD1.5", "SD2"])
def test_diffusers_reads_the_same(name: str, kind: str, tmp_path: Path) -> None:
    tensors = weights(name)
    ControlNetModel(**CONFIGS[name]).save_config(tmp_path / "config")
    file, write = CONTAINERS[kind]
    path = write(tmp_path / file, original(tensors, "control_model."))
    judge = ControlNetModel.from_single_file(str(path), config=str(tmp_path / "config"))
    check(convert(open_file(path), controlnet.table(spec(name))), judge.state_dict())


@pytest.mark.matrix
@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_whole_checkpoint(kind: str, tmp_path: Path) -> None:
    """Only the ControlNet is taken; the rest is named, with the reason."""
    tensors, rest = weights("SD1.5"), base_model()
    file, write = CONTAINERS[kind]
    path = write(tmp_path / file, rest | original(tensors, "control_model."))
    converted = convert(open_file(path), controlnet.table(spec("SD1.5")))
    check(converted, tensors)
    assert converted.dropped.keys() == rest.keys()
    assert all("whole checkpoint" in reason for reason in converted.dropped.values())


def test_zeros_are_kept(tmp_path: Path) -> None:
    """An untrained ControlNet ends in zeros; they are weights like others."""
    tensors = ControlNetModel(**CONFIGS["SD1.5"]).state_dict()
    assert not tensors["controlnet_down_blocks.3.weight"].any()
    path = save(tmp_path / "a.safetensors", tensors)
    check(convert(open_file(path), controlnet.table(spec("SD1.5"))), tensors)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_converted_file_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    tensors, table = weights(name), controlnet.table(spec(name))
    path = save(tmp_path / "a.safetensors", original(tensors))
    target = tmp_path / "b.safetensors"
    write_safetensors(target, rows(convert(open_file(path), table), None, "mlx"), CONVERTED)
    check(convert(open_file(target), table), tensors)


@pytest.mark.parametrize("prefix", ["", "control_model."])
def test_what_is_wrong_is_named(prefix: str, tmp_path: Path) -> None:
    stored = original(weights("SD1.5"), prefix)
    stored[f"{prefix}zero_convs.12.0.weight"] = stored.pop(f"{prefix}zero_convs.11.0.weight")
    stored[f"{prefix}input_hint_block.1.weight"] = torch.ones(2)
    stored[f"{prefix}middle_block.0.in_layers.0.bias"] = torch.ones(2)
    path = save(tmp_path / "a.safetensors", stored)
    with pytest.raises(CheckpointError) as caught:
        convert(open_file(path), controlnet.table(spec("SD1.5")))
    assert "1 missing: controlnet_down_blocks.11.weight" in caught.value.found
    assert "2 left over" in caught.value.found
    assert f"{prefix}zero_convs.12.0.weight" in caught.value.found
    assert f"{prefix}input_hint_block.1.weight" in caught.value.found
    assert f"1 of another shape: {prefix}middle_block.0.in_layers.0.bias" in caught.value.found


def test_both_namings_in_one_file(tmp_path: Path) -> None:
    tensors = weights("SDXL small")
    path = save_zip(tmp_path / "a.pth", tensors | original(tensors))
    with pytest.raises(CheckpointError, match=r"140 given twice"):
        convert(open_file(path), controlnet.table(spec("SDXL small")))


@pytest.mark.parametrize("name", CONFIGS)
def test_residuals(name: str) -> None:
    """One for each zero convolution, as wide as it."""
    tensors = weights(name)
    widths = spec(name).residual_channels
    assert list(widths) == [
        len(tensors[f"controlnet_down_blocks.{i}.bias"]) for i in range(len(widths))
    ]
    assert f"controlnet_down_blocks.{len(widths)}.bias" not in tensors
    assert spec(name).scale_factor == 8


def test_spellings_cover_every_public_name() -> None:
    """No two tensors share an original name, at the true sizes."""
    for config in TRUE.values():
        names = list(meta(config)[0])
        assert len({controlnets.original_name(name) for name in names}) == len(names)
