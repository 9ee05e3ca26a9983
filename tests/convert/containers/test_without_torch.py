"""No torch anywhere on the way from a file to MLX: here it cannot even be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import ControlNetModel

from oracle import controlnets, models, single_files

BLOCKED = ("torch", "transformers", "diffusers", "accelerate", "peft", "safetensors")
PROGRAM = f"""
import json, sys
sys.modules.update({{name: None for name in {BLOCKED!r}}})
from ipa.app.cli import app
for words in json.loads(sys.argv[1]):
    assert not app(words, standalone_mode=False), words
"""


def run(*commands: Sequence[str | Path]) -> None:
    """One after the other, in a process that imports everything once."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    done = subprocess.run([sys.executable, "-c", PROGRAM, words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything, made with torch."""
    root = tmp_path_factory.mktemp("sources")
    folder = models.build_with_adapters(
        root / "model", models.Tiny(unet=dict(models.FOUR_LEVELS)), seed=4
    )
    single_files.configs(folder, root / "configs")
    single_files.write(root / "model.ckpt", single_files.sd15(folder), "lightning")
    torch.save(safetensors.torch.load_file(folder / "plus.safetensors"), root / "plus.bin")
    control = models.randomize(ControlNetModel(**controlnets.CONFIGS["SD1.5"]), seed=5)
    torch.save(
        controlnets.original(dict(control.state_dict()), "control_model."), root / "control.pth"
    )
    control.save_config(root / "control")
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"{stem}.lora_down.weight": torch.rand(4, 1280), f"{stem}.alpha": torch.tensor(2.0)}
    safetensors.torch.save_file(
        lora | {f"{stem}.lora_up.weight": torch.rand(1280, 4)}, root / "lora.safetensors"
    )
    return root


def test_a_model(sources: Path, tmp_path: Path) -> None:
    """From a training's checkpoint to a picture."""
    target = tmp_path / "mlx"
    picture = tmp_path / "x.png"
    run(
        ["convert", sources / "model.ckpt", target, "--config", sources / "configs", "--verify"],
        ["inspect", target],
        ["convert", target, tmp_path / "back", "--to", "diffusers", "--verify"],
        ["generate", "-m", target, "-p", "x", "-n", "1", "-o", picture, "--backend", "mlx"],
    )
    assert picture.is_file()


def test_everything_else(sources: Path, tmp_path: Path) -> None:
    cases = [
        ("plus.bin", "plus.safetensors", ["--config", sources / "configs"]),
        ("control.pth", "control", ["--config", sources / "control"]),
        ("lora.safetensors", "lora.safetensors", ["--base", "sd15"]),
    ]
    run(
        *(["convert", sources / a, tmp_path / b, *options, "--verify"] for a, b, options in cases),
        *(["inspect", sources / source, "--json", "--values"] for source, _, _ in cases),
    )
