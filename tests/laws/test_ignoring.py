"""`ignore=` means the same wherever a file is loaded, and is told in the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import ipa
from ipa import CheckpointError, IpaError, RequestError
from oracle import controlled, loras, models, t2i_adapters
from oracle.pipelines import diffusers_pipeline

Tensors = dict[str, torch.Tensor]
FILE = "diffusion_pytorch_model.safetensors"
STRAY, NEARLY = "stray.more.weight", "stray.mroe.weight"


@dataclass(frozen=True)
class Case:
    """What is loaded, the file inside it that gets a stray tensor, and one that it needs.

    `name` is that of the component in `Pipeline.fingerprints`, `stray` how a tool would spell it.
    """

    verb: str
    source: str
    file: str
    needed: str
    name: str
    stray: str = STRAY


def of_adapter(file: str, needed: str, name: str) -> Case:
    return Case("load_ip_adapter", "linear.safetensors", file, needed, name)


CASES = {
    "T2I-Adapter's folder": Case(
        "load_t2i_adapter", "sketch", f"sketch/{FILE}", "adapter.conv_in.*", "controlnet.sketch"
    ),
    "T2I-Adapter's file": Case(
        "load_t2i_adapter", "full.safetensors", "full.safetensors", "conv_in.*", "controlnet.full"
    ),
    "ControlNet's folder": Case(
        "load_controlnet", "net", f"net/{FILE}", "conv_in.*", "controlnet.net"
    ),
    "kohya's LoRA": Case(
        "load_lora", "kohya.safetensors", "kohya.safetensors", "lora_te_*", "lora.kohya"
    ),
    "kohya's names": Case(
        "load_lora",
        "kohya.safetensors",
        "kohya.safetensors",
        "lora_unet_*.alpha",
        "lora.kohya",
        "lora_unet_nowhere.lora_down.weight",
    ),
    "PEFT's LoRA": Case("load_lora", "peft.safetensors", "peft.safetensors", "unet.*", "lora.peft"),
    "half a pair": Case(
        "load_lora",
        "peft.safetensors",
        "peft.safetensors",
        "unet.mid_block.*",
        "lora.peft",
        "unet.conv_out.lora_A.weight",
    ),
    "another text encoder": Case(
        "load_lora",
        "kohya.safetensors",
        "kohya.safetensors",
        "lora_te_*",
        "lora.kohya",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
    ),
    "IP-Adapter": of_adapter("linear.safetensors", "image_proj.*", "adapter.linear"),
    "its encoder": of_adapter(
        "image_encoder/model.safetensors",
        "vision_model.post_layernorm.*",
        "adapter.linear.image_encoder",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    root = tmp_path_factory.mktemp("ignoring") / "model"
    models.build_with_adapters(root, models.Tiny(unet=t2i_adapters.UNET), seed=8)
    net = t2i_adapters.write_t2i_adapter(root / "sketch", 9, **t2i_adapters.FULL)
    safetensors.torch.save_file(t2i_adapters.original(net), root / "full.safetensors")
    controlled.write_controlnet(root / "net", t2i_adapters.UNET, seed=7)
    layers = loras.layers(diffusers_pipeline(root))
    del layers["unet", "conv_out"]  # of which half a pair is not a pair
    pairs = loras.weak(loras.random_pairs(dict([*layers.items()][::9]), 1), alpha=2.0)
    loras.write(root / "kohya.safetensors", loras.kohya(pairs, "sd"))
    loras.write(root / "peft.safetensors", loras.peft(loras.without_alphas(pairs)))
    return root


def with_stray(folder: Path, case: Case, target: Path) -> Path:
    """A copy with a tensor more."""
    shutil.copytree(folder, target)
    path = target / case.file
    tensors = safetensors.torch.load_file(path) | {case.stray: torch.ones(2, 2)}
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    return target


Open = Callable[..., ipa.Pipeline]


@pytest.mark.parametrize("case", CASES)
def test_a_stray_tensor(
    case: str, backend: str, folder: Path, tmp_path: Path, open_pipeline: Open
) -> None:
    """Refused by name; let go of by name, which changes nothing; and only what is not needed."""
    row, root = CASES[case], with_stray(folder, CASES[case], tmp_path / "model")
    pipe = open_pipeline(folder, backend)
    if case == "its encoder":
        pipe = open_pipeline(root, backend)
    load: Any = getattr(pipe, row.verb)
    with pytest.raises(CheckpointError) as refused:
        load(root / row.source)
    assert row.stray.removeprefix("unet.").rpartition(".lora")[0] in str(refused.value)
    assert "`ignore`" in str(refused.value)
    wrong = row.stray.replace("more", "mroe").replace("_A", "_Q").replace("_down", "_dwon")
    wrong = wrong.replace("_up", "_pu")
    for pattern, words in (
        (wrong, rf"ignore='{wrong}' names no tensor of .*did you mean {row.stray}"),
        (row.needed, "that the model needs, and no other"),
    ):
        with pytest.raises(RequestError, match=words):
            load(root / row.source, ignore=[row.stray, pattern])
    assert pipe.fingerprints().keys() == open_pipeline(folder, backend).fingerprints().keys()
    load(root / row.source, ignore=[row.stray])
    assert row.stray.partition(".")[0] in json.dumps(pipe.info())
    plain = open_pipeline(folder, backend)
    getattr(plain, row.verb)(folder / row.source)
    assert pipe.fingerprints()[row.name] == plain.fingerprints()[row.name]


def message(pipe: ipa.Pipeline, row: Case, source: Path, **options: Any) -> str:
    with pytest.raises(IpaError) as error:
        getattr(pipe, row.verb)(source, **options)
    return str(error.value)


@pytest.mark.parametrize("case", CASES)
def test_both_backends_say_the_same(
    case: str, folder: Path, tmp_path: Path, open_pipeline: Open
) -> None:
    row, root = CASES[case], with_stray(folder, CASES[case], tmp_path / "model")
    pipes = [open_pipeline(root, backend) for backend in ("mlx", "torch")]
    for options in (
        {"ignore": [row.stray, "nothing.like.it"]},
        {"ignore": [row.stray, row.needed]},
        {"ignore": ["*"]},
        {"ignore": 3},
    ):
        ours, theirs = (message(pipe, row, root / row.source, **options) for pipe in pipes)
        assert ours == theirs


@pytest.mark.parametrize("case", [name for name in CASES if "folder" not in name])
def test_they_say_the_same_of_weights_that_are_no_numbers(
    case: str, folder: Path, tmp_path: Path, open_pipeline: Open
) -> None:
    row, root = CASES[case], tmp_path / "model"
    shutil.copytree(folder, root)
    tensors = safetensors.torch.load_file(root / row.file)
    name = next(n for n in tensors if fnmatchcase(n, row.needed))  # of kohya's an alpha
    tensors[name].reshape(-1)[-1] = torch.inf
    safetensors.torch.save_file(tensors, root / row.file, metadata={"format": "pt"})
    ours, theirs = (
        message(open_pipeline(root, backend), row, root / row.source)
        for backend in ("mlx", "torch")
    )
    place = tensors[name].numel() - 1
    assert (
        f"{name} holds values that are not finite; found: NaN or infinity at position {place}"
        in ours
    )
    if case != "its encoder":  # of which MLX names the file, transformers the folder
        assert ours == theirs
