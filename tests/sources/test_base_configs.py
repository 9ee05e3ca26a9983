"""The embedded configs and vocabulary are those of the public models."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers import UNet2DConditionModel as UNet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ipa import bases
from ipa.model.folder import SingleFile
from ipa.prepare.samplers.schedules import scheduler_name
from ipa.prepare.text.tokenizer import ClipTokenizer
from ipa.sources.model_folder import open_configs

# Published sizes: parameters of the UNet and of the text encoders.
SIZES = {
    "sd15": (859_520_964, 123_060_480, 0),
    "sd2": (865_910_724, 340_387_840, 0),
    "sdxl": (2_567_463_684, 123_060_480, 694_659_840),
}


def config(base: str, component: str) -> dict:
    return json.loads((bases.folder(base) / component / "config.json").read_text())


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("base", SIZES)
def test_the_modules_have_the_published_sizes(base: str) -> None:
    unet, text, second = SIZES[base]
    with torch.device("meta"):
        assert count(UNet(**config(base, "unet"))) == unet
        assert count(AutoencoderKL(**config(base, "vae"))) == 83_653_863
        assert count(CLIPTextModel(CLIPTextConfig(**config(base, "text_encoder")))) == text
        if second:
            two = CLIPTextConfig(**config(base, "text_encoder_2"))
            assert count(CLIPTextModelWithProjection(two)) == second


@pytest.mark.parametrize("base", SIZES)
def test_our_specs_accept_them(base: str) -> None:
    file = SingleFile(path=Path("none"), vocabulary=bases.vocabulary(), changes={})
    model = open_configs(bases.folder(base), name=base, single_file=file)
    assert (model.text_encoder_2 is not None) == (base == "sdxl")
    assert len(model.sites) == {"sd15": 16, "sd2": 16, "sdxl": 70}[base]
    scheduler_name(model.scheduler)


@pytest.mark.parametrize("base", SIZES)
def test_the_index_names_what_diffusers_wants(base: str) -> None:
    index = json.loads((bases.folder(base) / "model_index.json").read_text())
    kind = StableDiffusionXLPipeline if base == "sdxl" else StableDiffusionPipeline
    assert index["_class_name"] == kind.__name__
    needed, optional = map(set, kind._get_signature_keys(kind))
    assert needed <= index.keys()
    assert {k for k in index if not k.startswith("_")} <= needed | optional


def test_the_vocabulary_is_openais() -> None:
    """OpenCLIP ships the original list of merges; ids follow from its order alone."""
    root = Path(importlib.util.find_spec("open_clip").origin).parent
    lines = gzip.decompress((root / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    merges = lines.split("\n")[1 : 49152 - 256 - 2 + 1]
    ours = (bases.vocabulary() / "merges.txt").read_text("utf-8").split("\n")
    assert ours[1:-1] == merges
    words = json.loads((bases.vocabulary() / "vocab.json").read_text("utf-8"))
    assert len(words) == 49408
    assert list(words.values()) == list(range(49408))
    assert [word for word, n in words.items() if 512 <= n < 49406] == [
        "".join(pair.split()) for pair in merges
    ]
    assert [words["a</w>"], words["<|startoftext|>"], words["<|endoftext|>"]] == [320, 49406, 49407]


@pytest.mark.parametrize("folder", ["sd15/tokenizer", "sd2/tokenizer", "sdxl/tokenizer_2"])
def test_the_tokenizers_are_transformers(folder: str, tmp_path: Path) -> None:
    for source in (bases.folder(folder.split("/")[0]) / folder.split("/")[1], bases.vocabulary()):
        for file in source.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    ours = ClipTokenizer.from_folder(
        bases.folder(folder.split("/")[0]) / folder.split("/")[1], bases.vocabulary()
    )
    for text in ("", "a photo of a cat", "Ein Bär, größer!", "東京 2026 🙂", "word " * 100):
        ids = theirs(text, padding="max_length", truncation=True, max_length=77).input_ids
        np.testing.assert_array_equal(ours.encode(text).ids, ids)
