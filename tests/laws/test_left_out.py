"""What lies beside the networks of a file is left out and told; what lies in one is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipa
import ipa_convert
from ipa.app.commands.convert import ConversionOptions, run_conversion
from ipa.errors import CheckpointError, IpaError, RequestError
from ipa.model.folder import ModelFolder
from ipa.model.ignoring import Ignore
from ipa.model.left_out import LeftOut
from ipa.sources.models import resolve_model
from ipa_torch.files.single_file import load_single_file
from ipa_torch.files.weights import Account
from oracle import controlled, controlnets, models, single_files
from oracle.single_files import Tensors
from oracle.spellings import CONTAINERS, SD15, SDXL

UNET, TEXT = "model.diffusion_model.", "cond_stage_model."
FIRST, SECOND = "conditioner.embedders.0.", "conditioner.embedders.1."


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each model; beside it its configs alone."""
    found = {}
    for name, tiny in {"sd15": SD15, "sdxl": SDXL}.items():
        root = tmp_path_factory.mktemp(name)
        found[name] = models.build_folder(root / "model", tiny)
        single_files.configs(found[name], root / "configs")
    return found


def control(tensors: Tensors) -> Tensors:
    """A ControlNet baked in."""
    return {
        "control_model." + name.removeprefix(UNET): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{UNET}input_blocks.")
    }


def averages(tensors: Tensors) -> Tensors:
    return {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor
        for name, tensor in tensors.items()
        if name.startswith(UNET)
    }


def named(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda _: dict.fromkeys(names, torch.zeros(3))


# What else public files hold: the model, and what is beside it.
BESIDE: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "ControlNet": ("sd15", control),
    "averages": ("sd15", averages),
    "model_sampling": ("sd15", named("model_sampling.sigmas", "model_sampling.log_sigmas")),
    "projection of CLIP": ("sd15", named(f"{TEXT}text_projection", f"{TEXT}logit_scale")),
    "projection inside": ("sd15", named(f"{TEXT}transformer.text_projection.weight")),
    "schedule": ("sd15", named("betas", "alphas_cumprod_prev", "posterior_mean_coef1", "logvar")),
    "training": (
        "sd15",
        named("first_stage_model.loss.discriminator.main.0.weight", "global_step"),
    ),
    "image tower": (
        "sd15",
        named(f"{TEXT}transformer.vision_model.x", f"{TEXT}transformer.visual_projection.weight"),
    ),
    "temperature": ("sdxl", named(f"{FIRST}logit_scale", f"{SECOND}model.logit_scale")),
    "SDXL's projection": ("sdxl", named(f"{FIRST}transformer.text_projection.weight")),
    "causal mask": ("sdxl", named(f"{SECOND}model.attn_mask", "denoiser.sigmas")),
    "another network": ("sdxl", named("motion_module.a", "motion_module.b", "stray")),
}


def spell(folder: Path, model: str) -> Tensors:
    return {"sd15": single_files.sd15, "sdxl": single_files.sdxl}[model](folder)


def opened(tensors: Tensors, folder: Path, path: Path) -> ModelFolder:
    file = CONTAINERS["safetensors"](tensors, path)
    return resolve_model(file, config=folder.parent / "configs")


@pytest.mark.parametrize("case", BESIDE)
def test_beside_every_network(case: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Both backends leave out the same, and hold the weights of the file without it."""
    model, make = BESIDE[case]
    folder = folders[model]
    plain = spell(folder, model)
    extra = make(plain)
    bare = opened(plain, folder, tmp_path / "bare.safetensors")
    full = opened({**plain, **extra}, folder, tmp_path / "full.safetensors")
    accounts = [Account(), Account()]
    modules, stock = (
        load_single_file(m, m.single_file, torch.float32, account)
        for m, account in zip((full, bare), accounts, strict=True)
    )
    gone, before = (account.left_out("") for account in accounts)
    for name, module in stock.items():
        own = modules[name].state_dict()
        assert all(torch.equal(own[key], value) for key, value in module.state_dict().items())
    parts = ipa_convert.read_model(full)
    for name, part in ipa_convert.read_model(bare).items():
        assert all(np.array_equal(t.array(), parts[name][n].array()) for n, t in part.items())
    dropped = (name for part in parts.values() for name in part.dropped)
    assert LeftOut.of(gone.where, dropped).names == gone.names
    assert set(gone.names) - set(before.names) == set(extra) - set(before.names)
    assert set(extra) <= set(gone.names)


def test_it_is_told(backend: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["sd15"]
    tensors = spell(folder, "sd15")
    model = opened({**tensors, **control(tensors)}, folder, tmp_path / "m.safetensors")
    pipe = load(model, backend)
    info = pipe("a", num_inference_steps=1, width=64, height=64, output_type="latent").info
    count = len(control(tensors))
    assert pipe.info()["left_out"]["control_model.*"] == count
    assert any(f"control_model.* ({count})" in text for text in info["warnings"])
    assert info["left_out"] == pipe.info()["left_out"]
    assert "left_out" not in load(folder, backend).info()


def load(model: Any, backend: str, **options: Any) -> ipa.Pipeline:
    device = {"device": "cpu"} if backend == "torch" else {}
    return ipa.load(model, backend=backend, dtype="float32", **device, **options)


INSIDE = (
    f"{UNET}middle_block.1.gate",
    "first_stage_model.decoder.more.weight",
    f"{TEXT}transformer.text_model.encoder.layers.0.more.bias",
)


@pytest.mark.parametrize("name", INSIDE)
def test_inside_a_network(
    name: str, backend: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Refused by name; let go of by name; and no pattern takes what is needed, or nothing."""
    folder = folders["sd15"]
    tensors = {**spell(folder, "sd15"), name: torch.ones(2)}
    model = opened(tensors, folder, tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match=f"1 left over: {name}"):
        load(model, backend)
    part = name.rpartition(".")[0]
    for patterns in ([name], f"{part}.*"):  # the second names needed tensors too, which stay
        assert load(model, backend, ignore=patterns).info()["left_out"][shown(name)]
    for pattern, words in (
        (name[:-1] + "x", "did you mean"),
        (f"{UNET}out.2.*", "that the model needs, and no other"),
        ("nothing like it", "names no tensor"),
    ):
        with pytest.raises(RequestError, match=words):
            load(model, backend, ignore=[name, pattern])


def shown(name: str) -> str:
    """As a record groups it: the file's other leftovers share a head with the VAE's alone."""
    return "first_stage_model.*" if name.startswith("first_stage") else name


def test_inside_a_folder(backend: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd15"], tmp_path / "model"))
    (file,) = (folder / "unet").glob("*.safetensors")
    tensors = single_files.component(folder, "unet") | {"mid_block.more": torch.ones(2)}
    CONTAINERS["safetensors"](tensors, file)
    with pytest.raises(CheckpointError, match=r"mid_block\.more"):
        load(folder, backend)
    pipe = load(folder, backend, ignore=["mid_block.m*"])
    assert pipe.info()["left_out"] == {"mid_block.more": 1}
    with pytest.raises(RequestError, match="did you mean"):
        load(folder, backend, ignore=["mid_block.more", "mid_blok.more"])


def test_conversions_keep_the_record(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["sd15"]
    tensors = {**spell(folder, "sd15"), "model_sampling.x": torch.ones(2), INSIDE[0]: torch.ones(2)}
    file = CONTAINERS["safetensors"](tensors, tmp_path / "m.safetensors")
    options = {"config": folder.parent / "configs", "verify": True}
    with pytest.raises(CheckpointError, match="left over"):
        run_conversion(str(file), tmp_path / "mlx", ConversionOptions(**options))
    asked = ConversionOptions(**options, ignore=(INSIDE[0],))
    done = run_conversion(str(file), tmp_path / "mlx", asked)
    assert done.verified and any("model_sampling.x" in note for note in done.notes)
    dropped = json.loads((tmp_path / "mlx" / "conversion.json").read_text())["dropped"]
    assert dropped[INSIDE[0]] == "left out, as ignore asks"
    assert dropped["model_sampling.x"]


def test_a_model_with_a_controlnet_is_a_model(folders: dict[str, Path], tmp_path: Path) -> None:
    """It converts as what it is; its ControlNet alone if that is asked for."""
    folder = folders["sd15"]
    tensors = spell(folder, "sd15")
    file = CONTAINERS["safetensors"]({**tensors, **control(tensors)}, tmp_path / "m.safetensors")
    assert ipa_convert.kind_of(file) == "model"
    options = {"config": folder.parent / "configs", "verify": True}
    done = run_conversion(str(file), tmp_path / "mlx", ConversionOptions(**options))
    assert done.kind == "model" and any("control_model.*" in note for note in done.notes)
    net = tmp_path / "net"
    made = controlled.write_controlnet(net, SD15.unet, seed=3)
    original = controlnets.original(made.state_dict(), "control_model.")
    file = CONTAINERS["safetensors"]({**tensors, **original}, tmp_path / "n.safetensors")
    alone = ConversionOptions(config=net, kind="controlnet", verify=True)
    done = run_conversion(str(file), tmp_path / "control", alone)
    assert (done.kind, done.verified) == ("controlnet", len(original))
    with pytest.raises(RequestError, match="--ema cannot be used with this source; found: a contr"):
        run_conversion(str(file), tmp_path / "x", replace(alone, ema=True))


@pytest.mark.parametrize("given", [3, [""], [1], ["*"], ["**"], {"a": 1}, ["a", None]])
def test_what_ignore_takes(given: Any) -> None:
    with pytest.raises(RequestError, match="ignore takes names"):
        Ignore.of(given)


def test_words_of_load(backend: str, tiny: Path) -> None:
    with pytest.raises(IpaError, match=r"no such argument.*ignored=.*ignore="):
        load(tiny, backend, ignored=["a"])
