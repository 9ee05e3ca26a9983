"""What A1111 and ComfyUI write into prompts beside words: taken out, honoured, or said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipa.backend.protocol import LoraScale
from ipa.errors import RequestError
from ipa.pipeline.words import Inversions
from ipa.prepare.text.chunks import encode_prompt
from ipa.prepare.text.learned_words import TextualInversion
from ipa.prepare.text.notes import syntax_warnings
from ipa.prepare.text.prompts import open_tokenizers
from ipa.prepare.text.tags import lora_tags
from ipa.request.request import Request
from ipa.sources.model_folder import open_model_folder

# How A1111 1.10 reads them (extensions-builtin/Lora/extra_networks_lora.py): name, te, unet.
TAGS: dict[str, tuple[str, float, float]] = {
    "<lora:pixel>": ("pixel", 1.0, 1.0),
    "<lora:pixel:0.8>": ("pixel", 0.8, 0.8),
    "<lyco:pixel:-.5>": ("pixel", -0.5, -0.5),
    "<lora:pixel:0.8:0.3>": ("pixel", 0.8, 0.3),
    "<lora:pixel:unet=0.3>": ("pixel", 1.0, 0.3),
    "<lora:pixel:te=0>": ("pixel", 0.0, 0.0),
    "<lora:pixel:te=0:unet=1>": ("pixel", 0.0, 1.0),
    "<lora:pixel:0.5:unet=1e-1>": ("pixel", 0.5, 0.1),
    "<lora:two words, v1.5 (x):0>": ("two words, v1.5 (x)", 0.0, 0.0),
}


def a1111(prompt: str, **more: Any) -> Request:
    return Request(prompt=prompt, prompt_syntax="a1111", **more)


@pytest.mark.parametrize("text", TAGS)
def test_tags(text: str) -> None:
    name, te, unet = TAGS[text]
    (tag,) = lora_tags(a1111(f"a ({text} star:1.2)", prompt_2=text, negative_prompt=text))
    assert (tag.name, tag.scale, tag.text) == (name, LoraScale(unet, te), text)
    assert lora_tags(Request(prompt=text)) == ()
    assert lora_tags(Request(prompt=text, prompt_syntax="comfyui")) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<lora:pixel:much>", "finite number; found: <lora:pixel:much>"),
        ("<lora:pixel:nan>", "must be a finite number"),
        ("<lora:pixel:1:1:8>", "one or two weights"),
        ("<lora:pixel:1:dyn=8>", "other ranks and weights by block are not supported"),
        ("<lora:pixel:1:lbw=MIDD>", "one or two weights; found: <lora:pixel:1:lbw=MIDD>"),
        ("<lora:pixel:1> <lora:pixel:1>", "names the LoRA 'pixel' twice"),
    ],
)
def test_tags_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        lora_tags(a1111(f"a star {text}"))
    with pytest.raises(RequestError, match="twice"):
        lora_tags(a1111("a <lora:x:1>", prompt_2="a <lora:x:0.5>"))


@pytest.mark.parametrize("chunks", ["cut", "chunks"])
@pytest.mark.parametrize("tag", [*TAGS, "<hypernet:x:1>", "<foo:bar>", "<a:b:c>"])
def test_tags_are_no_words(tag: str, chunks: str, tiny: Path) -> None:
    (tokenizer,) = open_tokenizers(open_model_folder(tiny, name="tiny"))
    told = {"syntax": "a1111", "long_prompts": chunks}
    for text in ("a {}(red:1.2) star", "({}a red) star", "{} a [red] star", "a red star {}"):
        with_tag = encode_prompt(tokenizer, text.format(tag), **told)
        without = encode_prompt(tokenizer, text.format(""), **told)
        assert np.array_equal(with_tag.ids, without.ids)
        assert (with_tag.weights is None) == (without.weights is None)
        if without.weights is not None:
            assert np.array_equal(with_tag.weights, without.weights)
    for syntax in ("plain", "comfyui"):
        told["syntax"] = syntax
        read = [encode_prompt(tokenizer, text, **told).ids for text in ("a", f"a {tag}")]
        assert not np.array_equal(*read)


# Syntax, text, and what is quoted of it; nothing where it is what it says.
NOTES: list[tuple[str, str, list[str]]] = [
    ("a1111", "a star AND a ring AND b", ["AND"]),
    ("a1111", "a BAND, ANDY and AND_", []),
    ("a1111", "a [red:blue:0.5] star", ["[red:blue:0.5]"]),
    ("a1111", "a [red:0.5] star", ["[red:0.5]"]),
    ("a1111", "a [red::0.5] star", ["[red::0.5]"]),
    ("a1111", "[(a:1.2): 3]", ["[(a:1.2): 3]"]),
    ("a1111", "a[b:[c:d:2]:1]e", ["[c:d:2]", "[b:[c:d:2]:1]"]),
    ("a1111", "a [cow|horse] here", ["[cow|horse]"]),
    ("a1111", "[a|(b:1.1)|c]", ["[a|(b:1.1)|c]"]),
    ("a1111", "a [red] [[star]] (ring:1.2) [a: b]", []),
    ("a1111", r"a \[red:blue:0.5\] star, a:b:0.5, a|b, 16:9", []),
    ("a1111", "[unbalanced: 3", []),
    ("a1111", "a <hypernet:x:1> <foo:bar> <hypernet:y:0>", ["<hypernet:x:1>", "<foo:bar>"]),
    ("a1111", "a <lora:x:1> star", []),
    ("a1111", "a embedding:kitty star", ["embedding:kitty"]),
    ("a1111", "a star # a comment", ["# a comment"]),
    ("comfyui", "a embedding:kitty star, (embedding:kitty:1.2)", []),
    ("comfyui", "a (embedding:dog:1.2), embedding:cow", ["embedding:dog", "embedding:cow"]),
    ("comfyui", "a star,embedding:kitty", ["embedding:kitty"]),
    ("comfyui", "[a:b:0.5] AND [a|b] # b", []),
    ("comfyui", "<lora:x:1> <foo:bar>", ["<lora:x:1>"]),
    ("plain", "a star AND [a:b:0.5] # b", []),
    ("plain", "<lora:x:1> embedding:kitty", ["<lora:x:1>", "embedding:kitty"]),
]
KITTY = TextualInversion("kitty", "kitty-file.pt", (np.zeros((2, 40), np.float32),))


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "prompt_2", "negative_prompt_2"])
def test_what_is_not_done_is_said(field: str) -> None:
    for syntax, text, found in NOTES:
        request = Request(**{field: text}, prompt_syntax=syntax)
        warnings = syntax_warnings(request, [KITTY])
        if field.startswith("negative") and syntax == "a1111":
            warnings = [w for w in warnings if "applies no network" not in w]
            found = [quoted for quoted in found if not quoted.startswith("<")]
        assert len(warnings) == len(found), (text, warnings)
        for warning, quoted in zip(warnings, found, strict=True):
            assert warning.startswith(f"{field}: {quoted!r} "), text
    (warning,) = syntax_warnings(a1111("a", negative_prompt="b <lora:x:1>"), [])
    assert "'<lora:x:1>' was left out: a negative prompt applies no network" in warning


NAMED = {
    "a embedding:kitty star": "a kitty star",
    "a embedding:kitty-file, star": "a kitty, star",
    "a embedding:kitty-file.pt star": "a kitty star",
    "(embedding:kitty:1.3) star": "(kitty:1.3) star",
    "embedding:kitty,, star": "kitty,, star",
    "a embedding:dog, star": "a , star",
    "a embedding:dog star": "a  star",
    "a,embedding:kitty": "a,embedding:kitty",
}


@pytest.mark.parametrize("text", NAMED)
def test_names_of_learned_words(text: str, tiny: Path) -> None:
    """As ComfyUI's sd1_clip.py has it: a file's name at the beginning of a word, less commas."""
    model = open_model_folder(tiny, name="tiny")
    inversions = Inversions(model, open_tokenizers(model))
    inversions.add([KITTY])
    (tokenizer,) = inversions.tokenizers
    told = {"syntax": "comfyui", "long_prompts": "cut"}
    found, expected = (encode_prompt(tokenizer, t, **told) for t in (text, NAMED[text]))
    assert np.array_equal(found.ids, expected.ids)
    assert (found.weights is None) == (expected.weights is None)
    if expected.weights is not None:
        assert np.array_equal(found.weights, expected.weights)
