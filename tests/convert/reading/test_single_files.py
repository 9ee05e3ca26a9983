"""Whole models in one file: the same weights as the folder's, and diffusers' loader agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

import ipa
import ipa_convert
from ipa.errors import CheckpointError, RequestError
from ipa.model.folder import ModelFolder
from ipa.sources.models import resolve_model
from oracle import models, single_files
from oracle.single_files import CONTAINERS, Tensors

Spell = Callable[[Path], Tensors]
SD15 = models.Tiny(unet=dict(models.FOUR_LEVELS))
MODELS = {
    "sd15": SD15,
    "sd2": models.Tiny(
        unet=models.FOUR_LEVELS
        | {"use_linear_projection": True, "attention_head_dim": (2, 4, 4, 6)},
        text=models.TEXT | {"num_hidden_layers": 23, "hidden_act": "gelu"},
    ),
    "sdxl": models.Tiny(unet=dict(models.XL_UNET), second_text=dict(models.SECOND_TEXT)),
}
# The spellings of each: (model, its tensors in the original names).
SPELLINGS: dict[str, tuple[str, Spell]] = {
    "sd15": ("sd15", single_files.sd15),
    "sd15, flattened text": ("sd15", lambda folder: flattened(single_files.sd15(folder))),
    "sd2": ("sd2", single_files.sd2),
    "sd2, all 24 layers": ("sd2", lambda folder: last_layer(single_files.sd2(folder))),
    "sd2, by generative-models": (
        "sd2",
        lambda folder: single_files.sd2(folder, "conditioner.embedders.0.model."),
    ),
    "sdxl": ("sdxl", single_files.sdxl),
}


def flattened(tensors: Tensors) -> Tensors:
    """As some old merges spell the text encoder."""
    return {name.replace(".text_model.", "."): tensor for name, tensor in tensors.items()}


def last_layer(tensors: Tensors) -> Tensors:
    """With what Stable Diffusion 2 never uses: the last layer and the projection."""
    text, width = "cond_stage_model.model.", models.TEXT["hidden_size"]
    layer = f"{text}transformer.resblocks."
    extra = {
        name.replace(f"{layer}22.", f"{layer}23."): tensor + 1
        for name, tensor in tensors.items()
        if name.startswith(f"{layer}22.")
    }
    return {**tensors, **extra, f"{text}text_projection": torch.rand(width, width)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each model; beside it its configs alone."""
    found = {}
    for name, tiny in MODELS.items():
        root = tmp_path_factory.mktemp(name)
        found[name] = models.build_folder(root / "model", tiny)
        single_files.configs(found[name], root / "configs")
    return found


@pytest.fixture(scope="module")
def rows(folders: dict[str, Path]) -> dict[str, dict[tuple[str, str], bytes]]:
    """What a file of each model must hold."""
    return {name: without_encoder(read(resolve_model(path))) for name, path in folders.items()}


@pytest.fixture
def tiny(folders: dict[str, Path]) -> Path:
    """That of the first kind."""
    return folders["sd15"]


def read(model: ModelFolder) -> dict[tuple[str, str], bytes]:
    """Every tensor's type, shape and bits, by component and MLX name."""
    return {
        (component, name): str((tensor.dtype, tensor.shape)).encode() + tensor.array().tobytes()
        for component, part in ipa_convert.read_model(model).items()
        for name, tensor in part.items()
    }


def without_encoder(rows: dict[tuple[str, str], bytes]) -> dict[tuple[str, str], bytes]:
    return {key: row for key, row in rows.items() if key[0] != "image_encoder"}


@pytest.mark.matrix
@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_same_weights_as_the_folder(
    folders: dict[str, Path],
    rows: dict[str, dict[tuple[str, str], bytes]],
    tmp_path: Path,
    spelling: str,
    container: str,
) -> None:
    name, spell = SPELLINGS[spelling]
    file = single_files.write(tmp_path / "model.ckpt", spell(folders[name]), container)
    model = resolve_model(file, config=folders[name].parent / "configs")
    assert read(model) == rows[name]


@pytest.mark.matrix
@pytest.mark.parametrize("name", MODELS)
def test_diffusers_reads_the_same(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    """The spelling is diffusers' idea of it too: every tensor lands where it was taken from."""
    folder = folders[name]
    file = single_files.write(tmp_path / "m.safetensors", SPELLINGS[name][1](folder), "safetensors")
    kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
    pipe = kind.from_single_file(str(file), config=str(folder.parent / "configs"))
    components = ("unet", "vae", "text_encoder", *(["text_encoder_2"] if name == "sdxl" else []))
    for component in components:
        state = getattr(pipe, component).state_dict()
        same_tensors(state, single_files.component(folder, component))


def same_tensors(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_it_generates_like_the_folder(tiny: Path, tmp_path: Path) -> None:
    file = single_files.write(tmp_path / "m.safetensors", single_files.sd15(tiny), "safetensors")
    latents = [
        ipa.load(model, backend="mlx", dtype="float32")(
            "a star", num_inference_steps=2, guidance_scale=3, output_type="latent"
        ).latents
        for model in (resolve_model(file, config=tiny.parent / "configs"), tiny)
    ]
    np.testing.assert_array_equal(latents[0], latents[1])


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_reference_reads_it_too(tiny: Path, tmp_path: Path, container: str) -> None:
    """By diffusers' single-file loaders, without our converters."""
    file = single_files.write(tmp_path / "m.ckpt", single_files.sd15(tiny), container)
    backends = [
        ipa.load(model, backend="torch", device="cpu")._loaded.backend
        for model in (resolve_model(file, config=tiny.parent / "configs"), tiny)
    ]
    for name in ("unet", "vae", "text_encoder"):
        found, expected = (getattr(backend, name).state_dict() for backend in backends)
        same_tensors(found, expected)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layout", ["mlx", "diffusers"])
def test_converting(folders: dict[str, Path], tmp_path: Path, layout: str, name: str) -> None:
    tensors = SPELLINGS[name][1](folders[name])
    file = single_files.write(tmp_path / "m.ckpt", tensors, "torch zip")
    model = resolve_model(file, config=folders[name].parent / "configs")
    target = ipa_convert.convert_model(model, tmp_path / "out", layout=layout)
    written = resolve_model(target)
    expected = read(model)
    assert read(written) == expected
    assert ipa_convert.verify_model(model, written) == len(expected)
    manifest = json.loads((target / "conversion.json").read_text())
    assert [source["file"].split("/")[1] for source in manifest["sources"]] == ["m.ckpt"]
    assert set(single_files.leftovers()) & tensors.keys() <= manifest["dropped"].keys()
    assert all(len(reason) > 20 for reason in manifest["dropped"].values())
    if layout == "diffusers":
        kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
        kind.from_pretrained(target)


def test_inpainting(tmp_path: Path) -> None:
    """Nine input channels are told from the file, kept, and written into the config."""
    wide = models.Tiny(unet=models.FOUR_LEVELS | {"in_channels": 9})
    folder = models.build_folder(tmp_path / "model", wide)
    plain = models.build_folder(tmp_path / "plain", SD15)
    configs = single_files.configs(plain, tmp_path / "configs")
    file = single_files.write(tmp_path / "m.safetensors", single_files.sd15(folder), "safetensors")
    model = resolve_model(file, config=configs)
    assert model.unet.in_channels == 9
    assert read(model) == without_encoder(read(resolve_model(folder)))
    target = ipa_convert.convert_model(model, tmp_path / "out", layout="diffusers")
    unet = UNet2DConditionModel.from_pretrained(target, subfolder="unet")
    same_tensors(unet.state_dict(), single_files.component(folder, "unet"))
    with pytest.raises(RequestError, match="makes a part of a picture anew"):
        ipa.load(target, backend="mlx")("a star")


def test_averaged_weights(tiny: Path, tmp_path: Path) -> None:
    """A training's file holds the UNet twice; the averages' names have lost their dots."""
    tensors = single_files.sd15(tiny)
    unet = {k: v for k, v in tensors.items() if k.startswith("model.diffusion_model.")}
    twins = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor + 1
        for name, tensor in unet.items()
    }
    file = single_files.write(tmp_path / "m.ckpt", tensors | twins, "lightning")
    configs = tiny.parent / "configs"
    plain = ipa_convert.read_model(resolve_model(file, config=configs))
    averaged = ipa_convert.read_model(resolve_model(file, config=configs, ema=True))
    assert set(twins) <= plain["unet"].dropped.keys()
    for name, tensor in plain["unet"].items():
        np.testing.assert_array_equal(averaged["unet"][name].array(), tensor.array() + 1)
    assert read(resolve_model(tiny))[("unet", name)].endswith(tensor.array().tobytes())
    one = next(iter(twins))
    file = single_files.write(
        tmp_path / "less.ckpt", tensors | {k: v for k, v in twins.items() if k != one}, "torch zip"
    )
    with pytest.raises(CheckpointError, match=f"no averaged .*{one}"):
        ipa_convert.read_model(resolve_model(file, config=configs, ema=True))


def remove(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def add(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: torch.zeros(shape)}


UNET = "model.diffusion_model."
WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "no VAE": (remove("first_stage_model."), "does not hold a whole model.*vae"),
    "no text": (remove("cond_stage_model."), "does not hold a whole model.*text_encoder"),
    "no UNet": (remove(UNET), "does not hold a whole model"),
    "UNet alone": (lambda t: {k: v for k, v in t.items() if k.startswith(UNET)}, "whole model"),
    "a missing tensor": (remove(f"{UNET}out.2.bias"), "1 missing: conv_out.bias"),
    "an unknown tensor": (add(f"{UNET}middle_block.3.weight", 3), "left over: model.diffusion"),
    "two text encoders": (add("conditioner.embedders.1.model.ln_final.bias", 3), "more than the"),
    "given twice": (
        lambda t: t | {f"{UNET}conv_out.bias": t[f"{UNET}out.2.bias"].clone()},
        "given twice: .*out.2.bias",
    ),
    "Playground": (add("edm_mean", 4), "is Playground 2.5"),
    "CosXL": (add("edm_vpred.sigma_max", 0), "is CosXL"),
    "LCM": (add(f"{UNET}time_embed.cond_proj.weight", 3, 3), "distilled"),
    "eight bits": (
        lambda t: {k: v.to(torch.int8) if UNET in k else v for k, v in t.items()},
        "unsupported type",
    ),
    "scaled float8": (add("scaled_fp8", 2), "in float8 with scales.*scaled_fp8"),
    "scales": (add(f"{UNET}out.2.scale_weight", 1), "left over: .*out.2.scale_weight"),
    "editing": (
        lambda t: t | {f"{UNET}input_blocks.0.0.weight": torch.zeros(16, 8, 3, 3)},
        "instruct-pix2pix",
    ),
    "not a number": (
        lambda t: t | {f"{UNET}out.2.bias": torch.full((4,), float("nan"))},
        "not finite",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused_by_name(tiny: Path, tmp_path: Path, case: str) -> None:
    damage, message = WRONG[case]
    file = single_files.write(tmp_path / "m.ckpt", damage(single_files.sd15(tiny)), "safetensors")
    with pytest.raises(CheckpointError, match=message):
        read(resolve_model(file, config=tiny.parent / "configs"))


@pytest.mark.parametrize("case", ["a missing tensor", "an unknown tensor", "not a number"])
def test_the_reference_refuses_too(tiny: Path, tmp_path: Path, case: str) -> None:
    damage, _ = WRONG[case]
    file = single_files.write(tmp_path / "m.ckpt", damage(single_files.sd15(tiny)), "safetensors")
    with pytest.raises(CheckpointError, match=r"m\.ckpt"):
        ipa.load(resolve_model(file, config=tiny.parent / "configs"), backend="torch", device="cpu")


def test_unknown_widths_need_configs(tiny: Path, tmp_path: Path) -> None:
    file = single_files.write(tmp_path / "m.safetensors", single_files.sd15(tiny), "safetensors")
    with pytest.raises(CheckpointError, match=r"context width 40.*give a folder"):
        resolve_model(file)
    with pytest.raises(CheckpointError, match="holds no configs"):
        resolve_model(file, config=tmp_path)


def test_options_are_for_single_files(tiny: Path) -> None:
    for options in ({"ema": True}, {"config": tiny}, {"prediction_type": "epsilon"}):
        with pytest.raises(RequestError, match="single files"):
            resolve_model(tiny, **options)
