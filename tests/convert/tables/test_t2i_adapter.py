"""T2I-Adapters: tables, both namings, what a lone file tells, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import T2IAdapter
from mlx.utils import tree_flatten

from ipa.errors import CheckpointError, RequestError
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa_convert import (
    convert_component,
    inspect,
    kind_of,
    open_component,
    open_t2i_adapter,
    verify_component,
)
from ipa_convert.tables import t2i_adapter
from ipa_mlx.networks import t2i_adapter as networks
from oracle import models, t2i_adapters
from oracle.containers import array_bits, bits, save, write_sparse
from oracle.controlnets import built
from oracle.measure import relative
from oracle.t2i_adapters import FULL, LIGHT, XL

CONFIGS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "grey, three in each": FULL | {"in_channels": 1, "num_res_blocks": 3},
    "light": LIGHT,
    "xl": XL,
    "xl, grey": XL | {"in_channels": 1, "num_res_blocks": 2},
}
TRUE: dict[str, tuple[dict[str, Any], str]] = {
    "full_adapter": ({}, "SD1.5"),
    "full_adapter, grey": ({"in_channels": 1}, "SD1.5"),
    "light_adapter": (
        {"adapter_type": "light_adapter", "channels": (320, 640, 1280), "num_res_blocks": 4},
        "SD1.5",
    ),
    "full_adapter_xl": ({"adapter_type": "full_adapter_xl", "downscale_factor": 16}, "SDXL"),
}
"""The public ones at their sizes; diffusers' defaults are those of SD1.5."""


def shapes_of(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_naming_gives_diffusers_tensors(name: str, tmp_path: Path) -> None:
    """Bit for bit, its structure told from the tensors alone; and for MLX and back."""
    net = t2i_adapters.adapter(3, **CONFIGS[name])
    tensors = dict(net.state_dict())
    torch.save(t2i_adapters.original(net), tmp_path / "original.pth")
    save(tmp_path / "plain.safetensors", tensors)
    spec = T2IAdapterSpec.from_config(net.config)
    for file in ("original.pth", "plain.safetensors"):
        lone = open_component(tmp_path / file)
        assert T2IAdapterSpec.from_config(lone.config) == spec
        found = {key: array for key, _, array in lone.converted.originals()}
        assert found.keys() == tensors.keys()
        assert all(np.array_equal(array_bits(found[k]), bits(v)) for k, v in tensors.items())
    there = convert_component(tmp_path / "original.pth", tmp_path / "there")
    assert verify_component(tmp_path / "original.pth", there, None)
    lone = open_component(there / "diffusion_pytorch_model.safetensors")
    assert T2IAdapterSpec.from_config(lone.config) == spec
    back = convert_component(there, tmp_path / "back", layout="diffusers")
    again = T2IAdapter.from_pretrained(back).state_dict()
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("name", CONFIGS)
def test_features_are_diffusers(name: str) -> None:
    """Of the module alone, at a size whose halves are odd."""
    net = t2i_adapters.adapter(4, **CONFIGS[name])
    spec = T2IAdapterSpec.from_config(net.config)
    table, module = t2i_adapter.table(spec), networks.T2IAdapter(spec)
    parameters = {key: array.shape for key, array in tree_flatten(module.parameters())}
    assert {table.target(t): t.target_shape for t in table.tensors} == parameters
    layouts = {table.target(t): (t.name, t.layout) for t in table.tensors}
    values = {key: value.numpy() for key, value in net.state_dict().items()}
    module.load_weights(
        [(k, mx.array(layout.to_target(values[n]))) for k, (n, layout) in layouts.items()]
    )
    side = spec.downscale_factor
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(1, spec.in_channels, 3 * side, 5 * side, generator=generator)
    with torch.inference_mode():
        expected = [feature.permute(0, 2, 3, 1).numpy() for feature in net(pixels)]
    found = [np.array(f) for f in module(mx.array(pixels.permute(0, 2, 3, 1).numpy()))]
    assert len(found) == len(expected) == spec.results
    assert [f.shape[-1] for f in found] == [width for width, _ in spec.features]
    for own, judged in zip(found, expected, strict=True):
        assert own.shape == judged.shape
        assert relative(own, judged) < 1.5e-6  # measured: 5.1e-7


@pytest.mark.parametrize("spelling", ["diffusers", "original"])
@pytest.mark.parametrize("name", TRUE)
def test_public_files(name: str, spelling: str, tmp_path: Path) -> None:
    """At their true sizes, from shapes alone."""
    config, base = TRUE[name]
    net = built(T2IAdapter, **config)
    tensors = dict(net.state_dict()) if spelling == "diffusers" else t2i_adapters.original(net)
    path = write_sparse(tmp_path / "a.safetensors", shapes_of(tensors), "F16")
    spec = T2IAdapterSpec.from_config(open_t2i_adapter(path)[0])
    assert spec == T2IAdapterSpec.from_config(net.config)
    assert len(open_component(path).converted) == len(tensors)
    found = inspect(path)
    assert (found.family, found.base) == ("T2I-Adapter", base)
    assert found.variant == config.get("adapter_type", "full_adapter")
    remarks = " | ".join(found.remarks)
    assert f"{config.get('in_channels', 3)} channel" in remarks
    assert ("original naming" in remarks) == (spelling == "original")
    assert "not supported" not in remarks
    assert kind_of(path) == "t2i_adapter"


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    tensors = t2i_adapters.original(t2i_adapters.adapter(5, **FULL))
    name = "body.1.block1.weight"
    for number, (wrong, words) in enumerate(
        (
            ({"body.1.block2.bias": None}, "1 missing: adapter.body.0.resnets.1.block2.bias"),
            ({"body.1.skep.weight": torch.ones(2)}, "1 left over: body.1.skep.weight"),
            ({name: torch.ones(16, 15, 3, 3)}, rf"1 of another shape: {name} \(16, 15, 3, 3\)"),
            ({"body.8.block1.weight": torch.ones(1)}, "no public structure"),
            ({"conv_in.weight": torch.ones(16, 100, 3, 3)}, "takes 100 channels"),
            ({"conv_in.weight": None}, "no conv_in.weight"),
        )
    ):
        kept = {k: v for k, v in (tensors | wrong).items() if v is not None}
        with pytest.raises(CheckpointError, match=words):
            open_component(save(tmp_path / f"{number}.safetensors", kept))
        assert inspect(tmp_path / f"{number}.safetensors").family == "T2I-Adapter"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter_type": "huge_adapter"}, "full_adapter, full_adapter_xl, light_adapter"),
        ({"in_channels": 4}, "1 for a grey"),
        ({"channels": (8, 8, 8, 9), "adapter_type": "full_adapter_xl"}, "follow one another"),
        ({"channels": (8, 3), "adapter_type": "light_adapter"}, "at least 4 channels"),
        ({"channels": ()}, "list of integers"),
        ({"num_res_blocks": 0}, "num_res_blocks"),
        ({"_class_name": "ControlNetModel"}, "load_controlnet"),
        ({"_class_name": "MultiAdapter"}, "T2IAdapter is needed"),
    ],
)
def test_wrong_configs(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        T2IAdapterSpec.from_config(FULL | changes)


def test_quantising_has_nothing_to_do(tmp_path: Path) -> None:
    models.randomize(T2IAdapter(**FULL), 6).save_pretrained(tmp_path / "a")
    with pytest.raises(RequestError, match="quantised"):
        convert_component(tmp_path / "a", tmp_path / "b", quantize=8)
    assert not (tmp_path / "b").exists()
