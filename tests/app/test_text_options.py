"""Options of `ipa-mlx generate` about its texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

import ipa
from ipa.app.cli import app
from ipa.pipeline.description import METADATA_KEY

QUICK = ("--steps", "1", "--guidance", "3", "--width", "32", "--height", "32")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx generate …` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["generate", *(str(w) for w in words), *QUICK])


def request_of(path: Path) -> dict[str, Any]:
    return json.loads(Image.open(path).text[METADATA_KEY])["request"]


def test_the_command_makes_what_the_library_makes(
    call: Callable[..., Result],
    tmp_path: Path,
    tiny_xl: Path,
    open_pipeline: Callable[..., ipa.Pipeline],
) -> None:
    draw = np.random.default_rng(2)
    shapes = {"clip_l": (2, 40), "clip_g": (2, 64)}
    rows = {name: draw.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    save_file(rows, tmp_path / "a=b.safetensors")
    texts = {"prompt": "a <s>", "prompt_2": "(a ring:1.2) BREAK a star", "negative_prompt": "b"}
    texts |= {"negative_prompt_2": "a heart", "prompt_syntax": "a1111", "long_prompts": "chunks"}
    words = [(f"--{name.replace('_', '-')}", value) for name, value in texts.items()]
    done = call(
        *(part for pair in words for part in pair),
        *("-m", tiny_xl, "--clip-skip", 1, "--textual-inversion", "<s>=a=b.safetensors"),
    )
    assert done.exit_code == 0, done.output
    kept = request_of(tmp_path / "out.png")
    assert {name: kept[name] for name in texts} == texts
    assert kept["clip_skip"] == 1
    (word,) = kept["textual_inversions"]
    assert (word["token"], word["file"], word["vectors"]) == ("<s>", "a=b.safetensors", 2)
    pipe = open_pipeline(tiny_xl, "mlx")
    pipe.load_textual_inversion(tmp_path / "a=b.safetensors", "<s>")
    size = {"width": 32, "height": 32, "num_inference_steps": 1, "guidance_scale": 3.0}
    image = pipe(**texts, **size, clip_skip=1).images[0]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(image))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--clip-skip", "40"), "--clip-skip leaves out more layers than demo has"),
        (("--long-prompts", "fold"), "--long-prompts must be one of cut, chunks"),
        (("--prompt-syntax", "x"), "--prompt-syntax must be one of plain, a1111, comfyui"),
        (("--textual-inversion", "none.pt"), "no file of textual inversion"),
        (("--prompt-2", "x"), "takes no --prompt-2"),
    ],
)
def test_refused(words: tuple[str, ...], message: str, call: Callable[..., Result]) -> None:
    done = call("-p", "a star", *words)
    assert done.exit_code != 0
    assert message in " ".join(done.output.split())
