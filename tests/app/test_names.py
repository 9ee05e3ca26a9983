"""Short names of models, names that lead nowhere, and the list of them all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import ipa
from ipa import demo
from ipa.app.cli import app
from ipa.errors import CheckpointError, RequestError
from ipa.sources import models as sources
from ipa.sources.catalogue import ADAPTERS
from ipa.sources.models import resolve_model
from ipa.sources.public_models import MODELS
from oracle.public_models import MODELS as PUBLISHED

run = CliRunner(env={"COLUMNS": "80"}).invoke


def test_every_model_is_one_whose_configs_we_know() -> None:
    for name, public in MODELS.items():
        assert public.repository in PUBLISHED, name


def test_a_short_name_is_a_repository_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def on_hub(name: Any, **options: Any) -> Path:
        asked.append((name.repository, options["variant"]))
        return demo.model()

    monkeypatch.setattr(sources, "_on_hub", on_hub)
    monkeypatch.setattr(sources, "open_model_folder", lambda path, **_: path)
    for model, variant in (("sd15", None), ("sdxl", "own"), ("animagine", None)):
        resolve_model(model, variant=variant)
    assert asked == [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "fp16"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "own"),
        ("cagliostrolab/animagine-xl-3.1", None),
    ]


def test_what_lies_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(demo.model(), tmp_path / "sd15")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("sd15").path == Path("sd15")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("-m", "dreamshapr"), ("did you mean dreamshaper", "_8.safetensors", "sd15, ")),
        (("-m", "models/dreamshaper_9.safetensors"), ("models/dreamshaper_8.safetensors?",)),
        (("-a", "./ip/missing.safetensors"), ("./ip/missing.safetensors does not exist",)),
        (("-a", "base_sd15.safetensors"), ("base_sd15.safetensors does not exist",)),
        (("-a", "models/ip-adaptr.bin"), ("does not exist", "models/ip-adapter.bin?")),
        (("-a", "plus-sd1"), ("did you mean 'plus-sd15'",)),
    ],
)
def test_names_that_lead_nowhere(
    words: tuple[str, ...], parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    for name in ("dreamshaper_8.safetensors", "ip-adapter.bin"):
        (tmp_path / "models" / name).write_bytes(b"x")
    done = run(app, ["generate", "-p", "x", *words])
    assert done.exit_code == 3
    for part in parts:
        assert part in done.stderr


def test_a_missing_adapter_does_not_exist_in_the_library_either() -> None:
    import ipa

    pipe = ipa.load("demo", backend="mlx")
    with pytest.raises(CheckpointError, match=r"/no/such\.safetensors does not exist"):
        pipe.load_ip_adapter("/no/such.safetensors")


def test_the_list_is_whole_at_80_columns() -> None:
    lines = run(app, ["fetch"]).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    words = {word.strip("()") for line in lines for word in line.split()}
    for name, public in (*MODELS.items(), *ADAPTERS.items()):
        assert {name, public.repository} <= words
    assert [line.split()[2:4] for line in lines if line.startswith(("sdxl ", "plus-sd15 "))] == [
        ["6.9", "GB"],
        ["98", "MB"],
    ]


@pytest.mark.parametrize(
    ("name", "guess"), [("nope", "lists"), ("sdxxl", "sdxl"), ("plus-sd51", "plus-sd15")]
)
def test_a_wrong_short_name_is_told_of_models_and_adapters(name: str, guess: str) -> None:
    done = run(app, ["fetch", name])
    told = " ".join(done.stderr.split())
    assert done.exit_code != 0 and guess in told
    assert f"lists {len(MODELS)} models and {len(ADAPTERS)} adapters" in told


@pytest.mark.parametrize("model", ["demo", str(demo.model())])
def test_a_revision_is_of_the_hub(model: str) -> None:
    done = run(app, ["generate", "-p", "a star", "-m", model, "--revision", "main", "--steps", "1"])
    told = " ".join(done.stderr.split())
    assert done.exit_code != 0 and "--revision is for models on the hub" in told
    with pytest.raises(RequestError, match="revision= is for models on the hub"):
        ipa.load(model, revision="main")


def test_the_list_as_json() -> None:
    told = json.loads(run(app, ["fetch", "--json"]).stdout)
    assert told["models"].keys() == MODELS.keys() and told["adapters"].keys() == ADAPTERS.keys()
    assert told["models"]["sdxl"]["repository"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert told["adapters"]["plus-sd15"]["path"] == "models/ip-adapter-plus_sd15.safetensors"
