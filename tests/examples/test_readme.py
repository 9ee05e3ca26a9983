"""The README is a promise: every snippet in it runs, and every command and file in it exists."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ipa import demo
from ipa.app.cli import app
from oracle import models
from oracle.adapters import face_tensors
from oracle.controlled import outline, write_controlnet
from oracle.hub import LocalHub, serve
from oracle.t2i_adapters import write_t2i_adapter

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PROGRAM = Path(sys.executable).with_name("ipa-mlx")


def blocks(language: str) -> list[str]:
    return [code for kind, code in BLOCKS if kind == language]


FACES = """
import ipa
import numpy as np
import torch
from PIL import Image

embedding = np.full(512, 512**-0.5, np.float32)
photo = group = Image.new("RGB", (64, 64))
find_faces = lambda picture: [ipa.Face(embedding)]
"""
"""What the README's words on faces stand for."""

REPORT = """
print(pipe.info()["adapters"]["style"]["projector"])
print(pipe.info()["adapters"]["face"]["kind"])
print(list(pipe.info()["controlnets"]), outlines.scale)
print(list(pipe.info()["t2i_adapters"]), len(both_ways))
result = pipe(image_prompts=both, num_inference_steps=1, width=32, height=32)
print(len(result.info["request"]["image_prompts"]))
"""


def nested(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """As the original repository's files are."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def commands() -> Iterator[list[str]]:
    for code in blocks("sh"):
        for line in code.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def run(code: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_python_snippets_run_one_after_the_other(tmp_path: Path) -> None:
    assert len(blocks("python")) >= 3
    run("\n".join(blocks("python")), tmp_path)
    made = sorted(path.name for path in tmp_path.glob("*.png"))
    stars, seen = (["star-0.png", "star-1.png"], ["seen-0.png", "seen-1.png"])
    assert made == ["halves.png", "like_this.png", "outlines.png", *seen, *stars, "where.png"]


@pytest.fixture
def hub(tiny: Path, tmp_path: Path) -> Iterator[LocalHub]:
    """The README's repositories, with small files in the same places."""
    model, adapters = tmp_path / "model", tmp_path / "adapters" / "models"
    shutil.copytree(tiny, model, ignore=shutil.ignore_patterns("image_encoder"))
    for file in model.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    shutil.copytree(tiny / "image_encoder", adapters / "image_encoder")
    for name in ("ip-adapter-plus_sd15", "ip-adapter-plus-face_sd15"):
        shutil.copy(tiny / "plus.safetensors", adapters / f"{name}.safetensors")
    faces = tmp_path / "faces"
    faces.mkdir()
    for name, kind in (("faceid-plusv2", "faceid_plus"), ("faceid", "faceid")):
        tensors = face_tensors(models.UNET, kind, rank=2, states=models.VISION["hidden_size"])
        torch.save(nested(tensors), faces / f"ip-adapter-{name}_sd15.bin")
    write_controlnet(tmp_path / "canny", models.UNET, seed=1)
    write_t2i_adapter(tmp_path / "t2i", 2, channels=models.UNET["block_out_channels"][:1])
    repositories = {
        "h94/IP-Adapter-FaceID": faces,
        "lllyasviel/control_v11p_sd15_canny": tmp_path / "canny",
        "TencentARC/t2iadapter_canny_sd14v1": tmp_path / "t2i",
        "stable-diffusion-v1-5/stable-diffusion-v1-5": model,
        "h94/IP-Adapter": adapters.parent,
    }
    with serve(repositories) as running:
        yield running


def test_snippets_that_need_the_hub_run(hub: LocalHub, tmp_path: Path) -> None:
    code = "\n".join([FACES, *blocks("py"), REPORT])
    out = run(code, tmp_path, hub.environment(tmp_path / "cache"))
    assert out == "resampler\nfaceid-plusv2\n['canny'] 0.7\n['t2i'] 2\n2\n"


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first as a program of its own; each imports the same, so the others share a process."""
    for name, path in zip(("style", "chair"), demo.references(), strict=False):
        Image.open(path).save(tmp_path / f"{name}.png")
    outline(Image.open(tmp_path / "chair.png")).save(tmp_path / "edges.png")
    Image.linear_gradient("L").rotate(90).save(tmp_path / "left.png")
    Image.linear_gradient("L").rotate(270).save(tmp_path / "right.png")
    ours = [words for words in commands() if words[0] == "ipa-mlx"]
    assert len(ours) >= 3
    done = subprocess.run([PROGRAM, *ours[0][1:]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, (ours[0], done.stderr)
    monkeypatch.chdir(tmp_path)
    for words in ours:
        if words is not ours[0]:
            called = CliRunner().invoke(app, words[1:])
            assert called.exit_code == 0, (words, called.output)
        if "-o" in words:
            output = Path(words[words.index("-o") + 1])
            assert list(tmp_path.glob(f"{output.stem}*{output.suffix}"))


def test_make_targets_and_extras_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for words in commands():
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
        elif words[:2] == ["pip", "install"]:
            named = re.findall(r"\[(\w+)\]", words[2])
            assert all(extra in extras["optional-dependencies"] for extra in named), words
        else:
            assert words[0] == "ipa-mlx", words


def test_files_that_it_shows_exist() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert linked
    assert [path for path in linked if not (ROOT / path).is_file()] == []
