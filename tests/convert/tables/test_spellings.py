"""Every spelling in every container on both backends: the weights of the plain folder, bit for bit.

The judge of names is diffusers' and transformers' own folder, from which each spelling is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

import ipa_convert
from ipa.model.folder import ModelFolder, OtherVae
from ipa.sources.model_folder import open_model_folder
from ipa.sources.models import resolve_model
from ipa_torch.files.lora_file import read_lora
from ipa_torch.files.single_file import load_single_file, load_vae
from ipa_torch.files.weights import Account
from oracle import models, single_files
from oracle.single_files import Tensors
from oracle.spellings import CONTAINERS, LONE, WHOLE

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Of each model that a spelling is of, its folder; beside it its configs alone."""
    found: dict[int, Path] = {}
    for tiny, _ in WHOLE.values():
        if id(tiny) not in found:
            root = tmp_path_factory.mktemp("model")
            found[id(tiny)] = models.build_folder(root / "model", tiny)
            single_files.configs(found[id(tiny)], root / "configs")
    return found


def of_mlx(model: ModelFolder) -> Weights:
    """What MLX's modules are filled with, by component and name."""
    parts = ipa_convert.read_model(model, ["unet", "vae", "text_encoder", "text_encoder_2"])
    return {f"{part}.{n}": t.array() for part, own in parts.items() for n, t in own.items()}


def of_torch(model: ModelFolder) -> Weights:
    """What the reference's modules hold."""
    assert model.single_file is not None
    modules = load_single_file(model, model.single_file, torch.float32, Account())
    return {f"{p}.{n}": t.numpy() for p, m in modules.items() for n, t in m.state_dict().items()}


def of_folder(folder: Path) -> Weights:
    """As the libraries saved them, which is as the reference's modules name them."""
    return {
        f"{part}.{name}": tensor.numpy()
        for part in ("unet", "vae", "text_encoder", "text_encoder_2")
        if (folder / part).is_dir()
        for name, tensor in single_files.component(folder, part).items()
    }


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name


def copies(tensors: Tensors, folder: Path) -> Iterator[Path]:
    """The same tensors in every container."""
    for number, save in enumerate(CONTAINERS.values()):
        yield save(tensors, folder / f"{number}.ckpt")


@pytest.mark.parametrize("spelling", WHOLE)
def test_whole_models(spelling: str, folders: dict[int, Path], tmp_path: Path) -> None:
    tiny, spell = WHOLE[spelling]
    folder = folders[id(tiny)]
    plain, stock = of_mlx(resolve_model(folder)), of_folder(folder)
    for file in copies(spell(folder), tmp_path):
        model = resolve_model(file, config=folder.parent / "configs")
        assert_equal(of_mlx(model), plain)
        assert_equal(of_torch(model), stock)


@pytest.mark.parametrize("spelling", LONE)
def test_lone_autoencoders(spelling: str, folders: dict[int, Path], tmp_path: Path) -> None:
    folder = folders[id(WHOLE["sd15"][0])]
    model = open_model_folder(folder, name="m")
    stock = {n: t.numpy() for n, t in single_files.component(folder, "vae").items()}
    own = ipa_convert.read_component("vae", folder / "vae", model.vae)
    plain = {n: t.array() for n, t in own.items()}
    for file in copies(LONE[spelling](folder), tmp_path):
        other = OtherVae(name="v", path=file)
        held = ipa_convert.read_model(replace(model, other_vae=other), ["vae"])["vae"]
        assert_equal({n: t.array() for n, t in held.items()}, plain)
        found = load_vae(model, other, torch.float32, Account()).state_dict()
        assert_equal({n: t.numpy() for n, t in found.items()}, stock)


def test_loras(folders: dict[int, Path], tmp_path: Path) -> None:
    folder = folders[id(WHOLE["sd15"][0])]
    model = open_model_folder(folder, name="m")
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    tensors, draw = {}, torch.Generator().manual_seed(0)
    for path, module in unet.named_modules():
        if path.endswith(("to_q", "to_v")):
            stem, (rows, columns) = f"lora_unet_{path.replace('.', '_')}", module.weight.shape
            tensors[f"{stem}.lora_down.weight"] = torch.randn(2, columns, generator=draw)
            tensors[f"{stem}.lora_up.weight"] = torch.randn(rows, 2, generator=draw)
            tensors[f"{stem}.alpha"] = torch.tensor(3.0)
    targets = ipa_convert.LoraTargets(unet=model.unet, text_encoder=model.text_encoder)
    found: list[Weights] = []
    theirs: list[Weights] = []
    for file in copies(tensors, tmp_path):
        pairs = ipa_convert.read_lora(file, targets).items()
        found.append({str(k): p.up.array() * p.scale for k, p in pairs})
        parts, _, _ = read_lora(file, {"unet": unet})
        theirs.append({n: t.numpy() for n, t in parts["unet"].items()})
    for rows in (found, theirs):
        for other in rows[1:]:
            assert_equal(other, rows[0])
