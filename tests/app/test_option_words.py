"""Errors speak of options on the command line, of arguments in the library."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from ipa import demo
from ipa.app.cli import app
from ipa.app.help.option_words import KEYWORDS, PHRASES, in_options, translated
from ipa.errors import RequestError
from ipa.model.ignoring import REMEDY

ROOT = Path(__file__).resolve().parents[2]
KEYWORD = re.compile(r"(?<![\w./-])[a-z][a-z_0-9]*=(?!=)|load_ip_adapter|load_lora|ImagePrompt\(")
# What no option can lead to: arguments that the command line has not, and functions of Python.
PYTHON_ONLY = (
    "batched=True",
    "ipa.ImagePrompt(picture)",
    'output_type="latent"',
    "ImagePrompt(picture, ",
    "num_images_per_prompt=1",
    "right=128",
    "axes=[Axis",
    "others= say",
)


def texts(node: ast.expr) -> Iterator[str]:
    """The literal texts of an argument, an X for each value in them."""
    if isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
        yield "".join(map(str, parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def messages() -> Iterator[str]:
    """What every error of ours says is wrong, and what to do."""
    for package in ("ipa", "ipa_mlx", "ipa_torch", "convert"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Error"):
                    told = [k.value for k in node.keywords if k.arg == "remedy"]
                    for argument in (*node.args, *told):
                        yield from texts(argument)


def test_no_message_of_ours_speaks_python_at_the_command_line() -> None:
    found = list(messages())
    assert sum(bool(KEYWORD.search(text)) for text in found) > 40  # of the library's
    bad = [translated(text) for text in found if KEYWORD.search(translated(text))]
    assert [text for text in bad if not any(own in text for own in PYTHON_ONLY)] == []


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_phrase_is_said_somewhere(phrase: str) -> None:
    words = phrase.replace("unload_controlnet", "unload_X").replace(
        "unload_t2i_adapter", "unload_X"
    )
    # A constant, which several messages end in.
    assert phrase == REMEDY or any(words in text for text in messages())
    assert not KEYWORD.search(translated(phrase))


def test_every_option_of_the_table_is_one_of_generate() -> None:
    known = {name for p in typer.main.get_group(app).commands["generate"].params for name in p.opts}
    told = {word for text in (*KEYWORDS.values(), *PHRASES.values()) for word in text.split()}
    options = {word.strip(";,:") for word in told if word.startswith("--")}
    assert len(options) > 40 and options <= known


def test_what_was_found_stays() -> None:
    error = RequestError("width must fit", found="width=3 in /a/width=3.png", remedy="pass width=8")
    expected = "width must fit; found: width=3 in /a/width=3.png; remedy: pass --width 8."
    assert in_options(error) == expected
    assert str(error).endswith("pass width=8.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("num_inference_steps must be 1 or more", "--steps must be 1 or more"),
        (
            'load with dtype="float32", or lower guidance_scale',
            "load with --dtype float32, or lower --guidance",
        ),
        (
            "pass mask_fit='crop' or mask_fit='stretch'",
            "pass --mask-fit crop or --mask-fit stretch",
        ),
        ("ImagePrompt.mask_fit is unknown", "--mask-fit is unknown"),
        ("ignore='a.*' names no tensor of x", "--ignore a.* names no tensor of x"),
        ("/data/seed=3/mask_image.png is no picture", "/data/seed=3/mask_image.png is no picture"),
        ("model_index.json says num_images", "model_index.json says --num-images"),
    ],
)
def test_translations(text: str, expected: str) -> None:
    assert translated(text) == expected


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for number, name in ((3, "style.png"), (1, "chair.png")):
        Image.open(demo.references()[number]).save(name)
    Image.new("L", (90, 30)).save("wide.png")
    (tmp_path / "adapters").mkdir()
    return tmp_path


TWO = ("-a", f"a={demo.adapter('base')}", "-a", f"b={demo.adapter('plus')}")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--steps", "0"), "--steps must be"),
        (("--guidance", "nan"), "--guidance must be"),
        (("-i", "other=style.png"), "write -i NAME=PICTURE"),
        (("-a", "./adapters"), "--adapter FOLDER/"),
        (("-a", "no-such"), "owner/repository/folder/"),
        ((*TWO, "-i", "style.png"), "write -i NAME=PICTURE"),
        (("-a", f"a={demo.adapter('base')}", "-a", f"a={demo.adapter('plus')}"), "--adapter NAME="),
        (("-i", "style.png", "--mask", "wide.png"), "--mask-fit stretch"),
        (("-p", "x", "--long-prompts", "never"), "long"),
        (("-p", "x", "--scheduler", "nothing"), "did you mean"),
        (("--control", "none=style.png"), "write --control NAME=PICTURE"),
        (("-i", "style.png", "--neg-content-scale", "0.5"), "--neg-content-prompt"),
        (("--variant", "fp8"), "--variant"),
        (("-i", "style.png", "--fit", "wrong"), "center-crop"),
        (("--width", "63"), "try 64"),
        (("-i", "style.png", "--enhance-ratio", "0.5"), "--enhance-tiles 2"),
        (
            ("-i", "style.png", "--adapter-kind", "faceid", "-a", demo.adapter("base")),
            "--adapter-kind",
        ),
    ],
)
def test_typical_errors(folder: Path, words: tuple[Any, ...], part: str) -> None:
    done = CliRunner().invoke(app, ["generate", "--steps", "2", *map(str, words)])
    assert done.exit_code in {2, 3} and part in done.stderr, done.output
    assert not KEYWORD.search(re.sub(r"found: .*?(; remedy|$)", "", done.stderr)), done.stderr
    assert "_scale" not in done.stderr and "num_inference" not in done.stderr


def test_requests_in_files_keep_their_words(folder: Path) -> None:
    Path("request.json").write_text(json.dumps({"prompt": "x", "num_inference_steps": 0}))
    done = CliRunner().invoke(
        app, ["parity", "capture", "-r", "request.json", "-o", "a.safetensors"]
    )
    assert done.exit_code == 2 and "num_inference_steps must be" in done.stderr
