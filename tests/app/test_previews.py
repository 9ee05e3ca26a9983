"""`ipa-mlx generate` with a preview file, tiles and another VAE."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from diffusers import AutoencoderTiny
from PIL import Image
from typer.testing import CliRunner

import ipa
from ipa import demo
from ipa.app.cli import app
from ipa.app.preview_file import PreviewFile
from ipa.request.result import Progress
from oracle import models


def run(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["generate", *map(str, words)])
    return result.exit_code, result.stdout


def test_options_of_the_vae(tmp_path: Path) -> None:
    taesd = tmp_path / "taesd"
    models.randomize(AutoencoderTiny(), seed=21).save_pretrained(taesd)
    words = ("-o", tmp_path / "out.png", "-n", "2", "--json")
    preview = tmp_path / "preview.png"
    code, text = run(*words, "--preview", preview, "--vae", demo.model() / "vae", "--vae-tiling")
    assert code == 0, text
    info = json.loads(text)
    assert info["vae"] == str(demo.model() / "vae") and info["vae_tiling"] is True
    assert Image.open(preview).size == (128, 128)
    pixels = np.asarray(Image.open(preview)).reshape(16, 8, 16, 8, 3)
    assert (pixels == pixels[:, :1, :, :1]).all(), "a latent is a square of one colour"
    code, text = run(*words, "--preview", preview, "--preview-decoder", taesd)
    assert code == 0, text
    shown = np.asarray(Image.open(preview))
    assert shown.shape == (128, 128, 3) and (shown[::8] != shown[1::8]).any()
    code, text = run(*words, "--preview", tmp_path / "out.png")
    assert code == 0, text
    assert json.loads(text)["files"] == [str(tmp_path / "out-4.png")]
    assert Image.open(tmp_path / "out-3.png").size == (128, 128), "out.png is no preview"
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("preview.png", "out.png", "out-2.png", "out-3.png", "out-4.png"),
    }
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_decoder_without_a_file_is_refused(tmp_path: Path) -> None:
    code, _ = run("-o", tmp_path / "out.png", "--preview-decoder", tmp_path)
    assert code != 0
    assert not (tmp_path / "out.png").exists()


def test_cancelled_runs_leave_the_last_preview(tmp_path: Path) -> None:
    """What it shows is that of the last step, and an earlier one is kept."""
    (tmp_path / "p-unfinished.png").write_bytes(b"before")
    pipe = ipa.load("demo")
    seen = list[Image.Image]()
    cancel = threading.Event()

    def show(event: Progress) -> None:
        if event.preview is not None:
            seen.append(event.preview)
            if len(seen) == 2:
                cancel.set()

    events = PreviewFile(show, tmp_path / "p.png", 1)
    told = r"step 3; the last preview is .*p-unfinished-2\.png"
    with pytest.raises(ipa.Cancelled, match=told), events.kept_if_cancelled():
        pipe("", num_inference_steps=4, preview="latent", on_progress=events, cancel=cancel)
    kept = np.asarray(Image.open(tmp_path / "p-unfinished-2.png"))
    assert np.array_equal(kept, np.asarray(seen[1]))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "p-unfinished-2.png",
        "p-unfinished.png",
    ]
