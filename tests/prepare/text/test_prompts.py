"""Parentheses as weights, chunks of ids, files of learned words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from transformers import CLIPTokenizer

from ipa.errors import CheckpointError, IpaError, NumericalError, RequestError
from ipa.pipeline.words import Inversions
from ipa.prepare.text.chunks import encode_prompt
from ipa.prepare.text.prompts import open_tokenizers
from ipa.prepare.text.syntax import parse
from ipa.prepare.text.textual_inversion import read_inversion
from ipa.prepare.text.weights import weigh
from ipa.request.request import PROMPT_SYNTAXES
from ipa.sources.loras import resolve_inversion
from ipa.sources.model_folder import open_model_folder

# What A1111 documents of its parser, and what follows from its rules.
A1111: dict[str, list[tuple[str, float]]] = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    r"\(literal\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).": [
        ("a ", 1.0),
        ("house", 1.5730000000000004),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641000000000006),
        (".", 1.1),
    ],
    "": [("", 1.0)],
    "()": [("", 1.0)],
    "never opened) ]:1.3)": [("never opened) ]:1.3)", 1.0)],
    "[[less]": [("less", 1 / 1.1 / 1.1)],
    "(at: noon)": [("at: noon", 1.1)],
    "(word: +1.5 )": [("word", 1.5)],
    "(away:-0.5) \\word": [("away", -0.5), (" word", 1.0)],
}
COMFYUI: dict[str, list[tuple[str, float]]] = {
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "((twice))": [("twice", 1.1 * 1.1)],
    "(a (b:1.5) c:0.5)": [("a ", 0.5), ("b", 1.5), (" c", 0.5)],
    "(unbalanced": [("(unbalanced", 1.0)],
    "[less] (at: noon)": [("[less] ", 1.0), ("at: noon", 1.1)],
    r"\(literal\) (x)": [("(literal) ", 1.0), ("x", 1.1)],
    "": [("", 1.0)],
}


@pytest.mark.parametrize(
    ("syntax", "text"), [("a1111", t) for t in A1111] + [("comfyui", t) for t in COMFYUI]
)
def test_fragments(syntax: str, text: str) -> None:
    expected = {"a1111": A1111, "comfyui": COMFYUI}[syntax][text]
    found = [(part.text, part.weight) for part in parse(text, syntax)]
    assert [words for words, _ in found] == [words for words, _ in expected]
    assert np.allclose([w for _, w in found], [w for _, w in expected], rtol=1e-14)
    assert [(part.text, part.weight) for part in parse(text, "plain")] == [(text, 1.0)]


def test_any_text_is_parsed(draw: np.random.Generator) -> None:
    """No parenthesis raises; weights are finite; characters are never invented."""
    marks = [*"()[]\\:. a1,-", ":1.2)", "BREAK", "\n", "é"]
    for _ in range(600):
        text = "".join(draw.choice(marks, size=int(draw.integers(0, 30))))
        for syntax in PROMPT_SYNTAXES:
            try:
                found = parse(text, syntax)
            except RequestError as error:
                assert "a weight in a prompt" in str(error)
                continue
            assert all(np.isfinite(part.weight) for part in found)
            rest = iter(text)
            assert all(character in rest for part in found for character in part.text)
    with pytest.raises(RequestError, match="lie too deep"):
        parse("(" * 3000 + "a" + ")" * 3000, "comfyui")
    assert parse("(" * 500 + "a", "a1111")[0].weight == pytest.approx(1.1**500)
    with pytest.raises(RequestError, match="must be a finite number; found: 'a'"):
        parse("(" * 9000 + "a", "a1111")


@pytest.fixture(scope="module")
def folder(tiny: Path) -> Path:
    return tiny / "tokenizer"


def words(folder: Path, text: str) -> list[int]:
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("a red star", ["a red star"]),
        ("a BREAK  b BREAK", ["a", "b"]),
        ("BREAK a", ["", "a"]),
        ("BREAK", [""]),
        ("a BREAK BREAK b", ["a", "", "b"]),
        ("BREAKING a break, BREAKs", ["BREAKING a break, BREAKs"]),
        ("(a BREAK b:1.5)", ["a", "b"]),
        ("a b c " * 60, ["a b c " * 60]),
        ("a " * 75 + "BREAK b", ["a " * 75, "b"]),
        ("a " * 76, ["a " * 76]),
    ],
)
def test_chunks_of_ids(text: str, groups: list[str], tiny: Path, folder: Path) -> None:
    (tokenizer,) = open_tokenizers(open_model_folder(tiny, name="tiny"))
    found = encode_prompt(tokenizer, text, syntax="a1111", long_prompts="chunks")
    rows = []
    for group in groups:
        ids = words(folder, group)
        rows += [ids[n : n + 75] for n in range(0, max(len(ids), 1), 75)]
    ids = np.atleast_2d(found.ids)
    assert ids.shape == (len(rows), 77)
    for row, own in zip(ids, rows, strict=True):
        pad = [673] * (76 - len(own))
        assert row.tolist() == [672, *own, *pad]
    assert found.dropped == ""
    if "(" in text:
        assert found.weights is not None
        assert (found.weights[:, 1] == 1.5).all() and (found.weights[:, 2:] == 1.0).all()
    else:
        assert found.weights is None


def test_weights_that_leave_no_mean() -> None:
    states = np.ones((77, 3), np.float32)
    with pytest.raises(NumericalError, match="weights from 0 to 0"):
        weigh(states, np.zeros(77), None)
    with pytest.raises(NumericalError, match="nearer to 1"):
        weigh(states, np.full(77, 1e60), np.zeros((77, 3), np.float32))


VECTORS = 0.2 * torch.randn(3, 40, generator=torch.Generator().manual_seed(4))
ABOUT: dict[str, Any] = {"string_to_token": {"*": torch.tensor(265)}, "step": 500}
ABOUT |= {"sd_checkpoint": None, "sd_checkpoint_name": "base"}
# Which file, what it holds, and the word that it gives itself.
FILES: dict[str, tuple[str, Any, str]] = {
    "diffusers": ("learned_embeds.bin", {"<cat>": VECTORS[0]}, "<cat>"),
    "diffusers, several": ("a.safetensors", {"<cat>": VECTORS}, "<cat>"),
    "A1111": ("b.pt", ABOUT | {"string_to_param": {"*": VECTORS}, "name": "kitty"}, "kitty"),
    "A1111, a parameter": (
        "b.pt",
        ABOUT | {"string_to_param": {"*": torch.nn.Parameter(VECTORS)}, "name": "kitty"},
        "kitty",
    ),
    "A1111, without a name": ("file-name.pt", {"string_to_param": {"*": VECTORS}}, "file-name"),
    "A1111, safetensors": ("file-name.safetensors", {"emb_params": VECTORS}, "file-name"),
    "its authors'": (
        "embeddings_gs-5000.pt",
        ABOUT | {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(VECTORS)})},
        "embeddings_gs-5000",
    ),
    "a tensor alone": ("bare.pt", VECTORS, "bare"),
    "a parameter alone, one embedding": ("bare.bin", torch.nn.Parameter(VECTORS[0]), "bare"),
    "half precision": ("c.safetensors", {"<cat>": VECTORS.half()}, "<cat>"),
}


def write(path: Path, contents: Any) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in contents.items()}, path)
    else:
        torch.save(contents, path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_files_of_learned_words(name: str, tiny: Path, tmp_path: Path) -> None:
    file, contents, token = FILES[name]
    model = open_model_folder(tiny, name="tiny")
    path = write(tmp_path / file, contents)
    found = read_inversion(path, None, model)
    held = contents if isinstance(contents, dict) else {"*": contents}
    (tensor,) = held.get("string_to_param", held).values()
    assert found.token == token
    assert read_inversion(path, "other", model).token == "other"
    expected = tensor.detach().float().numpy().reshape(-1, 40)
    assert np.array_equal(found.vectors[0], expected)
    assert found.vectors[0].dtype == np.float32
    assert resolve_inversion(tmp_path, weight_name=file) == path == resolve_inversion(path)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "width": (
        "w.safetensors",
        {"<a>": torch.ones(2, 768)},
        "learned for another model than tiny; found: embeddings of width 768: Stable Diffusion "
        "1.x; remedy: its text encoders need 40",
    ),
    "for SDXL": (
        "x.safetensors",
        {"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)},
        "width 768 and 1280: SDXL",
    ),
    "two words": ("t.bin", {"<a>": VECTORS, "<b>": VECTORS}, "found: 2 tensors: <a>, <b>"),
    "NaN": ("n.bin", {"<a>": VECTORS * float("nan")}, "not finite"),
    "integers": ("i.bin", {"<a>": torch.ones(2, 40).long()}, "no embeddings.*<a>: I64"),
    "a cube": ("c.bin", {"<a>": torch.ones(1, 2, 40)}, r"shape \(1, 2, 40\)"),
    "nothing": ("e.bin", {"string_to_param": {}}, "found: 0 tensors"),
    "more than weights": ("m.pt", {"<a>": VECTORS, "step": 4}, "holds more than weights"),
    "code": ("p.pt", {"string_to_param": torch.nn.ParameterList([VECTORS])}, "damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_are_refused(name: str, tiny: Path, tmp_path: Path) -> None:
    file, contents, message = WRONG[name]
    path = write(tmp_path / file, contents)
    with pytest.raises(CheckpointError, match=message):
        read_inversion(path, None, open_model_folder(tiny, name="tiny"))


@pytest.mark.parametrize("token", ["<cat>", "catkin", "Mixed-Case", "two words"])
def test_ids_of_learned_words(token: str, tiny: Path, tmp_path: Path, folder: Path) -> None:
    """As transformers' tokenizer with the words added, and diffusers' expansion, give them."""
    model = open_model_folder(tiny, name="tiny")
    inversions = Inversions(model, open_tokenizers(model))
    inversions.load([write(tmp_path / "a.safetensors", {token: VECTORS})], None)
    theirs = CLIPTokenizer.from_pretrained(folder)
    theirs.add_tokens([token, f"{token}_1", f"{token}_2"])
    text = f"a red {token}, star{token}s {token}_2 and {token}"
    parts = f"{token} {token}_1 {token}_2"
    expanded = text.replace(f"{token}_2", "?").replace(token, parts).replace("?", f"{token}_2")
    expected = theirs(expanded, padding="max_length", truncation=True).input_ids
    (tokenizer,) = inversions.tokenizers
    assert tokenizer.encode(text).ids.tolist() == expected
    loud = theirs(expanded.upper(), padding="max_length", truncation=True).input_ids
    assert tokenizer.encode(text.upper()).ids.tolist() == loud
    assert max(expected) == model.text_encoder.vocabulary + 2
    assert tokenizer.count(f"{token} {token}") == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["<a>", "<b>"], "3 embeddings, 2 words"),
        (["<a>", "<b>", None], "must be a word; found: None"),
        (["<a>", "<b>", "<A>"], "'<A>' is a word already; found: it was loaded before"),
        (["<a>", "star", "<b>"], "'star' is a word already; found: it is in the vocabulary"),
        ([], "1 files, 0 words"),
        (7, "must be a word; found: 7"),
    ],
)
def test_lists_of_words_that_do_not_fit(
    words: Any, message: str, tiny: Path, tmp_path: Path
) -> None:
    """Nothing is learned then."""
    model = open_model_folder(tiny, name="tiny")
    inversions = Inversions(model, open_tokenizers(model))
    path = write(tmp_path / "a.safetensors", {"emb_params": VECTORS})
    with pytest.raises(RequestError, match=message):
        inversions.load([path], words)
    with pytest.raises(RequestError, match="2 files, 3 words"):
        inversions.load([path, path], ["<a>", "<b>", "<c>"])
    assert inversions.describe() == []


def test_readers_raise_only_their_own(
    tiny: Path, tmp_path: Path, draw: np.random.Generator
) -> None:
    """Bytes of a sound file changed anywhere: an embedding, or an error of ours."""
    model = open_model_folder(tiny, name="tiny")
    kinds = ("A1111", "its authors'", "a tensor alone")
    wholes = [write(tmp_path / "a.pt", FILES[kind][1]).read_bytes() for kind in kinds]
    for number in range(150):
        whole = wholes[number % len(wholes)]
        damaged = bytearray(whole)
        for place in draw.integers(0, len(whole), 3):
            damaged[place] = draw.integers(0, 256)
        path = tmp_path / f"{number}.pt"
        path.write_bytes(damaged)
        try:
            read_inversion(path, None, model)
        except IpaError:
            continue
