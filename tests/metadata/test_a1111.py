"""A1111's grammar: what is written its own reader reads again; what it reads we read alike."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.metadata.a1111 import Parameters, parse, plain_value, sanitised
from ipa.metadata.dialects.a1111 import read_a1111
from ipa.metadata.ours import FileHashes, a1111_parameters, a1111_sampler
from ipa.prepare.samplers.schedules import NAMES
from oracle import a1111

# Words that a reader could stumble over, between any others.
TRAPS = (
    "Steps: 20, Sampler: Euler, Seed: 1",
    "\n",
    "Negative prompt:",
    "\0",
    '"',
    ", a: b",
    "\r\n",
)
TEXTS = st.lists(st.sampled_from(TRAPS) | st.text(max_size=12), max_size=6).map("".join)
NAMES_OF_SETTINGS = st.from_regex(r"[A-Z][a-z]{1,8}( [a-z]{2,6})?", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)


@settings(max_examples=300, deadline=None)
@given(TEXTS, TEXTS, st.dictionaries(NAMES_OF_SETTINGS, VALUES, min_size=3, max_size=6))
def test_what_is_written_is_read_by_its_reader(
    prompt: str, negative: str, given_settings: dict[str, str]
) -> None:
    text = Parameters(prompt=prompt, negative_prompt=negative, settings=given_settings).text()
    found = a1111.read(text)
    assert found[0] == sanitised(prompt)
    assert found[1] == sanitised(negative)
    told = {name: value.strip() for name, value in given_settings.items() if value.strip()}
    if len(told) >= 3:
        assert found[2] == told
    ours = parse(text)
    assert (ours.prompt, ours.negative_prompt) == found[:2]


@settings(max_examples=300, deadline=None)
@given(TEXTS | st.text(max_size=200))
def test_any_text_is_read_as_its_reader_reads_it(text: str) -> None:
    ours = parse(text)
    try:
        prompt, negative, told = a1111.read(text)
    except ValueError:  # a quoted value that is no JSON: A1111 prints an error
        return
    assert (ours.prompt, ours.negative_prompt) == (prompt, negative)
    sizes = {name[:-2] for name in told if name.endswith("-1")}
    assert {*ours.settings} - sizes == {k for k in told if k[:-2] not in sizes or k[-2] != "-"}


@pytest.mark.parametrize("text", ["a" * 200_000, "a " * 100_000, 'b: "' * 50_000, "," * 200_000])
def test_hostile_texts_take_no_square_of_their_length(text: str) -> None:
    """A1111's own pattern does: of 200,000 letters without a colon it never came to an end here."""
    assert parse(f"x\n{text}").prompt.startswith("x")


INFO: dict[str, Any] = {
    "model": "/home/me/models/dream: 8, final.safetensors",
    "request": {
        "prompt": "a (red) dog\nSteps: 4",
        "negative_prompt": "grey, Negative prompt: blue",
        "num_inference_steps": 20,
        "scheduler": "dpmpp_2m_karras",
        "guidance_scale": 7.0,
        "seed": 2**63,
        "width": 512,
        "height": 768,
        "clip_skip": 1,
        "strength": 0.55,
        "image_sha256": ["0" * 64],
        "image_prompts": [
            {"adapter": "a", "file": "ip-adapter-plus_sd15.safetensors", "scale": 0.7, "end": 0.5},
            {"adapter": "b", "file": "we,ird: name.bin", "scale": {"up": 1.0}},
        ],
        "controls": [{"control": "net", "file": "canny.pth", "scale": [0.2, 0.4], "start": 0.1}],
        "loras": {"pixel": {"scale": 0.8}, "t": {"scale": 1.0, "tag": "<lora:t:1>"}},
    },
}
HASHES = FileHashes(model="0123456789", files={"a": "89abcdef"}, loras={"pixel": "0" * 12})


def test_our_request_in_its_words() -> None:
    prompt, negative, told = a1111.read(a1111_parameters(INFO, HASHES).text())
    assert prompt == "a \\(red\\) dog\nSteps : 4 <lora:pixel:0.8>"
    assert negative == "grey, Negative prompt : blue"
    expected = {
        "Steps": "20",
        "Sampler": "DPM++ 2M",
        "Schedule type": "Karras",
        "CFG scale": "7",
        "Seed": str(2**63),
        "Size-1": "512",
        "Size-2": "768",
        "Model hash": "0123456789",
        "Model": "dream 8 final",
        "Denoising strength": "0.55",
        "Clip skip": "2",
        "RNG": "CPU",
        "Lora hashes": f"pixel: {'0' * 12}",
    }
    assert {name: told[name] for name in expected} == expected
    units = [
        dict(pair.split(": ") for pair in told[f"ControlNet {n}"].split(", ")) for n in (0, 1, 2)
    ]
    assert [unit["Module"] for unit in units] == ["ip-adapter-auto", "ip-adapter-auto", "none"]
    models = ["ip-adapter-plus_sd15 [89abcdef]", "we ird name", "canny"]
    assert [unit["Model"] for unit in units] == models
    assert [unit["Weight"] for unit in units] == ["0.7", "1.0", "0.3"]
    assert (units[0]["Guidance End"], units[2]["Guidance Start"]) == ("0.5", "0.1")
    assert "/home" not in str(told)


def test_our_own_text_is_read_back_as_far_as_it_goes() -> None:
    """Every sampler, and all plain settings."""
    found = read_a1111(a1111_parameters(INFO, HASHES).text())
    asked = INFO["request"]
    for name in ("num_inference_steps", "scheduler", "guidance_scale", "seed", "width", "strength"):
        assert found.arguments[name] == asked[name]
    assert found.arguments["clip_skip"] == 1
    assert not any("noise" in words for words in found.lost)
    assert sum("picture is not in the file" in words for words in found.lost) == 3
    for name in NAMES:
        told = {**INFO, "request": {**asked, "scheduler": name}}
        assert read_a1111(a1111_parameters(told).text()).arguments["scheduler"] == name
        assert a1111_sampler(name)[1] in {"Karras", "Exponential", "Beta", "Uniform"}


@given(st.text(max_size=60))
def test_values_inside_values_part_nothing(text: str) -> None:
    assert not {",", ":", '"', "\n"} & set(plain_value(text))
