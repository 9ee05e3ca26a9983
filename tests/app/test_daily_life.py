"""Seeds that are drawn, the line after a run, tiles of a size, options that explain only reads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from ipa import demo
from ipa.app.cli import app
from ipa.app.options.sampling import parse_seed
from ipa.app.summary import summary
from ipa.errors import RequestError
from ipa.pipeline.description import METADATA_KEY

SMALL = ("-n1", "--width", "32", "--height", "32")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    Image.open(demo.references()[3]).save("style.png")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def seed_of(path: str) -> int:
    return json.loads(Image.open(path).text[METADATA_KEY])["request"]["seed"]


@pytest.mark.parametrize("said", ["random", "-1", "RANDOM"])
def test_a_drawn_seed_is_told_and_makes_the_picture_again(
    call: Callable[..., Result], said: str
) -> None:
    first = call("generate", "a ring", *SMALL, "--seed", said, "-o", "a.png")
    assert first.exit_code == 0, first.output
    told = re.search(r"seed (\d+)", first.stderr)
    assert told and int(told[1]) == seed_of("a.png")
    assert call("generate", "a ring", *SMALL, "--seed", told[1], "-o", "b.png").exit_code == 0
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))


def test_drawn_seeds_differ() -> None:
    assert len({parse_seed("random") for _ in range(20)}) == 20
    assert parse_seed("18446744073709551615") == 2**64 - 1
    with pytest.raises(RequestError, match="whole number, or random"):
        parse_seed("lucky")


def test_one_line_after_a_run(call: Callable[..., Result]) -> None:
    done = call("generate", "a ring", *SMALL, "--seed", 5)
    assert done.stdout == "out.png\n"
    assert re.fullmatch(r"made: seed 5, 1 step, \d+\.\d s, \d+\.\d .B\n", done.stderr), done.stderr
    done = call("generate", "a ring", *SMALL, "--seed", 5, "--num-images", 3)
    assert "made: seeds 5 to 7, 1 step," in done.stderr
    quiet = call("generate", "a ring", *SMALL, "--json")
    assert "made:" not in quiet.stderr and json.loads(quiet.stdout)["request"]["seed"] == 0


def test_without_a_peak_nothing_is_said_of_memory() -> None:
    info = {
        "request": {"seeds": [1, 1], "num_inference_steps": 8},
        "timings_s": {"encode": 0.25, "denoise": 1.5},
    }
    assert summary(info) == "seed 1, 8 steps, 1.8 s"
    assert summary({**info, "peak_memory_bytes": 400_000_000}).endswith("1.8 s, 400.0 MB")


@pytest.mark.parametrize(
    ("words", "tiling"),
    [
        (("--vae-tiling", 64), 64),
        (("--vae-tile", "64"), 64),
        (("--vae-tiling",), True),
        (("--no-vae-tiling",), False),
        ((), None),
    ],
)
def test_tiles_of_a_size(
    call: Callable[..., Result], words: tuple[object, ...], tiling: object
) -> None:
    done = call("generate", *words, "-p", "a ring", *SMALL, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["vae_tiling"], told["request"]["prompt"]) == (tiling, "a ring")


@pytest.mark.parametrize(("word", "memory"), [("strips", "strips"), ("64", 64), ("whole", "whole")])
def test_a_way_through_the_vae(call: Callable[..., Result], word: str, memory: object) -> None:
    done = call("generate", "--vae-memory", word, "-p", "a ring", *SMALL, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["vae_memory"] == memory


def test_no_way_or_two(call: Callable[..., Result]) -> None:
    done = call("generate", "x", *SMALL, "--vae-memory", "stripes")
    assert done.exit_code == 2 and "--vae-memory must be" in done.stderr, done.stderr
    for more in (("--vae-tiling",), ("--no-vae-tiling",), ("--vae-tile", 64)):
        done = call("generate", "x", *SMALL, "--vae-memory", "strips", *more)
        assert done.exit_code == 2 and "leave one of them out" in done.stderr


def test_tiles_that_are_forbidden(call: Callable[..., Result]) -> None:
    done = call("generate", "x", *SMALL, "--vae-tile", 64, "--no-vae-tiling")
    assert done.exit_code == 2 and "leave one of them out" in done.stderr


def test_explain_reads_every_option_of_generate(call: Callable[..., Result]) -> None:
    """What generate was called with can be explained; what means nothing changes nothing."""
    own = ("-i", "style.png:0.5@0-0.5", "--layers", "ease in", "--steps", 8, "--json")
    more = ("-p", "a heart", "--guidance", 5, "--embeds-scaling", "K+V", "--mask", "style.png")
    more += ("--seed", "random", "--vae-tiling", 64, "--num-images", 2, "--control", "style.png")
    plain, full = call("explain", *own), call("explain", "a heart", *own, *more[2:])
    assert full.exit_code == 0, full.output
    assert json.loads(full.stdout) == json.loads(plain.stdout)
    assert call("explain", *own, *more).stdout == plain.stdout
    assert call("explain", *own, "--gidance", 5).exit_code == 2


def test_explain_counts_the_steps_that_generate_would(call: Callable[..., Result]) -> None:
    words = ("--scheduler", "euler", "--timesteps", "999,400.5", "--json")
    assert json.loads(call("explain", *words).stdout)["steps"] == 2


def test_no_option_of_generate_is_unknown_to_explain() -> None:
    group = typer.main.get_group(app)
    context = typer.Context(group)
    explain = group.commands["explain"]
    known = {n for p in explain.get_params(typer.Context(explain, parent=context)) for n in p.opts}
    assert {n for p in group.commands["generate"].params for n in p.opts} <= known


def test_a_budget_changes_no_pixel(call: Callable[..., Result]) -> None:
    whole = call("generate", "a ring", *SMALL, "-o", "a.png", "--json")
    staged = call("generate", "a ring", *SMALL, "-o", "b.png", "--json", "--memory-budget", 0.0625)
    assert staged.exit_code == 0, staged.output
    told = json.loads(staged.stdout)["memory"]
    assert told["budget_bytes"] == 1 << 26 and told["staged"]
    assert np.array_equal(np.asarray(Image.open("a.png")), np.asarray(Image.open("b.png")))
    assert json.loads(whole.stdout)["memory"] is None
    for words in ("0", "much", "-1"):
        done = call("generate", "a ring", *SMALL, "--memory-budget", words)
        assert done.exit_code == 2 and "--memory-budget must be GiB" in done.stderr, done.stderr
    over = ("--width", 1024, "--height", 1024, "-n1", "--vae-memory", "whole")
    done = call("generate", "a ring", *over, "--memory-budget", 0.0625)
    assert done.exit_code == 2 and "smallest budget" in done.stderr, done.stderr
