"""`--image-encoder`: the encoder as ComfyUI keeps it, wherever an adapter can be given."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ipa import demo
from ipa.app.cli import app
from ipa.model.files import read_json
from ipa_convert.reading import clip_configs

SMALL = ("--steps", "1", "--guidance", "3")


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo as others would keep it: adapter, encoder and model, each in its own folder."""
    config = read_json(demo.model() / "image_encoder" / "config.json")
    sizes = {"num_channels": 3, **config}
    towers = {**clip_configs.VISION_TOWERS, "demo": sizes}
    monkeypatch.setattr(clip_configs, "VISION_TOWERS", towers)
    for name in ("ipadapter", "clip_vision"):
        (tmp_path / name).mkdir()
    shutil.copy(demo.adapter("base"), tmp_path / "ipadapter" / "base.safetensors")
    encoder = demo.model() / "image_encoder" / "model.safetensors"
    shutil.copy(encoder, tmp_path / "clip_vision" / "vision.safetensors")
    bare = tmp_path / "bare"
    shutil.copytree(demo.model(), bare, ignore=shutil.ignore_patterns("image_encoder", "ip_ad*"))
    monkeypatch.chdir(tmp_path)
    Image.open(demo.references()[3]).save("style.png")
    return tmp_path


def typed(*words: Any) -> dict[str, Any]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout) if "--json" in words else {}


@pytest.mark.parametrize("given", [("--image-encoder", "clip_vision/vision.safetensors"), ()])
def test_generate_sees_what_the_model_would_see(comfy: Path, given: tuple[str, ...]) -> None:
    """Named, or found beside the adapter's folder; and told which it was."""
    words = ("generate", "-i", "style.png", *SMALL)
    typed(*words, "-o", "usual.png")
    told = typed(*words, *(*given, "-m", "bare", "-a", "ipadapter/base.safetensors", "--json"))
    assert "image_encoder:vision.safetensors" in told["bytes"]
    usual, own = (np.asarray(Image.open(name)) for name in ("usual.png", "out.png"))
    assert np.array_equal(usual, own)


def test_other_commands_take_it(comfy: Path) -> None:
    shutil.move("clip_vision", "elsewhere")
    own = ("-m", "bare", "-a", "ipadapter/base.safetensors")
    encoder = ("--image-encoder", "elsewhere/vision.safetensors")
    without = CliRunner().invoke(app, ["generate", "-i", "style.png", *own])
    assert without.exit_code == 3 and "pass --image-encoder with" in without.stderr
    typed("sweep", "-i", "style.png", "--scales", "0,1", "--steps", 1, *own, *encoder)
    typed("explain", "-i", "style.png", "-m", "demo", *encoder)
    Path("r.json").write_text(json.dumps({"prompt": "a star", "num_inference_steps": 1}))
    capture = ("parity", "capture", "-r", "r.json", "-o", "c.safetensors", "--stages", "*latents")
    typed(*capture, "--floor", "none", *own, *encoder)
    typed(*("parity", "compare", "mlx", "mlx", "-r", "r.json", "--no-floor"), *own, *encoder)


def test_once_for_all_or_once_for_each(comfy: Path) -> None:
    two = ("-a", "a=ipadapter/base.safetensors", "-a", "b=ipadapter/base.safetensors")
    vision = ("--image-encoder", "clip_vision/vision.safetensors")
    words = ("generate", "-p", "a star", "-m", "bare", *SMALL, *two, "--json")
    assert "image_encoder:vision.safetensors" in typed(*words, *vision)["bytes"]
    done = CliRunner().invoke(app, ["generate", "-p", "x", *vision])
    assert done.exit_code == 2 and "--image-encoder is given once" in done.stderr
