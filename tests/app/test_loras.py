"""`ipa-mlx generate --lora`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ipa import RequestError
from ipa.app.cli import app
from ipa.app.options.loras import LoraChoice, parse_loras
from ipa.backend.protocol import LoadedLora
from ipa.pipeline.description import METADATA_KEY
from ipa_mlx.loras import Loras
from oracle import loras
from oracle.loras import File
from oracle.pipelines import diffusers_pipeline

QUICK = ("--steps", "1", "--guidance", "1", "--width", "32", "--height", "32")


def test_what_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("odd=name:2").touch()
    given = ["a.safetensors", "b=a.safetensors:-0.5", "owner/name/a.safetensors:2", "odd=name:2"]
    assert parse_loras(given) == [
        LoraChoice("a.safetensors", None, 1.0),
        LoraChoice("a.safetensors", "b", -0.5),
        LoraChoice("owner/name/a.safetensors", None, 2.0),
        LoraChoice("odd=name:2", None, 1.0),
    ]
    with pytest.raises(RequestError, match="finite"):
        parse_loras(["a.safetensors:nan"])


def test_surplus_tensors_of_a_file_are_ignored_by_its_name(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of LoRAs and adapters: the name alone is of the model; the error says how."""
    monkeypatch.chdir(tmp_path)
    pairs = loras.random_pairs(loras.layers(diffusers_pipeline(tiny)), seed=1)
    file = loras.kohya(loras.weak(pairs), "sd")
    loras.write(
        Path("a.safetensors"), File(file.tensors | {"stray.one": torch.ones(1)}, file.metadata)
    )
    adapter = load_file(tiny / "linear.safetensors") | {"stray.two": torch.ones(1)}
    save_file(adapter, "look.safetensors")
    words = ("generate", "-m", str(tiny), "-p", "a star", *QUICK, "--overwrite", "--lora")
    words = (*words, "a.safetensors", "-a", "mine=look.safetensors")

    def told(*ignored: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*words, *(w for i in ignored for w in ("--ignore", i))])
        return done.exit_code, " ".join(done.output.split())

    for ignored, found in (((), "stray.one"), (("a=stray.*",), "stray.two")):
        code, text = told(*ignored)
        assert code != 0 and found in text and "--ignore FILE=NAME" in text, text
    code, text = told("a=stray.*", "mine=stray.two")
    assert code == 0 and "stray.one" in text, text
    assert told("a=stray.*", "look=stray.two")[0] == 0
    for ignored, found in (
        ("b=stray.*", "b; there is a, mine, look"),
        ("stray.*", "names no tensor"),
        ("a=nothing.*", "names no tensor of a.safetensors"),
    ):
        code, text = told("mine=stray.two", "a=stray.*", ignored)
        assert code != 0 and found in text, text


def test_two_of_them(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = loras.random_pairs(loras.layers(diffusers_pipeline(tiny)), seed=1)
    loras.write(Path("a.safetensors"), loras.kohya(loras.weak(pairs), "sd"))
    words = ("generate", "-m", str(tiny), "-p", "a star", *QUICK)
    done = CliRunner().invoke(
        app, [*words, "--lora", "a.safetensors:0.5", "--lora", "b=a.safetensors"]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(Image.open("out.png").text[METADATA_KEY])["request"]["loras"]
    assert {name: entry["scale"] for name, entry in told.items()} == {"a": 0.5, "b": 1.0}
    loras.write(Path("bad.safetensors"), File({"stray": torch.ones(1)}))
    done = CliRunner().invoke(app, [*words, "--lora", "bad.safetensors"])
    assert done.exit_code != 0
    assert "stray" in done.output


def test_named_in_the_prompt(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder; the same picture as with --lora, and its description says how."""
    monkeypatch.chdir(tmp_path)
    Path("loras").mkdir()
    pairs = loras.random_pairs(dict([*loras.layers(diffusers_pipeline(tiny)).items()][::9]), seed=1)
    loras.write(Path("loras/a.safetensors"), loras.kohya(loras.weak(pairs), "sd"))
    words = ("generate", "-m", str(tiny), *QUICK, "--prompt-syntax", "a1111", "-p")
    named = ("a star <lora:a:0.5>", "--lora-folder", "loras", "-o", "named.png")
    loaded = ("a star", "--lora", "loras/a.safetensors:0.5", "-o", "loaded.png")
    for options in (named, loaded):
        done = CliRunner().invoke(app, [*words, *options])
        assert done.exit_code == 0, done.output
    pictures = [Image.open(f"{name}.png") for name in ("named", "loaded")]
    assert pictures[0].tobytes() == pictures[1].tobytes()
    told = json.loads(pictures[0].text[METADATA_KEY])["request"]
    assert told["prompt"] == "a star <lora:a:0.5>"
    expected = {"file": "a.safetensors", "scale": 0.5, "fused": False, "tag": "<lora:a:0.5>"}
    assert told["loras"] == {"a": expected}
    done = CliRunner().invoke(app, [*words, "a star <lora:b:0.5>", "--lora-folder", "loras"])
    assert done.exit_code != 0
    assert "no LoRA called 'b'" in " ".join(done.output.split())


def test_interrupted_while_it_is_loaded(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C as the file is read: code 130, no file, no trace."""
    monkeypatch.chdir(tmp_path)
    pairs = loras.random_pairs(loras.layers(diffusers_pipeline(tiny)), seed=1)
    loras.write(Path("a.safetensors"), loras.kohya(loras.weak(pairs), "sd"))
    load, handler, begun = Loras.load, signal.getsignal(signal.SIGINT), list[str]()

    def interrupted(own: Loras, name: str, path: Path, **how: Any) -> LoadedLora:
        begun.append(name)
        signal.raise_signal(signal.SIGINT)
        return load(own, name, path, **how)

    monkeypatch.setattr(Loras, "load", interrupted)
    words = ("generate", "-m", str(tiny), "-p", "a star", *QUICK, "--lora", "a.safetensors")
    done = CliRunner().invoke(app, [*words, "-o", "out.png"])
    assert (done.exit_code, begun) == (130, ["a"])
    assert "Traceback" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_interrupted_twice_while_it_is_loaded(tiny: Path, tmp_path: Path) -> None:
    """The process ends there, and the file is not read."""
    pairs = loras.random_pairs(loras.layers(diffusers_pipeline(tiny)), seed=1)
    loras.write(tmp_path / "a.safetensors", loras.kohya(loras.weak(pairs), "sd"))
    code = (
        "import os, signal, sys, time\n"
        "from ipa_mlx.loras import Loras\n"
        "from ipa.app.cli import app\n"
        "def interrupted(*_, **__):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "    os._exit(99)\n"
        "Loras.load = interrupted\n"
        "app(sys.argv[1:])\n"
    )
    words = ("generate", "-m", str(tiny), "-p", "a star", *QUICK, "--lora", "a.safetensors")
    run = [sys.executable, "-c", code, *words, "-o", "out.png"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr and "Ctrl-C again to quit now" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
