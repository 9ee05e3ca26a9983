"""Laws of texts: neutral values change no bit, and chunks, weights and words go with everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from ipa import CheckpointError, ImagePrompt, Pipeline, RequestError

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 3.0,
    "width": 32,
    "height": 24,
    "output_type": "latent",
    "seed": 5,
}
LONG = "a red star and a blue ring " * 12
WIDTHS = {"tiny": (40,), "tiny_xl": (40, 64)}


@pytest.fixture(scope="module", params=["tiny", "tiny_xl"])
def model(request: pytest.FixtureRequest) -> str:
    """Each law holds for Stable Diffusion 1.x and for SDXL."""
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(model: str, backend: str, open_pipeline: Open, request: pytest.FixtureRequest) -> Pipeline:
    return open_pipeline(request.getfixturevalue(model), backend, "linear")


def run(pipe: Pipeline, prompt: str = "a (red) star", **changes: Any) -> np.ndarray:
    call = CALL | {"negative_prompt": "a [ring]"} | changes
    return pipe(prompt, **call).latents


def word_file(path: Path, model: str, rows: int = 2) -> Path:
    draw = np.random.default_rng(3)
    names = ("<s>",) if model == "tiny" else ("clip_l", "clip_g")
    shapes = [(rows, width) for width in WIDTHS[model]]
    values = [0.2 * draw.standard_normal(shape).astype(np.float32) for shape in shapes]
    save_file(dict(zip(names, values, strict=True)), path)
    return path


def test_neutral_values_change_nothing(pipe: Pipeline) -> None:
    plain = run(pipe)
    assert np.array_equal(run(pipe, clip_skip=0), plain)
    assert np.array_equal(run(pipe, long_prompts="chunks"), plain)
    escaped = {"prompt": r"a \(red\) star", "negative_prompt": r"a \[ring\]"}
    assert np.array_equal(run(pipe, **escaped, prompt_syntax="a1111"), plain)
    escaped["negative_prompt"] = "a [ring]"
    assert np.array_equal(run(pipe, **escaped, prompt_syntax="comfyui"), plain)
    assert not np.array_equal(run(pipe, clip_skip=1), plain)
    assert not np.array_equal(run(pipe, prompt_syntax="a1111"), plain)
    assert not np.array_equal(run(pipe, LONG), run(pipe, LONG, long_prompts="chunks"))


@pytest.mark.parametrize("syntax", ["a1111", "comfyui"])
def test_a_weight_of_one_is_none(pipe: Pipeline, syntax: str) -> None:
    words = {"long_prompts": "chunks", "prompt_syntax": syntax}
    plain = run(pipe, f"a red star {LONG}", negative_prompt="a ring")
    short = run(pipe, "a red star", negative_prompt="a ring")
    assert not np.array_equal(plain, short)
    one = {"negative_prompt": "a (ring:1.0)", "prompt_syntax": syntax}
    assert np.array_equal(run(pipe, "a (red:1) star", **one), short)
    both = run(pipe, f"a (red:1.00) star {LONG}", negative_prompt="a ring", **words)
    plain = run(pipe, f"a red star {LONG}", negative_prompt="a ring", long_prompts="chunks")
    assert np.array_equal(both, plain)


def test_prompts_of_a_list_have_their_own_chunks(
    pipe: Pipeline, references: list[Image.Image]
) -> None:
    """Each as a call of its own, with a picture and a mask beside it."""
    halves = np.tile(np.arange(32) < 16, (24, 1))
    prompts = [ImagePrompt(references[0], scale=0.7, mask=halves)]
    told = {"long_prompts": "chunks", "prompt_syntax": "a1111", "image_prompts": prompts}
    call = CALL | {"negative_prompt": "a ring"} | told
    texts = ["a (star:1.2)", LONG, "a ring BREAK a star"]
    result = pipe(texts, **call)
    for number, text in enumerate(texts):
        alone = pipe(text, **call | {"seed": 5 + number})
        assert np.array_equal(result.latents[number], alone.latents[0])
    request = result.info["request"]
    assert (request["long_prompts"], request["prompt_syntax"]) == ("chunks", "a1111")
    assert request["clip_skip"] is None


def test_influence_of_long_texts(pipe: Pipeline, references: list[Image.Image]) -> None:
    told = {"long_prompts": "chunks", "image_prompts": [ImagePrompt(references[0])]}
    off, on = (pipe(LONG, **CALL, **told, influence=flag) for flag in (False, True))
    assert np.array_equal(on.latents, off.latents)
    assert 0 < float(on.influence.mean(0)) < 1


def test_a_learned_word_is_there_until_it_is_unloaded(
    own: Pipeline, model: str, tmp_path: Path
) -> None:
    before = run(own), run(own, "a <s> star")
    own.load_textual_inversion(word_file(tmp_path / "s.safetensors", model), "<s>")
    assert np.array_equal(run(own), before[0])
    learned = run(own, "a <s> star")
    assert not np.array_equal(learned, before[1])
    assert np.array_equal(run(own, "a <S> star"), learned)
    assert np.array_equal(run(own, "a <s> star", long_prompts="chunks"), learned)
    one = run(own, "a (<s>:1.0) star", prompt_syntax="a1111", negative_prompt="a")
    assert np.array_equal(one, run(own, "a <s> star", negative_prompt="a"))
    own.unload_textual_inversion("<s>")
    assert np.array_equal(run(own, "a <s> star"), before[1])
    assert own.info()["textual_inversions"] == []


def test_a_long_text_is_cut_and_said_so(pipe: Pipeline) -> None:
    text = LONG + "and the end"
    result = pipe(text, **CALL)
    (warning,) = result.info["warnings"]
    rest = "blue ring a red star and a blue ring and the end"
    assert warning == f"prompt is too long; this was cut: {rest!r}"
    weighed = pipe(LONG + "and (the:1.2) end", **CALL, prompt_syntax="a1111")
    assert weighed.info["warnings"] == [warning]
    assert pipe(text, **CALL, long_prompts="chunks").info["warnings"] == []


CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "more layers": ({"clip_skip": 9}, r"more layers than .* has; found: 9; remedy: at most [12];"),
    "fewer than none": ({"clip_skip": -1}, "clip_skip must be an integer from 0"),
    "half a layer": ({"clip_skip": 0.5}, "clip_skip must be an integer"),
    "what to do": ({"long_prompts": "fold"}, "long_prompts must be one of cut, chunks; found: 'fo"),
    "no such syntax": ({"prompt_syntax": "compel"}, "must be one of plain, a1111, comfyui"),
    "a weight of NaN": (
        {"prompt": "a (star:nan)", "prompt_syntax": "a1111"},
        "a weight in a prompt must be a finite number; found: 'nan'",
    ),
    "a weight of two points": (
        {"negative_prompt": "a (star:1.2.3)", "prompt_syntax": "a1111"},
        "a weight in a prompt must be a finite number; found: '1.2.3'",
    ),
    "ComfyUI's": ({"prompt": "(star:inf)", "prompt_syntax": "comfyui"}, "found: 'inf'"),
    "a break that is none": (
        {"prompt": "a BREAK b", "prompt_syntax": "a1111"},
        'BREAK has no effect.*remedy: pass long_prompts="chunks"',
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_refused(name: str, pipe: Pipeline) -> None:
    arguments, message = CALLS[name]
    with pytest.raises(RequestError, match=message):
        run(pipe, **arguments)


def test_words_that_are_refused(own: Pipeline, model: str, tmp_path: Path) -> None:
    path = word_file(tmp_path / "s.safetensors", model)
    for token in ("star", "Star", "a"):
        with pytest.raises(RequestError, match=f"{token!r} is a word already; found: it is in the"):
            own.load_textual_inversion(path, token)
    with pytest.raises(RequestError, match="a token must be a word"):
        own.load_textual_inversion(path, " ")
    own.load_textual_inversion(path, "<t>")
    for token in ("<T>", "<t>_1"):
        with pytest.raises(RequestError, match="is a word already; found: it was loaded before"):
            own.load_textual_inversion(path, token)
    with pytest.raises(RequestError, match=r"no such word was learned; found: 'x'.*loaded: <t>"):
        own.unload_textual_inversion("x")
    own.unload_textual_inversion()
    other = word_file(tmp_path / "other.safetensors", {"tiny": "tiny_xl", "tiny_xl": "tiny"}[model])
    with pytest.raises(
        CheckpointError, match=r"learned for another model.*found: embeddings of wid"
    ):
        own.load_textual_inversion(other, "<u>")
    with pytest.raises(
        CheckpointError, match=r"no file of textual inversion; found: none called l"
    ):
        own.load_textual_inversion(tmp_path)
    with pytest.raises(CheckpointError, match="no such file here"):
        own.load_textual_inversion(tmp_path / "none.pt")
    assert own.info()["textual_inversions"] == []
