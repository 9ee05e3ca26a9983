"""`ipa-mlx parity`, through the command line that a person types."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ipa_mlx.layers
from ipa import demo
from ipa.app.cli import app
from ipa.app.request_file import read_request
from ipa.contract.errors import RequestError

FEW = ("--stages", "*/latents", "--stages", "text.*")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx …` in an empty folder that holds style.png and run.json."""
    monkeypatch.chdir(tmp_path)
    image = Image.open(demo.references()[3]).rotate(90)  # not among the demo's references
    image.save("style.png")
    prompt = {"image": "style.png", "scale": 0.7}
    request = {"prompt": "a heart", "image_prompts": [prompt], "num_inference_steps": 2, "seed": 5}
    Path("run.json").write_text(json.dumps(request))
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_captures_are_written_and_compared(call: Callable[..., Result], tmp_path: Path) -> None:
    for name, words in {"a": FEW, "half": (*FEW, "--sketch", "--dtype", "float16")}.items():
        output = tmp_path / f"{name}.safetensors"
        done = call("parity", "capture", "-r", "run.json", "-o", output, *words)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith(f"{output}: ")
    good = call("parity", "compare", "a.safetensors", "half.safetensors", "--junit", "found.xml")
    assert good.exit_code == 0, good.output
    assert "mlx float16 agrees with mlx float32" in good.stdout
    suites = ElementTree.parse(tmp_path / "found.xml").getroot()
    assert [suite.get("name") for suite in suites][:2] == ["text.positive", "text.negative"]
    strict = ("--limit", "1", "--limit", "step.001/*=1e-7")
    words = ("a.safetensors", "half.safetensors", *strict, "--json", "f.json", "--junit", "f.xml")
    bad = call("parity", "compare", *words)
    assert bad.exit_code == 1
    assert "departs from mlx float32 at step.001/latents" in bad.stdout
    found = json.loads((tmp_path / "f.json").read_text())
    assert (found["ok"], found["first_bad"]) == (False, "step.001/latents")
    assert found["verdict"] in " ".join(bad.stdout.split())
    assert [one["stage"] for one in found["stages"] if one["bad"]] == ["step.001/latents"]
    failed = ElementTree.parse(tmp_path / "f.xml").findall(".//testcase[failure]")
    assert [case.get("name") for case in failed] == ["latents"]


def test_what_a_picture_says_of_itself_is_captured_again(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    words = ("generate", "-p", "a heart", "-i", "style.png:0.7", "-n", 2, "-o", "x.png")
    made = call(*words, "-s", 4, "--num-images", 2)
    assert made.exit_code == 0, made.output
    for request, output in (("x-2.png", "a"), ("run.json", "b")):
        words = ("-r", request, "-o", f"{output}.safetensors", "--picture", tmp_path, *FEW)
        done = call("parity", "capture", *words, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["request"]["seed"] == 5
    assert call("parity", "compare", "a.safetensors", "b.safetensors").exit_code == 0
    lost = call("parity", "capture", "-r", "x-2.png", "-o", "c.safetensors")
    assert (lost.exit_code, "--picture" in lost.stderr) == (2, True)
    assert not Path("c.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("capture", "-r", "none.json", "-o", "a.safetensors"), "cannot be read"),
        (("capture", "-r", "run.json", "-o", "a.pt"), "kept as .safetensors"),
        (("capture", "-r", "run.json", "-o", "a.safetensors", "--steps", "a"), "list of numbers"),
        (("capture", "-r", "style.png", "-o", "a.safetensors"), "says nothing of its request"),
        (("compare", "run.json", "run.json"), "run.json"),
        (("compare", "none.safetensors", "none.safetensors"), "none.safetensors"),
    ],
)
def test_bad_input(call: Callable[..., Result], words: tuple[str, ...], message: str) -> None:
    done = call("parity", *words)
    assert (done.exit_code, message in " ".join(done.stderr.split())) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"promt": "a dog"}, "did you mean prompt"),
        ({"image_prompts": [{"image": "style.png", "scael": 1}]}, "did you mean scale"),
        ({"image_prompts": ["style.png"]}, "list of objects"),
        ({"image_prompts": [{"image": 3}]}, "is a path"),
        ({"image": "none.png"}, "no such file"),
        ({"adapters": "base=a"}, "list of texts"),
        ({"seeds": [1], "given_latents_sha256": None, "image_prompts": 3}, "is damaged"),
        ({"seeds": [1], "given_latents_sha256": "ab"}, "latents that were given"),
        ([1], "is no request"),
    ],
)
def test_bad_requests(
    call: Callable[..., Result], tmp_path: Path, request_: object, message: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(request_))
    with pytest.raises(RequestError, match=message):
        read_request(path)


def test_all_of_a_request_file(call: Callable[..., Result], tmp_path: Path) -> None:
    prompt = {"image": ["style.png", "style.png"], "mask": "style.png", "negative": "noise"}
    told = {
        "image_prompts": [prompt],
        "controls": [{"image": "style.png", "scale": 0.5}],
        "image": "style.png",
        "adapters": ["a=x.safetensors"],
    }
    (tmp_path / "all.json").write_text(json.dumps(told))
    found = read_request(tmp_path / "all.json")
    (made,) = found.arguments["image_prompts"]
    assert (len(made.images), made.negative, made.mask.shape) == (2, "noise", (64, 64))
    assert found.arguments["controls"][0].scale == 0.5
    assert found.arguments["image"].size == (64, 64)
    assert found.sources["adapters"] == ("a=x.safetensors",)


def test_a_capture_is_as_good_as_its_backend(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its framework is not installed."""
    few = ("-r", "run.json", "--json", "found.json")
    live = call("parity", "compare", "torch", "mlx", *few, "--no-floor", "--forced")
    assert live.exit_code == 0, live.output
    verdicts = [json.loads(Path("found.json").read_text())["stages"]]
    words = ("-r", "run.json", "-o", "ref.safetensors", "--backend", "torch")
    assert call("parity", "capture", *words).exit_code == 0
    for name in ("torch", "transformers", "diffusers"):
        monkeypatch.setitem(sys.modules, name, None)
    told = call("parity", "compare", "ref.safetensors", "mlx", *few, "--no-floor", "--forced")
    assert told.exit_code == 0, told.output
    verdicts.append(json.loads(Path("found.json").read_text())["stages"])
    assert verdicts[0] == verdicts[1]


def test_a_fault_is_found_a_level_at_a_time(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ipa_mlx.layers.ACTIVATIONS, "quick_gelu", ipa_mlx.layers.gelu)
    found = call("parity", "compare", "torch", "mlx", "-r", "run.json", "--descend")
    assert found.exit_code == 1, found.output
    assert "layers.0.mlp.activation_fn" in found.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("mlx", "mlxx"), "neither a capture nor a backend"),
        (("mlx", "torch"), "needs a request"),
        (("mlx", "torch:int8", "-r", "run.json"), "unknown dtype"),
        (("mlx", "none.safetensors", "--forced"), "name a backend as B"),
    ],
)
def test_what_cannot_be_compared(
    words: tuple[str, ...], message: str, call: Callable[..., Result]
) -> None:
    done = call("parity", "compare", *words)
    assert (done.exit_code, message in " ".join(done.stderr.split())) == (2, True), done.output
