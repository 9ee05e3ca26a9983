"""The repositories of the local hub, and a machine that asks it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import models, single_files
from oracle.forks import Forks, forks
from oracle.hub import OLDER, LocalHub, serve
from oracle.hub_client import Client

_SKIP = shutil.ignore_patterns("*.safetensors.*", "*.bin")


@pytest.fixture(scope="session")
def hub(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    """Models, adapters in h94's layout, and single files; each as public repositories have them."""
    root = tmp_path_factory.mktemp("hub")
    xl = models.Tiny(unet=dict(models.XL_UNET), second_text=dict(models.SECOND_TEXT))
    repositories = {
        "someone/tiny-diffusion": _two_precisions(tiny, root / "model"),
        f"someone/tiny-diffusion@{OLDER}": _older(tiny, root / "older"),
        "someone/pickled": _pickled(tiny, root / "pickled"),
        "someone/tiny-xl": models.build_folder(root / "xl", xl, seed=6),
        "someone/files": _single_files(tiny, root / "files"),
        "someone/control": _component(tiny, root / "control"),
        "someone/cat-toy": _word(root / "word"),
        "someone/pixel": _lora(root / "pixel", rank=2),
        f"someone/pixel@{OLDER}": _lora(root / "older_pixel", rank=3),
        "h94/IP-Adapter": _adapters(tiny, root / "adapters"),
        "ostris/ip-composition-adapter": root / "composition",
    }
    (root / "composition").mkdir()
    composition = root / "composition" / "ip_plus_composition_sd15.safetensors"
    shutil.copy(tiny / "plus.safetensors", composition)
    with serve(repositories) as running:
        yield running


@pytest.fixture(scope="session")
def hub_files(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of someone/files."""
    return next(tmp_path_factory.getbasetemp().glob("hub*/files"))


@pytest.fixture(scope="session")
def forking() -> Iterator[Forks]:
    """Whose forks are the processes of all clients."""
    with forks() as running:
        yield running


@pytest.fixture
def client(hub: LocalHub, forking: Forks, tmp_path: Path) -> Client:
    """With an empty cache, and nothing asked for yet."""
    hub.reset()
    return Client(hub, tmp_path / "cache", forking)


def _word(folder: Path) -> Path:
    """A learned word, in both containers, of which one is enough."""
    folder.mkdir()
    word = {"<cat-toy>": torch.ones(models.TEXT["hidden_size"])}
    save_file(word, folder / "learned_embeds.safetensors")
    torch.save(word, folder / "learned_embeds.bin")
    (folder / "README.md").write_text("a cat toy")
    return folder


def _two_precisions(tiny: Path, folder: Path) -> Path:
    """Every component thrice, beside pickles that must not be fetched."""
    shutil.copytree(tiny, folder, ignore=_SKIP)
    # Some repositories repeat a ControlNet that they were saved with.
    shutil.copytree(folder / "unet", folder / "controlnet")
    for component in ("unet", "vae", "text_encoder", "image_encoder", "controlnet"):
        for file in (folder / component).glob("*.safetensors"):
            shutil.copy(file, file.with_suffix(".fp16.safetensors"))
            shutil.copy(file, file.with_suffix(".non_ema.safetensors"))
            name = file.name.removesuffix(".safetensors")
            stem = "pytorch_model" if name == "model" else name
            (file.parent / f"{stem}.bin").write_bytes(b"\x80\x02")
    return folder


def _older(tiny: Path, folder: Path) -> Path:
    """The same model when its scheduler was another."""
    shutil.copytree(tiny, folder, ignore=_SKIP)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.02}))
    return folder


def _pickled(tiny: Path, folder: Path) -> Path:
    """A UNet and an encoder in shards that are pickles alone, a VAE that is both."""
    shutil.copytree(tiny, folder, ignore=_SKIP)
    both = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(both), both.with_suffix(".bin"))
    for component in ("unet", "text_encoder"):
        models.pickle_weights(folder / component)
    shutil.copy(
        folder / "unet" / "diffusion_pytorch_model.bin",
        folder / "unet" / "diffusion_pytorch_model.fp16.bin",
    )
    encoder = folder / "image_encoder"
    tensors, weight_map = load_file(encoder / "model.safetensors"), {}
    (encoder / "model.safetensors").unlink()
    for number in range(2):
        shard = f"pytorch_model-0000{number + 1}-of-00002.bin"
        names = sorted(tensors)[number::2]
        torch.save({name: tensors[name] for name in names}, encoder / shard)
        weight_map |= dict.fromkeys(names, shard)
    index = encoder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _single_files(tiny: Path, folder: Path) -> Path:
    """Whole models as files, and a LoRA, beside an encoder that they do not need."""
    (folder / "old").mkdir(parents=True)
    for place in (folder, folder / "old"):
        shutil.copytree(tiny / "image_encoder", place / "image_encoder")
    tensors = single_files.sd15(tiny)
    single_files.write(folder / "tiny.safetensors", tensors, "safetensors")
    single_files.write(folder / "old" / "tiny.ckpt", tensors, "lightning")
    lora = _lora(folder / "lora", rank=2) / "pytorch_lora_weights.safetensors"
    shutil.move(lora, folder / "style.safetensors")
    lora.parent.rmdir()
    return folder


def _lora(folder: Path, *, rank: int) -> Path:
    """A LoRA of one layer, called as diffusers' training scripts call it."""
    folder.mkdir()
    pair = {"lora_down": torch.rand(rank, 40), "lora_up": torch.rand(24, rank)}
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{stem}.{name}.weight": tensor for name, tensor in pair.items()}
    tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(tensors, folder / "pytorch_lora_weights.safetensors")
    return folder


def _component(tiny: Path, folder: Path) -> Path:
    """A network that is a repository of its own, with what such repositories also hold."""
    shutil.copytree(tiny / "unet", folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(weights).items()}
    save_file(half, folder / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02")
    (folder / "images").mkdir()
    for name in ("README.md", "images/bird.png", "control_v11p.pth"):
        (folder / name).write_bytes(b"something")
    return folder


def _adapters(tiny: Path, folder: Path) -> Path:
    shutil.copytree(tiny / "image_encoder", folder / "models" / "image_encoder")
    (folder / "models" / "image_encoder" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    for kind in ("linear", "plus"):
        shutil.copy(tiny / f"{kind}.safetensors", folder / "models")
    for kind, name in (("linear", "ip-adapter_sd15"), ("plus", "ip-adapter-plus_sd15")):
        public = folder / "models" / f"{name}.safetensors"
        shutil.copy(tiny / f"{kind}.safetensors", public)
    light = folder / "models" / "ip-adapter_sd15_light_v11.bin"
    torch.save(load_file(tiny / "linear.safetensors"), light)
    return folder
