"""Faces on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

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
        (("--face", "her.png"), "pip install 'ipa-mlx[face]'"),
        (("--face", "none.png"), "holds no face embedding"),
        (("--face", "3=her.npy", "-i", "her.png"), "there is one -i: write --face FILE, once"),
        (("-i", "her.png", "--face", "2=her.npy"), "number one of the image prompts"),
        (("-a", "plus.safetensors", "-i", "her.png", "--face", "1=her.npy"), "--adapter-kind"),
        (("-a", "id.safetensors", "-i", "her.png"), "needs to know whose face"),
    ],
)
def test_what_is_refused(
    words: tuple[str, ...], told: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    done = call(*words)
    assert done.exit_code == 2
    assert told in done.stderr.replace("kind=", "--adapter-kind")


def test_a_photo_is_a_face_with_insightface(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a stand-in of the package: the largest face, with the crop that Plus sees."""
    vector = np.load("her.npy")
    found = [
        SimpleNamespace(bbox=[0, 0, 2, 2], kps="small", embedding=-vector),
        SimpleNamespace(bbox=[0, 0, 9, 9], kps="large", embedding=vector),
    ]

    class FaceAnalysis:
        """What insightface.app has."""

        def __init__(self, **_: object) -> None: ...

        def prepare(self, **_: object) -> None: ...

        def get(self, _: object) -> list[SimpleNamespace]:
            return found

    def norm_crop(picture: np.ndarray, *, image_size: int, **_: object) -> np.ndarray:
        return np.full((image_size, image_size, 3), 90, np.uint8)

    align = SimpleNamespace(norm_crop=norm_crop)
    monkeypatch.setitem(sys.modules, "insightface", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "insightface.app", SimpleNamespace(FaceAnalysis=FaceAnalysis))
    monkeypatch.setitem(sys.modules, "insightface.utils", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "insightface.utils.face_align", align)
    hashes = []
    for face in ("her.npy", "her.png"):
        done = call("-a", "id.safetensors", "--face", face)
        assert done.exit_code == 0, done.output
        hashes.append(json.loads(done.stdout)["request"]["image_prompts"][0]["faces_sha256"])
    assert hashes[0] == hashes[1] and len(hashes[0]) == 1
    kind = ("-a", "face=plus.safetensors", "--adapter-kind", "faceid-plusv2")
    done = call(*kind, "-i", "her.png", "--face", "1=her.png")
    assert done.exit_code == 0, done.output
    found.clear()
    done = call("-a", "id.safetensors", "--face", "her.png")
    assert done.exit_code == 2 and "no face was found in her.png" in done.stderr
