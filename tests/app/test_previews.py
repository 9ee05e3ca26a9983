"""`ipa-mlx generate` with a preview file, tiles and another VAE."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderTiny
from PIL import Image
from typer.testing import CliRunner

from ipa import demo
from ipa.app.cli import app
from oracle import models


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["generate", *map(str, words)])
    return result.exit_code, result.output


def test_options_of_the_vae(tmp_path: Path) -> None:
    taesd = tmp_path / "taesd"
    models.randomize(AutoencoderTiny(), seed=21).save_pretrained(taesd)
    words = ("-o", tmp_path / "out.png", "-n", "2", "--json")
    preview = tmp_path / "preview.png"
    code, text = run(*words, "--preview", preview, "--vae", demo.model() / "vae", "--vae-tiling")
    assert code == 0, text
    info = json.loads(text)
    assert info["vae"] == str(demo.model() / "vae") and info["vae_tiling"] is True
    assert Image.open(preview).size == (16, 16)
    code, text = run(*words, "--preview", preview, "--preview-decoder", taesd)
    assert code == 0, text
    assert Image.open(preview).size == (128, 128)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_decoder_without_a_file_is_refused(tmp_path: Path) -> None:
    code, _ = run("-o", tmp_path / "out.png", "--preview-decoder", tmp_path)
    assert code != 0
    assert not (tmp_path / "out.png").exists()
