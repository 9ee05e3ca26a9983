"""Fingerprints of weights: one for a model in every form, another for another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from ipa import demo
from ipa.errors import CheckpointError
from ipa.model.clip import ClipTextSpec
from ipa.model.unet import UNetSpec
from ipa.sources.model_folder import open_model_folder
from ipa_convert import (
    LoraTargets,
    agreement,
    convert_adapter,
    convert_lora,
    convert_model,
    fingerprint,
    lora_fingerprint,
    read_adapter,
    read_component,
    read_lora,
    read_model,
)
from oracle import loras, models

STEM = "diffusion_pytorch_model.safetensors"


def unet(folder: Path) -> dict[str, str]:
    model = open_model_folder(folder, name=folder.name)
    return fingerprint(read_component("unet", model.path / "unet", model.unet))


@pytest.fixture(scope="module")
def ours(tiny: Path) -> dict[str, str]:
    return unet(tiny)


@pytest.mark.parametrize(
    ("dtype", "layout", "equal"),
    [
        (None, "mlx", "float32"),
        ("float16", "mlx", "float16"),
        ("bfloat16", "mlx", "bfloat16"),
        (None, "diffusers", "float32"),
    ],
)
def test_a_conversion_is_its_original(
    dtype: str | None, layout: str, equal: str, tiny: Path, ours: dict[str, str], tmp_path: Path
) -> None:
    source = open_model_folder(tiny, name="tiny")
    convert_model(source, tmp_path / "made", dtype=dtype, layout=layout)
    made = unet(tmp_path / "made")
    assert agreement(ours, made) == equal
    if dtype is None:
        assert made == ours


def test_another_precision_of_the_same_values(
    tiny: Path, ours: dict[str, str], tmp_path: Path
) -> None:
    """float16 widened to float32 is equal to it in every bit that a network sees."""
    config = (tiny / "unet" / "config.json").read_bytes()
    half = {name: t.half() for name, t in load_torch(tiny / "unet" / STEM).items()}
    found = []
    for name, weights in (("half", half), ("wide", {k: t.float() for k, t in half.items()})):
        folder = tmp_path / name / "unet"
        folder.mkdir(parents=True)
        (folder / "config.json").write_bytes(config)
        save_torch(weights, folder / STEM)
        spec = open_model_folder(tiny, name="tiny").unet
        found.append(fingerprint(read_component("unet", folder, spec)))
    assert found[0] == found[1] != ours
    assert agreement(ours, found[0]) == "float16"


def test_few_bits_are_told_by_the_rest(tmp_path: Path) -> None:
    """The demo's widths are whole groups; a quantised folder keeps nothing of those matrices."""
    source = open_model_folder(demo.model(), name="demo")
    whole = fingerprint(read_model(source, ("unet",))["unet"])
    convert_model(source, tmp_path / "few", quantize=4)
    few = unet(tmp_path / "few")
    assert "float32" not in few
    assert agreement(whole, few) == agreement(few, whole) == "float32 but for quantised layers"


@pytest.mark.parametrize("part", ["conv_in.bias", "to_q.weight"])
def test_one_weight_makes_another_model(
    part: str, tiny: Path, ours: dict[str, str], tmp_path: Path
) -> None:
    """Also in a layer that quantisation changes: that excuses nothing between whole models."""
    weights = load_file(tiny / "unet" / STEM)
    name = next(name for name in weights if name.endswith(part))
    weights[name].flat[-1] += 0.25
    save_file(weights, tmp_path / STEM)
    spec = open_model_folder(tiny, name="tiny").unet
    assert agreement(ours, fingerprint(read_component("unet", tmp_path, spec))) is None


def test_adapters_in_every_container(tiny: Path, tmp_path: Path) -> None:
    model = open_model_folder(tiny, name="tiny")

    def of(path: Path) -> dict[str, str]:
        return fingerprint(read_adapter(path, model.sites, model.unet.context_width)[1])

    source = tiny / "plus.safetensors"
    expected = of(source)
    convert_adapter(source, tmp_path / "plus.safetensors", sites=model.sites)
    assert of(tmp_path / "plus.safetensors") == expected
    assert agreement(expected, of(tiny / "linear.safetensors")) is None


def test_values_that_are_no_numbers(tiny: Path, tmp_path: Path) -> None:
    weights = load_file(tiny / "unet" / STEM)
    weights["conv_in.bias"][0] = np.nan
    save_file(weights, tmp_path / STEM)
    spec = open_model_folder(tiny, name="tiny").unet
    with pytest.raises(CheckpointError, match="not finite"):
        fingerprint(read_component("unet", tmp_path, spec))


def test_loras_in_every_spelling(tmp_path: Path) -> None:
    """kohya's alphas and PEFT's configuration say the same; another alpha is another LoRA."""
    every = list(loras.layers(loras.sd_pipeline()).items())
    pairs = loras.random_pairs(dict(every[::25]), seed=1)
    targets = LoraTargets(
        unet=UNetSpec.from_config(loras.SD_UNET), text_encoder=ClipTextSpec.from_config(models.TEXT)
    )
    weaker = {place: replace(pair, alpha=pair.alpha / 2) for place, pair in pairs.items()}
    files = {
        "kohya": loras.kohya(pairs, "sd"),
        "peft": loras.peft(pairs, config=loras.peft_config(pairs)),
        "weaker": loras.kohya(weaker, "sd"),
    }

    def of(path: Path) -> dict[str, str]:
        return lora_fingerprint(read_lora(path, targets))

    paths = {name: loras.write(tmp_path / f"{name}.safetensors", f) for name, f in files.items()}
    expected = of(paths["kohya"])
    assert of(paths["peft"]) == expected
    made = convert_lora(paths["kohya"], tmp_path / "mlx.safetensors", targets)
    assert of(made) == expected
    half = convert_lora(made, tmp_path / "half.safetensors", targets, dtype="float16")
    assert agreement(expected, of(half)) == "float16"
    assert agreement(expected, of(paths["weaker"])) is None
