"""`ipa-mlx generate`, through the command line that a person types."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ipa
from ipa import ImagePrompt, demo
from ipa.app.cli import app
from ipa.app.options.parsing import parse_image_prompt, parse_scale
from ipa.pipeline.description import METADATA_KEY

QUICK = ("--steps", "2", "--guidance", "3")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx …` in an empty folder that holds style.png."""
    monkeypatch.chdir(tmp_path)
    Image.open(demo.references()[3]).save("style.png")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def request_of(path: Path) -> dict[str, Any]:
    return json.loads(Image.open(path).text[METADATA_KEY])["request"]


def test_a_picture_with_the_request_inside(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call(
        *("generate", "-p", "a heart", "--negative-prompt", "a ring", "-i", "style.png:0.7"),
        *("-s", 5, *QUICK, "-o", "out.png"),
    )
    assert (done.exit_code, done.stdout) == (0, "out.png\n")
    kept = request_of(tmp_path / "out.png")
    assert (kept["prompt"], kept["negative_prompt"], kept["seed"]) == ("a heart", "a ring", 5)
    assert kept["image_prompts"][0]["scale"] == 0.7


@pytest.mark.parametrize("backend", ["mlx", "torch"])
def test_the_command_makes_what_the_library_makes(
    call: Callable[..., Result], tmp_path: Path, backend: str
) -> None:
    done = call("generate", "-i", "style.png", *QUICK, "-s", 2, "--backend", backend)
    assert done.exit_code == 0, done.output
    pipe = ipa.load("demo", backend=backend)
    pipe.load_ip_adapter(demo.adapter("base"))
    prompt = ImagePrompt(Image.open(demo.references()[3]))
    expected = pipe(image_prompts=[prompt], num_inference_steps=2, guidance_scale=3, seed=2)
    found = np.asarray(Image.open(tmp_path / "out.png"))
    assert np.array_equal(found, np.asarray(expected.images[0]))


def test_sdxl_is_a_model_like_any_other(
    call: Callable[..., Result], tmp_path: Path, tiny_xl: Path
) -> None:
    words = ("generate", "-m", tiny_xl, "-a", tiny_xl / "plus.safetensors", "-i", "style.png")
    done = call(*words, *QUICK, "--width", 64, "--height", 48)
    assert done.exit_code == 0, done.output
    kept = request_of(tmp_path / "out.png")
    assert (kept["original_size"], kept["negative_prompt"]) == ([48, 64], None)


def test_how_it_is_sampled_is_kept(
    call: Callable[..., Result], tmp_path: Path, tiny_xl: Path
) -> None:
    small = ("--steps", 1, "--width", 32, "--height", 32)
    words = ("generate", "-m", tiny_xl, "-p", "a star", "--scheduler", "ddim", "--eta", 0.5)
    done = call(*words, "--guidance-rescale", 0.7, "--timestep-spacing", "trailing", *small)
    assert done.exit_code == 0, done.output
    kept = request_of(tmp_path / "out.png")
    names = ("guidance_scale", "guidance_rescale", "eta", "timestep_spacing", "scheduler")
    assert [kept[name] for name in names] == [5.0, 0.7, 0.5, "trailing", "ddim"]


def test_steps_that_are_named_are_kept(call: Callable[..., Result], tmp_path: Path) -> None:
    words = ("generate", "-p", "a ring", "--scheduler", "euler", "--width", 32, "--height", 32)
    words += ("--overwrite",)
    assert call(*words, "--timesteps", "999,400.5").exit_code == 0
    kept = request_of(tmp_path / "out.png")
    assert (kept["timesteps"], kept["num_inference_steps"]) == ([999.0, 400.5], 2)
    assert call(*words, "--sigmas", "9,0", "--steps", 1).exit_code == 0
    assert request_of(tmp_path / "out.png")["sigmas"] == [9.0, 0.0]


def test_each_picture_of_several_keeps_its_own_seed(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    assert call("generate", "-p", "a ring", *QUICK, "-s", 8, "--num-images", 2).exit_code == 0
    assert not (tmp_path / "out.png").exists()
    for number, seed in ((1, 8), (2, 9)):
        request = request_of(tmp_path / f"out-{number}.png")
        assert (request["seed"], request["num_images"]) == (seed, 1)
    again = call("generate", "-p", "a ring", *QUICK, "-s", 9, "-o", "again.png")
    assert again.exit_code == 0
    second, alone = (np.asarray(Image.open(tmp_path / n)) for n in ("out-2.png", "again.png"))
    assert np.abs(second.astype(int) - alone).max() <= 1


def test_pictures_of_one_generator_keep_the_whole_request(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    """None of them can be made alone; the number says which one it was."""
    words = ("generate", "-p", "a ring", *QUICK, "-s", 8, "--profile", "tencent")
    assert call(*words, "--num-images", 2).exit_code == 0
    for number in (1, 2):
        request = request_of(tmp_path / f"out-{number}.png")
        told = [request[name] for name in ("seed", "seeds", "num_images", "picture")]
        assert told == [8, [8, 8], 2, number]
    assert call(*words).exit_code == 0
    request = request_of(tmp_path / "out.png")
    assert (request["seeds"], "picture" in request) == ([8], False)


def test_json_on_standard_output_alone(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call("generate", "-p", "a ring", *QUICK, "--json", "--width", 48, "--height", 80)
    found = json.loads(done.stdout)
    assert found["files"] == [str(tmp_path / "out.png")]
    assert (found["request"]["width"], found["request"]["height"]) == (48, 80)
    assert Image.open(tmp_path / "out.png").size == (48, 80)


def test_adapters_by_name_and_by_file(call: Callable[..., Result], tmp_path: Path) -> None:
    done = call(
        *("generate", *QUICK, "--scale", '{"up": 0.5}', "--scheduler", "euler_karras"),
        *("-a", demo.adapter("base"), "-a", f"plus={demo.adapter('plus')}"),
        *("-i", "plus=style.png:0.25@0-0.5", "-i", "ip-adapter_tiny=style.png"),
    )
    assert done.exit_code == 0, done.output
    first, second = request_of(tmp_path / "out.png")["image_prompts"]
    assert (first["adapter"], first["scale"], first["end"]) == ("plus", 0.25, 0.5)
    assert (second["adapter"], second["scale"]) == ("ip-adapter_tiny", {"up": 0.5})


def test_masks_by_number(call: Callable[..., Result], tmp_path: Path) -> None:
    Image.new("L", (64, 64), 128).save("left.png")
    Image.new("L", (64, 32)).save("2=odd.png")  # the file's own name
    done = call("generate", *QUICK, *("-i", "style.png") * 2, "--mask", "2=left.png")
    assert done.exit_code == 0, done.output
    first, second = request_of(tmp_path / "out.png")["image_prompts"]
    assert first["masks"] is None and second["masks"][0]["width"] == 64
    words = ("-i", "style.png", "--mask", "2=odd.png", "--mask-fit", "crop", "--overwrite")
    done = call("generate", *QUICK, *words)
    assert done.exit_code == 0, done.output
    (only,) = request_of(tmp_path / "out.png")["image_prompts"]
    assert (only["mask_fit"], only["masks"][0]["height"]) == ("crop", 32)


def test_profile(call: Callable[..., Result], tmp_path: Path) -> None:
    """What the encoder sees follows it too, and the PNG keeps it."""
    Image.open("style.png").resize((90, 77)).save("style.png")
    seen = []
    for name in ("diffusers", "comfyui"):
        words = ("-i", "style.png", "--profile", name, "--show-reference", f"{name}.png")
        done = call("generate", *QUICK, *words, "--overwrite")
        assert done.exit_code == 0, done.output
        assert request_of(tmp_path / "out.png")["profile"] == name
        seen.append(np.asarray(Image.open(tmp_path / f"{name}.png"), float))
    assert 0 < np.abs(seen[0] - seen[1]).mean() < 5


def test_warnings_are_shown(call: Callable[..., Result]) -> None:
    done = call("generate", "-p", "a ring " * 60, *QUICK)
    assert done.exit_code == 0
    assert "warning: prompt is too long" in done.stderr


MISTAKES: dict[str, tuple[tuple[Any, ...], int, str]] = {
    "missing picture": (("-i", "none.png"), 2, "none.png"),
    "text for a picture": (("-i", "text.png"), 2, "text.png"),
    "cut picture": (("-i", "cut.png"), 2, "damaged"),
    "scale nan": (("-i", "style.png:nan"), 2, "finite"),
    "default scale": (("-i", "style.png", "--scale", "strong"), 2, "number or a JSON object"),
    "default scale nan": (("-i", "style.png", "--scale", "nan"), 2, "finite"),
    "unknown block": (("-i", "style.png", "--scale", '{"left": 1}'), 2, "left"),
    "window": (("-i", "style.png@0.9-0.1"), 2, "window"),
    "unknown adapter": (("-i", "other=style.png"), 2, "must name a loaded adapter"),
    "mask of nothing": (("--mask", "style.png"), 2, "number one of the image prompts"),
    "mask without a number": (("-i", "style.png") * 2 + ("--mask", "style.png"), 2, "--mask 2="),
    "two masks": (("-i", "style.png", *("--mask", "1=style.png") * 2), 2, "each once"),
    "missing mask": (("-i", "style.png", "--mask", "none.png"), 2, "none.png"),
    "mask fit": (("-i", "style.png", "--mask", "style.png", "--mask-fit", "fill"), 2, "crop"),
    "size": (("--width", 62), 2, "multiples of 4"),
    "no steps": (("--steps", 0), 2, "--steps must be"),
    "no images": (("--num-images", 0), 2, "--num-images must be"),
    "negative seed": (("--seed", -2), 2, "seed"),
    "guidance": (("--guidance", "inf"), 2, "--guidance must be"),
    "profile": (("--profile", "comfy"), 2, "did you mean 'comfyui'"),
    "sampler": (("--scheduler", "eulr"), 2, "did you mean 'euler'"),
    "timesteps of words": (("--timesteps", "999,late"), 2, "commas"),
    "timesteps and steps": (("--timesteps", "999,9", "--steps", 3), 2, "leave --steps out"),
    "sigmas for ddim": (("--sigmas", "9,1,0", "--steps", 2, "--scheduler", "ddim"), 2, "euler"),
    "dtype": (("--dtype", "int4"), 2, "float16"),
    "device for mlx": (("--device", "cuda", "--backend", "mlx"), 2, "takes no device"),
    "suffix": (("-o", "out.gif"), 2, ".png"),
    "folder for a file": (("-o", "folder.png"), 2, "is a folder"),
    "missing folder": (("-o", "none/out.png"), 2, "does not exist"),
    "missing model": (("-m", "none/such/model"), 3, "no such model folder"),
    "adapter file": (("-a", "text.png"), 3, "not a safetensors file"),
    "fit": (("-i", "style.png", "--fit", "pads"), 2, "did you mean 'pad'"),
    "box": (("-i", "style.png", "--fit", "0,0,2,1"), 2, "must lie in 0 to 1"),
    "box of words": (("-i", "style.png", "--fit", "a,b,c,d"), 2, "left,top,right,bottom"),
    "sharpen": (("-i", "style.png", "--sharpen", "3"), 2, "from 0 to 1"),
    "fit of nothing": (("--fit", "pad"), 2, "add one with --image-prompt"),
    "negative picture": (("-i", "style.png", "--negative-image", "none.png"), 2, "none.png"),
    "nothing to show": (("--show-reference", "seen.png"), 2, "needs a picture"),
    "view suffix": (("-i", "style.png", "--show-reference", "seen.jpg"), 2, ".png"),
    "backend": (("--backend", "jax"), 4, "mlx, torch"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_a_line_and_a_code(
    name: str, call: Callable[..., Result], tmp_path: Path
) -> None:
    Path("text.png").write_text("a text file, not what its name says it is")
    Path("cut.png").write_bytes(Path("style.png").read_bytes()[:200])
    Path("folder.png").mkdir()
    before = sorted(tmp_path.iterdir())
    words, code, part = MISTAKES[name]
    done = call("generate", *QUICK, *words)
    assert done.exit_code == code, done.output
    line = done.stderr
    assert line.count("\n") == 1
    assert line.startswith("error: ") and part in line
    assert "Traceback" not in line and done.stdout == ""
    assert sorted(tmp_path.iterdir()) == before


def test_usage_errors_are_typers_own(call: Callable[..., Result]) -> None:
    assert call("generate", "--steps", "many").exit_code == 2
    assert call("paint").exit_code == 2


def test_image_prompts_are_parsed(call: Callable[..., Result], tmp_path: Path) -> None:
    del call  # it made style.png
    for odd in ("a=b.png", "9:16.png", "x@0-1.png", "half:0.5"):
        Image.open("style.png").save(tmp_path / odd, format="PNG")
        found = parse_image_prompt(odd)
        assert (found.adapter, found.scale, found.start, found.end) == (None, None, 0.0, 1.0)
    found = parse_image_prompt("face=9:16.png:-0.25@0.1-0.75")
    assert (found.adapter, found.scale, found.start, found.end) == ("face", -0.25, 0.1, 0.75)
    assert parse_scale("0.5") == 0.5 and parse_scale('{"mid": 1}') == {"mid": 1}


def test_what_the_encoder_is_shown(call: Callable[..., Result], tmp_path: Path) -> None:
    """Fit, sharpening and a negative picture are the library's, and the view is a file."""
    Image.open("style.png").resize((90, 60)).save("wide.png")
    done = call(
        *("generate", "-i", "wide.png", "-i", "style.png", "--fit", "0.1,0,0.6,1"),
        *("--sharpen", "0.4", "--negative-image", "noise", "--show-reference", "seen.png"),
        *("--steps", "1", "--guidance", "3", "-o", "out.png"),
    )
    assert done.exit_code == 0, done.output
    for kept in request_of(tmp_path / "out.png")["image_prompts"]:
        assert (kept["fit"], kept["sharpen"], kept["negative"]) == ([0.1, 0, 0.6, 1], 0.4, "noise")
    pipe = ipa.load("demo")
    pipe.load_ip_adapter(demo.adapter("base"))
    options = {"fit": (0.1, 0.0, 0.6, 1.0), "sharpen": 0.4}
    views = pipe.encoder_views(
        ImagePrompt([Image.open("wide.png"), Image.open("style.png")], **options)
    )
    seen = np.asarray(Image.open("seen.png"))
    assert np.array_equal(seen, np.concatenate([np.asarray(view) for view in views], axis=1))
