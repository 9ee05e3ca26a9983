"""ClipTokenizer against transformers' CLIPTokenizer, with the demo's and the public vocabulary."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from ipa.errors import CheckpointError, RequestError
from ipa.prepare.text.tokenizer import ClipTokenizer
from oracle.models import DEMO

# The special tokens' rules as Stable Diffusion 1.5 and SDXL's second tokenizer publish them.
_PLAIN = {"lstrip": False, "rstrip": False, "single_word": False}
_SD15_TOKENS = {
    "bos_token": {"content": "<|startoftext|>", "normalized": True, **_PLAIN},
    "eos_token": {"content": "<|endoftext|>", "normalized": True, **_PLAIN},
    "unk_token": {"content": "<|endoftext|>", "normalized": True, **_PLAIN},
    "pad_token": "<|endoftext|>",
}
_SD15_CONFIG = {
    "model_max_length": 77,
    "tokenizer_class": "CLIPTokenizer",
    "add_prefix_space": False,
    "do_lower_case": True,
    "errors": "replace",
    "pad_token": "<|endoftext|>",
    **{
        key: {"__type": "AddedToken", **_SD15_TOKENS[key]}
        for key in ("bos_token", "eos_token", "unk_token")
    },
}
_SDXL_CONFIG = {
    "model_max_length": 77,
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "!",
    "added_tokens_decoder": {
        "0": {"content": "!", "normalized": False, "special": True, **_PLAIN},
        "49406": {"content": "<|startoftext|>", "normalized": True, "special": True, **_PLAIN},
        "49407": {"content": "<|endoftext|>", "normalized": False, "special": True, **_PLAIN},
    },
}
KINDS = ("demo", "bare", "sd15", "sd15_pad_bang", "sdxl", "placeholder", "older_added")
SAVED = (*KINDS, "learned", "extra")
"""Saved anew by transformers, which today writes tokenizer.json alone."""
TEXTS = (
    "",
    " ",
    "\n\t  \u3000 ",
    "a dog",
    "A Photo of an ASTRONAUT, riding a horse!!! (best quality:1.2)",
    "it's we're they've I'm you'll he'd don't 'S 'RE ''s",
    "1234567890 3.14 1,000 ٣ Ⅷ ²½",
    "naïve café — Ångström ﬁne ǅ ß ẞ İstanbul ΣΑΣ",
    "e\u0301 vs \u00e9, \ud55c\uae00 \u1112\u1161\u11ab, 漢字かな",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 👍🏽 ❤️ \u200d\ufe0f",
    "! !! a!b ! c",
    "<|endoftext|> in the middle <|startoftext|><|ENDOFTEXT|> <|endoftext|",
    "a<|endoftext|>b  <|startoftext|>  c!<|endoftext|>!",
    "hello</w> world</w>",
    "tabs\tand\r\nlines\u2028separators\u00a0nbsp\u200bzero\ufeffbom",
    "\x00\x01\x7f\x80\x9f control",
    "mixed123abc456_under-score@#$%^&*()[]{};:'\"\\|,.<>/?`~+=",
    "supercalifragilisticexpialidocious" * 9,
    "word " * 400,
    "!" * 300,
    "漢" * 200,
    "<|endoftext|>" * 90,
    "<placeholder> x<placeholder>y <PLACEHOLDER>",
    "a <cat-toy> on a <Cat-Toy>, <cat-toy>_1 <cat-toy>_2<sep>  <sep>end",
)


def _public_vocabulary() -> tuple[dict[str, int], list[str]]:
    """The 49408 tokens of CLIP, built from the merges as CLIP's simple_tokenizer.py builds them."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.submodule_search_locations is not None
    path = Path(next(iter(package.submodule_search_locations))) / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = [*map(chr, printable), *(chr(256 + n) for n in range(len(others)))]
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    assert len(vocabulary) == 49408
    return vocabulary, merges


def _write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of every kind that is published; all but the demo share the public vocabulary."""
    vocabulary, merges = _public_vocabulary()
    root = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS[1:]:
        (root / kind).mkdir()
        _write(root / kind, vocab=vocabulary)
        (root / kind / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    _write(root / "sd15", tokenizer_config=_SD15_CONFIG, special_tokens_map=_SD15_TOKENS)
    _write(
        root / "sd15_pad_bang",
        tokenizer_config={**_SD15_CONFIG, "pad_token": "!"},
        special_tokens_map={**_SD15_TOKENS, "pad_token": "!"},
    )
    _write(root / "sdxl", tokenizer_config=_SDXL_CONFIG)
    added = {**_SDXL_CONFIG["added_tokens_decoder"]}
    added["49408"] = {"content": "<placeholder>", "normalized": True, "special": False, **_PLAIN}
    _write(root / "placeholder", tokenizer_config={**_SDXL_CONFIG, "added_tokens_decoder": added})
    _write(
        root / "older_added",
        tokenizer_config=_SD15_CONFIG,
        special_tokens_map=_SD15_TOKENS,
        added_tokens={"<placeholder>": 49408},
    )
    return {"demo": DEMO / "tokenizer", **{kind: root / kind for kind in KINDS[1:]}}


@pytest.fixture(scope="module")
def saved(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What transformers writes of those, and of one that was taught words or special tokens."""
    root = tmp_path_factory.mktemp("saved")
    for kind, path in folders.items():
        CLIPTokenizer.from_pretrained(path).save_pretrained(root / kind)
    learned = CLIPTokenizer.from_pretrained(folders["sdxl"])
    learned.add_tokens(["<cat-toy>", "<cat-toy>_1", "<cat-toy>_2"])
    learned.save_pretrained(root / "learned")
    extra = CLIPTokenizer.from_pretrained(folders["sd15"])
    extra.add_special_tokens({"extra_special_tokens": ["<sep>"]})
    extra("a", padding="max_length", max_length=9, truncation=True)  # which its file then repeats
    extra.save_pretrained(root / "extra")
    assert not any((root / kind / "vocab.json").exists() for kind in SAVED)
    return {kind: root / kind for kind in SAVED}


@dataclasses.dataclass(frozen=True)
class Pair:
    """Our tokenizer and transformers', of one folder."""

    ours: ClipTokenizer
    theirs: CLIPTokenizer

    def check(self, text: str) -> None:
        wanted = self.theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        tokens = self.ours.encode(text)
        assert tokens.ids.dtype == np.int32 and tokens.ids.shape == (77,)
        assert tokens.ids.tolist() == wanted, repr(text)
        count = len(self.theirs(text, add_special_tokens=False).input_ids)
        assert self.ours.count(text) == count
        assert bool(tokens.dropped) == (count > 75), repr(text)


@pytest.fixture(scope="module")
def pairs(folders: dict[str, Path]) -> dict[str, Pair]:
    return {
        kind: Pair(ClipTokenizer.from_folder(path), CLIPTokenizer.from_pretrained(path))
        for kind, path in folders.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_ids_equal_transformers(pairs: dict[str, Pair], kind: str) -> None:
    for text in TEXTS:
        pairs[kind].check(text)


_WORDS = st.sampled_from(
    [
        "a",
        "dog",
        "!",
        "'s",
        "'LL",
        "<|endoftext|>",
        "<|startoftext|>",
        "é",
        "🙂",
        "12",
        " ",
        "\n",
        "İ",
    ]
)
_UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=120)
_MIXED = st.lists(st.one_of(_WORDS, _UNICODE), max_size=60).map("".join)


@settings(max_examples=150, deadline=None)
@given(text=st.one_of(_UNICODE, _MIXED, st.text("abc '!<|>\n\u0301", max_size=200)))
def test_any_text_equals_transformers(pairs: dict[str, Pair], text: str) -> None:
    for pair in pairs.values():
        pair.check(text)


@pytest.mark.parametrize("kind", SAVED)
def test_a_folder_that_transformers_wrote(saved: dict[str, Path], kind: str) -> None:
    """tokenizer.json alone, and the older files beside it, which then do not count."""
    pair = Pair(ClipTokenizer.from_folder(saved[kind]), CLIPTokenizer.from_pretrained(saved[kind]))
    if kind == "learned":  # diffusers writes all parts of such a word before it asks for ids
        assert pair.ours.count("<cat-toy>") == 3
        pair = dataclasses.replace(pair, ours=dataclasses.replace(pair.ours, series={}))
    for text in TEXTS:
        pair.check(text)


def test_tokenizer_json_decides(saved: dict[str, Path], copy: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(saved["sdxl"] / name, copy)
    pair = Pair(ClipTokenizer.from_folder(copy), CLIPTokenizer.from_pretrained(copy))
    for text in TEXTS:
        pair.check(text)


def test_merges_as_older_versions_wrote_them(saved: dict[str, Path], copy: Path) -> None:
    """One string each; and settings that name the added tokens themselves."""
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (copy / name).unlink()
    told = json.loads((saved["placeholder"] / "tokenizer.json").read_text("utf-8"))
    told["model"]["merges"] = [" ".join(pair) for pair in told["model"]["merges"]]
    _write(copy, tokenizer=told, tokenizer_config=_SDXL_CONFIG)
    pair = Pair(ClipTokenizer.from_folder(copy), CLIPTokenizer.from_pretrained(copy))
    for text in TEXTS:
        pair.check(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told: told.update(model=[]), "CLIP's kind"),
        (lambda told: told["model"].update(type="Unigram"), "Unigram"),
        (lambda told: told["model"].update(vocab=["a"]), "ids"),
        (lambda told: told["model"].update(merges=None), "merges"),
        (lambda told: told["model"]["merges"].append("qqq zzz"), "merge "),
        (lambda told: told["model"]["merges"].append([1, {}]), "merge "),
        (lambda told: told["added_tokens"].append("x"), "id"),
        (lambda told: told.update(added_tokens={"id": 3}), "special token"),
        (lambda told: told.update(padding={"direction": "Left"}), "padding_side"),
    ],
)
def test_a_damaged_tokenizer_json_is_refused(copy: Path, change: Any, message: str) -> None:
    CLIPTokenizer.from_pretrained(copy).save_pretrained(copy)
    path = copy / "tokenizer.json"
    told = json.loads(path.read_text("utf-8"))
    change(told)
    path.write_text(json.dumps(told), "utf-8")
    with pytest.raises(CheckpointError, match=message):
        ClipTokenizer.from_folder(copy)


def test_both_pad_conventions_pad(pairs: dict[str, Pair]) -> None:
    assert pairs["sd15"].ours.encode("a").ids[3:].tolist() == [49407] * 74
    assert pairs["sdxl"].ours.encode("a").ids[3:].tolist() == [0] * 74
    assert pairs["sdxl"].ours.encode("a").ids[:3].tolist() == [49406, 320, 49407]


def test_the_dropped_text_is_what_the_ids_leave_out(pairs: dict[str, Pair]) -> None:
    tokenizer = pairs["sd15"].ours
    words = [f"w{n}" for n in range(60)]
    tokens = tokenizer.encode(" ".join(words))
    assert tokens.ids[76] == tokenizer.end and tokens.dropped
    kept = " ".join(words).removesuffix(tokens.dropped)
    assert tokenizer.count(kept) == 75
    assert tokenizer.encode("dog " * 75).dropped == ""
    assert tokenizer.encode("dog " * 75 + "Cat, BIRD").dropped == "Cat, BIRD"


def test_tokens_are_frozen(pairs: dict[str, Pair]) -> None:
    tokens = pairs["demo"].ours.encode("a dog")
    with pytest.raises(dataclasses.FrozenInstanceError):
        tokens.dropped = "x"  # type: ignore[misc]


@pytest.mark.parametrize("text", [None, 3, b"dog", ["dog"]])
def test_prompts_must_be_text(pairs: dict[str, Pair], text: Any) -> None:
    with pytest.raises(RequestError, match="string"):
        pairs["demo"].ours.encode(text)


def test_half_characters_are_refused(pairs: dict[str, Pair]) -> None:
    with pytest.raises(RequestError, match="surrogate"):
        pairs["demo"].ours.encode("a \ud83d")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The demo's tokenizer folder, to be damaged."""
    return shutil.copytree(DEMO / "tokenizer", tmp_path / "tokenizer")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_files_are_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        ClipTokenizer.from_folder(copy)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"not two parts here\n", b"q zzz\n", b"lone\n"]
)
def test_damaged_merges_are_refused(copy: Path, content: bytes) -> None:
    path = copy / "merges.txt"
    path.write_bytes(path.read_bytes() + content if content else b"\x80")
    with pytest.raises(CheckpointError, match=r"merges\.txt"):
        ClipTokenizer.from_folder(copy)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"a": "b"}', '{"a": -1}', '{"a": 1, "b": 1}', '{"a": true}', '{"a"'],
)
def test_damaged_vocabularies_are_refused(copy: Path, content: str) -> None:
    (copy / "vocab.json").write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        ClipTokenizer.from_folder(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pad_token": "<|nowhere|>"}, "pad_token"),
        ({"eos_token": 7}, "special token"),
        ({"padding_side": "left"}, "padding_side"),
        ({"truncation_side": "left"}, "truncation_side"),
        ({"model_max_length": 2}, "model_max_length"),
        ({"model_max_length": "77"}, "model_max_length"),
        ({"added_tokens_decoder": []}, "added_tokens_decoder"),
        ({"added_tokens_decoder": {"x": "y"}}, "id"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(
    copy: Path, changes: dict[str, Any], message: str
) -> None:
    (copy / "special_tokens_map.json").unlink()
    _write(copy, tokenizer_config=changes)
    with pytest.raises(CheckpointError, match=message):
        ClipTokenizer.from_folder(copy)


@pytest.mark.parametrize(("length", "wanted"), [(None, 77), (40, 40), (1e30, 77)])
def test_the_length_is_the_configurations(copy: Path, length: float | None, wanted: int) -> None:
    _write(copy, tokenizer_config={} if length is None else {"model_max_length": length})
    tokenizer = ClipTokenizer.from_folder(copy)
    tokens = tokenizer.encode("a dog " * 50)
    assert tokens.ids.shape == (wanted,) and tokens.ids[-1] == tokenizer.end


def test_neither_transformers_nor_torch_is_imported() -> None:
    code = (
        "import sys, ipa.prepare.text.tokenizer, ipa.prepare.images, ipa.prepare.samplers.noise, "
        "ipa.prepare.samplers.schedules\n"
        "sys.exit(bool({'torch', 'transformers', 'diffusers', 'mlx'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
