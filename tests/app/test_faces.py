"""Faces on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from ipa.app.cli import app
from oracle import adapters, models

Call = Callable[..., Result]


@pytest.fixture
def call(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, references: list) -> Call:
    """Type `ipa-mlx generate …` beside a picture, an identity and a FaceID-Plus adapter."""
    monkeypatch.chdir(tmp_path)
    references[0].save("her.png")
    vector = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    np.save("her.npy", vector / np.linalg.norm(vector))
    states = models.VISION["hidden_size"]
    tensors = adapters.face_tensors(models.UNET, "faceid_plus", rank=2, states=states)
    models.write_adapter(tmp_path / "plus.safetensors", tensors)
    models.write_adapter(tmp_path / "id.safetensors", adapters.face_tensors(models.UNET, "faceid"))
    fixed = ["generate", "-m", tiny, "--steps", "1", "--width", "32", "--height", "32", "--json"]
    return lambda *words: CliRunner().invoke(app, [str(word) for word in (*fixed, *words)])


def test_a_picture_and_its_face(call: Call) -> None:
    kind = ("-a", "face=plus.safetensors", "--adapter-kind", "faceid-plusv2")
    done = call(*kind, "-i", "her.png:0.7", "--face", "1=her.npy")
    assert done.exit_code == 0, done.output
    (prompt,) = json.loads(done.stdout)["request"]["image_prompts"]
    assert (prompt["scale"], prompt["shortcut_scale"], len(prompt["faces_sha256"])) == (0.7, 1.0, 1)


def test_a_face_alone(call: Call) -> None:
    done = call("-a", "id.safetensors", "--face", "her.npy")
    assert done.exit_code == 0, done.output
    (prompt,) = json.loads(done.stdout)["request"]["image_prompts"]
    assert (prompt["images_sha256"], len(prompt["faces_sha256"])) == ([], 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--face", "her.png"), "holds no face embedding"),
        (("-i", "her.png", "--face", "2=her.npy"), "number one of the image prompts"),
        (("-a", "plus.safetensors", "-i", "her.png", "--face", "1=her.npy"), "--adapter-kind"),
        (("-a", "id.safetensors", "-i", "her.png"), "needs to know whose face"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], told: str, call: Call) -> None:
    done = call(*words)
    assert done.exit_code == 2
    assert told in done.stderr.replace("kind=", "--adapter-kind")
