"""`ipa-mlx parity`, through the command line that a person types."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

import ipa_mlx.networks.attention
import ipa_mlx.networks.context
import ipa_mlx.networks.layers
from ipa import demo
from ipa.app.cli import app
from ipa.errors import RequestError
from ipa.pipeline.request_file import read_request
from ipa.prepare.images.pictures import to_pil

FAR = "unet.down_blocks.1.downsamplers.0.conv"  # sums of 288: no two libraries round them alike
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


def test_a_capture_is_not_overwritten_unasked(call: Callable[..., Result]) -> None:
    Path("a.safetensors").write_bytes(b"before")
    words = ("parity", "capture", "-r", "run.json", "-o", "a.safetensors", "--floor", "none")
    done = call(*words)
    assert done.exit_code == 2 and "add --overwrite" in done.stderr
    assert Path("a.safetensors").read_bytes() == b"before"
    assert call(*words, "--overwrite").exit_code == 0
    assert Path("a.safetensors").stat().st_size > 1000


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
    ("made", "typed", "is_same"),
    [
        (("--vae-memory", 32), (), True),
        (("--quantize", 8, "--dtype", "float16"), (), True),
        (("--vae-memory", 32), ("--vae-memory", "whole"), False),
        (("--quantize", 8), ("--quantize", 4), False),
        (("--dtype", "float16"), ("--dtype", "float32"), False),
    ],
)
def test_a_picture_is_captured_as_it_was_made(
    call: Callable[..., Result], made: Sequence[object], typed: Sequence[object], is_same: bool
) -> None:
    """In its precision, with its bits, its VAE in its way; what is typed goes before."""
    done = call("generate", "-p", "a heart", "-n", 1, "-o", "x.png", "--backend", "mlx", *made)
    assert done.exit_code == 0, done.output
    words = ("-r", "x.png", "-o", "x.safetensors", "--stages", "decode/image", "--floor", "none")
    done = call("parity", "capture", *words, "--backend", "mlx", *typed)
    assert done.exit_code == 0, done.output
    image = load_file("x.safetensors")["decode/image"][0].transpose(1, 2, 0)
    found = np.asarray(to_pil(image[None])[0])
    assert np.array_equal(found, np.asarray(Image.open("x.png"))) is is_same


FOREIGN = (
    "a heart\nSteps: 1, Sampler: Euler, CFG scale: 5, Seed: 3, Size: 64x64, "
    "Model hash: 0123456789, Model: dreams, RNG: CPU, Hires upscale: 2, Hires upscaler: Latent"
)


def test_what_another_program_s_picture_loses_is_listed(call: Callable[..., Result]) -> None:
    """Its request is taken as far as it goes, and none of the rest in silence."""
    chunk = PngInfo()
    chunk.add_text("parameters", FOREIGN)
    Image.new("RGB", (64, 64)).save("foreign.png", pnginfo=chunk)
    words = ("-r", "foreign.png", "-o", "x.safetensors", *FEW, "--floor", "none", "--json")
    done = call("parity", "capture", *words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["request"]["guidance_scale"] == 5
    lost = [line for line in done.stderr.splitlines() if line.startswith("not restored:")]
    for name in ("dreams", "Hires upscale", "Hires upscaler"):
        assert any(name in line for line in lost), (name, done.stderr)
    compared = call("parity", "compare", "x.safetensors", "mlx", "-r", "foreign.png")
    assert compared.stderr.count("not restored:") == len(lost)


def test_precisions_of_another_backend_are_told_and_left(call: Callable[..., Result]) -> None:
    words = ("generate", "-p", "a heart", "-n", 1, "-o", "x.png", "--backend", "mlx")
    assert call(*words, "--dtype", "float16", "--quantize", 8).exit_code == 0
    words = ("-r", "x.png", "-o", "x.safetensors", *FEW, "--backend", "torch", "--json")
    done = call("parity", "capture", *words)
    assert done.exit_code == 0, done.output
    assert "made by mlx with dtype float16, quantize 8: not taken here" in done.stderr
    assert json.loads(done.stdout)["dtype"] == "float32"


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


def test_the_way_from_another_machine_sees_an_epsilon(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group norms of 1e-5 for 1e-6: live, a level at a time, and by two captures."""
    few = ("-r", "run.json", "--json", "found.json")
    words = ("parity", "capture", "-r", "run.json", "--stages", "step.*", "--stages", "condition/*")
    assert call(*words, "--backend", "torch", "-o", "ref.safetensors").exit_code == 0
    assert call(*words, "--backend", "mlx", "-o", "good.safetensors").exit_code == 0
    good = call("parity", "compare", "ref.safetensors", "good.safetensors")
    assert good.exit_code == 0, good.output
    norm = ipa_mlx.networks.attention.Transformer2D.__init__

    def loose(self: Any, *args: Any, **options: Any) -> None:
        norm(self, *args, **options)
        self.norm.eps *= 10

    monkeypatch.setattr(ipa_mlx.networks.attention.Transformer2D, "__init__", loose)
    assert call(*words, "--backend", "mlx", "-o", "bad.safetensors").exit_code == 0
    for sides in (
        ("ref.safetensors", "bad.safetensors"),
        ("ref.safetensors", "mlx", "--descend"),
        ("torch", "mlx", "--descend"),
        ("mlx", "torch", "--descend"),  # what A has wrong is not its own floor
        ("bad.safetensors", "torch"),
    ):
        found = call("parity", "compare", *sides, *few)
        assert found.exit_code == 1, (sides, found.output)
        told = json.loads(Path("found.json").read_text())
        assert told["first_bad"] == "step.000/unet.down_blocks.1.attentions.0.norm", sides
        assert told["kinds"][0]["name"] == "unet.….norm"


@pytest.mark.parametrize("part", [{"guidance_end": 0.5}, {"guidance_start": 0.5}])
@pytest.mark.parametrize("words", [("torch", "mlx"), ("mlx", "torch", "--descend")])
def test_guidance_in_a_part_of_the_steps(
    call: Callable[..., Result], part: dict[str, float], words: tuple[str, ...]
) -> None:
    """What is computed once for both halves is told once, and stands in at steps with one."""
    request = json.loads(Path("run.json").read_text()) | part
    Path("part.json").write_text(json.dumps(request))
    found = call("parity", "compare", *words, "-r", "part.json")
    assert found.exit_code == 0, found.output
    assert "agrees with" in found.stdout


def test_options_hold_in_every_way_to_compare(call: Callable[..., Result]) -> None:
    """What has no meaning is refused; swaps are printed; a forced run shows no picture."""
    few = ("-r", "run.json", "--no-floor", "--json", "found.json")
    for way in (("--forced",), ("--descend",), ()):
        found = call("parity", "compare", "torch", "mlx", *few, *way, "--limit", f"*/{FAR}=1e-12")
        assert found.exit_code == 1, found.output
        told = json.loads(Path("found.json").read_text())
        own = {one["limit"] for one in told["stages"] if one["stage"].endswith(FAR)}
        assert own == {1e-12}
        assert (told["pictures"] is None) == bool(way)
        assert ("pictures and growth" in " ".join(found.stdout.split())) == bool(way)
        for words, message in (
            (("--allow", "sed"), "did you mean seed"),
            (("--limit", "*/latent=1"), "no stage is called"),
            (("--limit", "1e"), "--limit is a number"),
        ):
            refused = call("parity", "compare", "torch", "mlx", *few, *way, *words)
            said = " ".join(refused.stderr.split())
            assert (refused.exit_code, message in said) == (2, True), said
    swapped = call("parity", "compare", "torch", "mlx", *few, "--descend", "--swaps")
    assert swapped.exit_code == 0, swapped.output
    for component in ("nothing", "text encoders", "projector", "everything before the VAE"):
        assert component in swapped.stdout


def test_reports_are_checked_before_anything_runs(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ipa.app.options.loading.load", lambda *_, **__: pytest.fail("it ran"))
    (tmp_path / "folder").mkdir()
    for option in ("--html", "--json", "--junit"):
        for path, words in (("none/x", "does not exist"), ("folder", "is a folder")):
            done = call("parity", "compare", "torch", "mlx", "-r", "run.json", option, path)
            assert (done.exit_code, words in done.stderr) == (2, True), done.output


def test_a_run_that_gives_nan_is_captured_up_to_there(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("parity", "capture", "-r", "run.json", "--backend", "mlx")
    assert call(*words, "-o", "good.safetensors", "--sketch").exit_code == 0
    told = ipa_mlx.networks.context.Context.observe

    def lost(self: Any, part: str, array: Any) -> Any:
        return told(self, part, array * float("nan") if part == "text" else array)

    monkeypatch.setattr(ipa_mlx.networks.context.Context, "observe", lost)
    for name, options in {"whole": (), "sketch": ("--sketch",)}.items():
        done = call(*words, "-o", f"{name}.safetensors", *options)
        assert (done.exit_code, "step 1 of 2 gave NaN" in " ".join(done.stderr.split())) == (
            5,
            True,
        )
        found = call("parity", "compare", "good.safetensors", f"{name}.safetensors")
        assert found.exit_code == 1
        assert "attn2.text (what a site" in found.stdout or "attn2.text (the text" in found.stdout
        assert "NaN or infinity" in found.stdout
        assert "mlx float32 ended early: step 1 of 2" in " ".join(found.stdout.split())
    live = call("parity", "compare", "good.safetensors", "mlx", "-r", "run.json", "--no-floor")
    assert live.exit_code == 1, live.output
    assert "ended early" in " ".join(live.stdout.split())


def test_floors_of_float32_are_the_references(call: Callable[..., Result]) -> None:
    """Measured at another backend's stages they would hold that backend's faults."""
    words = ("--backend", "mlx", "--floor", "float32", "-o", "own.safetensors")
    done = call("parity", "capture", "-r", "run.json", *words)
    told = " ".join(done.stderr.split())
    assert (done.exit_code, "measured on torch" in told) == (2, True), done.output
    assert not Path("own.safetensors").exists()


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
