"""Which files of a repository are fetched: of each component one kind, in one precision."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from diffusers.pipelines.pipeline_loading_utils import variant_compatible_siblings

from ipa.errors import CheckpointError
from ipa.model.files import STEMS, find_weights
from ipa.sources.hub import HubName, hub_name
from ipa.sources.hub_files import model_files, weight_files
from oracle.hub_client import NOBODY, Client

PICKLED, XL = "someone/pickled", "someone/tiny-xl"
GENERATE = """
pipe = ipa.load({model!r}, backend={backend!r}, dtype="float32", **{options})
answer = pipe("a star", num_inference_steps=2, guidance_scale=3, width=40, height=32,
              output_type="latent").latents.tolist()
"""
BACKENDS = {"mlx": {}, "torch": {"device": "cpu"}}


def test_pickles_where_a_component_has_nothing_else(client: Client, tiny: Path) -> None:
    """Never both; and both backends make of them what they make of the safetensors."""
    codes = [
        GENERATE.format(model=model, backend=backend, options=options)
        for model in (PICKLED, str(tiny))
        for backend, options in BACKENDS.items()
    ]
    mlx, torch, mlx_tiny, torch_tiny = (np.asarray(a) for a in client.run(*codes))
    assert client.weights() == [
        f"{PICKLED}/image_encoder/pytorch_model-00001-of-00002.bin",
        f"{PICKLED}/image_encoder/pytorch_model-00002-of-00002.bin",
        f"{PICKLED}/text_encoder/pytorch_model.bin",
        f"{PICKLED}/unet/diffusion_pytorch_model.bin",
        f"{PICKLED}/vae/diffusion_pytorch_model.safetensors",
    ]
    assert np.array_equal(mlx, mlx_tiny) and np.array_equal(torch, torch_tiny)
    error = np.abs(mlx - torch).max() / np.abs(torch).max()
    assert error < 3e-6, error  # measured: 1.3e-6 of the largest latent


def test_a_pickled_model_offline(client: Client) -> None:
    code = f'answer = ipa.load("{PICKLED}", offline=%s).info()["model"]'
    assert client.run(code % False) == [PICKLED]
    assert client.run(code % True, **NOBODY) == [PICKLED]


def test_both_text_encoders_and_tokenizers(client: Client) -> None:
    done = client.ipa_mlx("convert", XL, "converted", "--verify")
    assert done.returncode == 0, done.stderr
    assert client.weights() == [
        f"{XL}/{component}/{STEMS[component]}.safetensors"
        for component in ("image_encoder", "text_encoder", "text_encoder_2", "unet", "vae")
    ]
    folder = client.cache.parent / "converted"
    assert (folder / "text_encoder_2" / "model.safetensors").is_file()
    assert (folder / "tokenizer_2" / "vocab.json").is_file()


# Files of a component, and what an index among them lists.
LISTINGS: dict[str, dict[str, list[str]]] = {
    "one file": {"model.safetensors": [], "pytorch_model.bin": []},
    "pickles": {
        "pytorch_model.bin": [],
        "pytorch_model.fp16.bin": [],
        "model.non_ema.safetensors": [],
    },
    "a precision that the other kind has": {
        "model.safetensors": [],
        "pytorch_model.fp16.bin": [],
        "pytorch_model.bin": [],
    },
    "shards": {
        "model.safetensors.index.json": ["model-00001-of-00002.safetensors"],
        "model-00001-of-00002.safetensors": [],
        "model-00001-of-00001.fp16.safetensors": [],
        "pytorch_model.bin": [],
    },
    "shards of a precision": {
        "model.safetensors.index.fp16.json": [
            "model.fp16-00001-of-00002.safetensors",
            "model.fp16-00002-of-00002.safetensors",
        ],
        "model.fp16-00001-of-00002.safetensors": [],
        "model.fp16-00002-of-00002.safetensors": [],
        "model-00001-of-00001.safetensors": [],
        "model.non_ema-00001-of-00001.safetensors": [],
    },
    "shards of a precision, otherwise spelled": {
        "pytorch_model.bin.index.fp16.json": ["pytorch_model-00001-of-00001.fp16.bin"],
        "pytorch_model-00001-of-00001.fp16.bin": [],
        "pytorch_model-00001-of-00001.bin": [],
        "pytorch_model.bin": [],
    },
    "one file and shards": {
        "model.safetensors.index.json": ["model-00001-of-00001.safetensors"],
        "model-00001-of-00001.safetensors": [],
        "model.safetensors": [],
    },
    "nothing": {"model.onnx": [], "flax_model.msgpack": [], "model.non_ema.safetensors": []},
}


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
@pytest.mark.parametrize("listing", LISTINGS)
def test_what_is_fetched_is_what_is_read(listing: str, variant: str | None, tmp_path: Path) -> None:
    """The choice from a list of names, and the reader's from a folder with all of them."""
    for name, shards in LISTINGS[listing].items():
        index = json.dumps({"weight_map": {str(n): shard for n, shard in enumerate(shards)}})
        content = index.encode() if name.endswith(".json") else b"\2\0\0\0\0\0\0\0{}"
        (tmp_path / name).write_bytes(content)
    names = [f"x/{name}" for name in LISTINGS[listing]]
    chosen = weight_files(names, "x", "model", variant)
    try:
        found = find_weights(tmp_path, "model", variant)
    except CheckpointError:
        assert chosen == ()
        return
    read = [found.index, *found.files] if found.index else [*found.files]
    assert list(chosen) == [f"x/{path.name}" for path in read]


def test_a_precision_that_no_component_has() -> None:
    """It is told before anything, of gigabytes, is downloaded; of one that has it the others go."""
    names = ["model_index.json"]
    for component in ("unet", "vae", "text_encoder"):
        names += [f"{component}/config.json", f"{component}/{STEMS[component]}.safetensors"]
    assert len(model_files(names, "a/b")) == 7
    with pytest.raises(CheckpointError, match=r"a/b has no fp16 weights; found: .*unet"):
        model_files(names, "a/b", "fp16")
    names.append("unet/diffusion_pytorch_model.fp16.safetensors")
    assert {n for n in model_files(names, "a/b", "fp16") if n.endswith(".safetensors")} == {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }


# What the components of a model have, each a list of stems, variants and endings.
_FILES = {
    "plain": ["{0}.safetensors"],
    "variant": ["{0}.fp16.safetensors"],
    "both": ["{0}.safetensors", "{0}.fp16.safetensors"],
    "other": ["{0}.safetensors", "{0}.non_ema.safetensors"],
    "shards": ["{0}.safetensors.index.json", "{0}-00001-of-00001.safetensors"],
    "variant shards": [
        "{0}.safetensors.index.fp16.json",
        "{0}.fp16-00001-of-00001.safetensors",
        "{0}.safetensors",
    ],
    "pickled variant": ["{1}.fp16.bin", "{1}.bin"],
}


@pytest.mark.parametrize("variant", [None, "fp16", "non_ema", "bf16"])
def test_a_variant_that_some_components_have(variant: str | None) -> None:
    """Every mixture of three components: which of them come in the variant is diffusers' choice."""
    components = ("unet", "vae", "text_encoder")
    for kinds in itertools.product(_FILES, repeat=3):
        names = ["model_index.json", *(f"{component}/config.json" for component in components)]
        for component, kind in zip(components, kinds, strict=True):
            stem = STEMS[component]
            pickled = "pytorch_model" if stem == "model" else stem
            names += [f"{component}/{name.format(stem, pickled)}" for name in _FILES[kind]]
        tagged = [n for n in names if f".{variant}" in n]
        if variant is not None and not tagged:
            with pytest.raises(CheckpointError, match=f"no {variant} weights"):
                model_files(names, "a/b", variant)
            with pytest.raises(ValueError, match="no such modeling files"):
                variant_compatible_siblings(names, variant=variant)
            continue
        wanted, _ = variant_compatible_siblings(names, variant=variant)
        needed = {n.split("/")[0] for n in wanted}
        if needed != set(components):  # diffusers would fetch a model without them
            with pytest.raises(CheckpointError, match="weights of"):
                model_files(names, "a/b", variant)
            continue
        found = {n for n in model_files(names, "a/b", variant) if n not in names[:4]}
        assert found <= set(wanted)
        assert {n.split("/")[0] for n in found} == needed


NAMES = {
    "owner/name": HubName("owner/name"),
    "owner/name-1.5_x": HubName("owner/name-1.5_x"),
    "owner/name/file.bin": HubName("owner/name", "file.bin"),
    "owner/name/a/b/file.SAFETENSORS": HubName("owner/name", "a/b/file.SAFETENSORS"),
    "owner/name/folder": None,
    "owner/file.safetensors": None,
    "name": None,
    "file.ckpt": None,
    "./owner/name": None,
    "../owner/name": None,
    "~/owner": None,
    "/owner/name": None,
    "owner//name/x.ckpt": None,
    "owner/../x.ckpt": None,
    "owner/name/": None,
    "owner\\name/x": None,
    "": None,
}


def test_what_a_name_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {name: hub_name(name) for name in NAMES} == NAMES
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "file.bin").touch()
    assert hub_name("owner/name") is None, "what is here is not looked for elsewhere"
    assert hub_name(Path("owner/name/file.bin")) is None
