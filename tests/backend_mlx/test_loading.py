"""A model gives the same bits from every form in which its weights may lie on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

import ipa
from ipa.errors import CheckpointError
from ipa.sources.model_folder import open_model_folder
from ipa_convert import Converted, ConvertedTensor, convert_model
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.tables.layout import Tensor
from ipa_convert.tables.matching import convert
from ipa_convert.tables.unet import table as unet_table
from ipa_mlx.networks.norms import GroupNorm
from ipa_mlx.networks.weights import arrays, fill
from ipa_torch.files.weights import quiet

CLASSES = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "image_encoder": CLIPVisionModelWithProjection,
}


def picture(folder: Path, tiny: Path, variant: str | None = None) -> np.ndarray:
    """One picture of a model with an adapter, as floats."""
    pipe = ipa.load(folder, backend="mlx", dtype="float32", variant=variant)
    pipe.load_ip_adapter(tiny / "linear.safetensors")
    reference = Image.open(ipa.demo.references()[0])
    call = {"num_inference_steps": 2, "width": 48, "height": 40, "output_type": "np"}
    return pipe("a star", ip_adapter_image=reference, **call).images


def converted(tiny: Path, target: Path) -> str | None:
    convert_model(open_model_folder(tiny, name="tiny"), target)
    return None


def sharded(tiny: Path, target: Path) -> str | None:
    return _saved_again(tiny, target, max_shard_size="60KB")


def tagged(tiny: Path, target: Path) -> str | None:
    _saved_again(tiny, target, variant="other")
    return "other"


def _saved_again(tiny: Path, target: Path, **options: str) -> None:
    """Written by diffusers and transformers themselves."""
    shutil.copytree(tiny, target, ignore=shutil.ignore_patterns("*.safetensors"))
    for name, kind in CLASSES.items():
        with quiet():
            kind.from_pretrained(tiny / name).save_pretrained(target / name, **options)


@pytest.mark.parametrize("make", [converted, sharded, tagged])
def test_same_bits(make: Callable[[Path, Path], str | None], tiny: Path, tmp_path: Path) -> None:
    variant = make(tiny, tmp_path / "model")
    files = [p.name for p in (tmp_path / "model").rglob("*.safetensors")]
    assert len(files) > (10 if make is sharded else 3)
    found = picture(tmp_path / "model", tiny, variant)
    assert np.array_equal(found, picture(tiny, tiny))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read_exactly(
    dtype: torch.dtype, tiny: Path, tmp_path: Path
) -> None:
    """Widened to float32, they give what the same values in float32 give."""
    for name, target in ((dtype, tmp_path / "half"), (torch.float32, tmp_path / "wide")):
        shutil.copytree(tiny, target, ignore=shutil.ignore_patterns("*.safetensors"))
        for part, kind in CLASSES.items():
            with quiet():
                module = kind.from_pretrained(tiny / part, dtype=dtype).to(name)
                module.save_pretrained(target / part)
    half, wide = (picture(tmp_path / name, tiny) for name in ("half", "wide"))
    assert np.array_equal(half, wide)
    assert not np.array_equal(half, picture(tiny, tiny))


def test_a_module_takes_exactly_its_own_tensors() -> None:
    """The last guard, should a converter's table and a module drift apart."""
    good = {"weight": mx.ones(8), "bias": mx.zeros(8)}
    fill(GroupNorm(2, 8, 1e-5), good.items(), "here")
    for wrong in (
        {"weight": mx.ones(8)},
        good | {"spare": mx.ones(1)},
        good | {"bias": mx.ones(7)},
    ):
        with pytest.raises(CheckpointError, match="here: 1 tensors do not fit"):
            fill(GroupNorm(2, 8, 1e-5), wrong.items(), "here")


def test_an_encoder_is_known_again_after_a_conversion(tiny: Path, tmp_path: Path) -> None:
    """Its fingerprint, in MLX's layout, in other precisions: embeds stay of use."""

    def origin(folder: Path) -> object:
        pipe = ipa.load(folder, backend="mlx", dtype="float32")
        pipe.load_ip_adapter(tiny / "plus.safetensors", name="plus")
        return pipe.encode_image_prompt(Image.open(ipa.demo.references()[0])).origin

    own = origin(tiny)
    for dtype in ("float16", "bfloat16"):
        folder = tmp_path / dtype
        convert_model(open_model_folder(tiny, name="tiny"), folder, dtype=dtype)
        assert origin(folder) == own


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_mlx_s_own_reading_gives_the_bits_of_ours(
    dtype: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file is as it was when it was opened MLX reads it; else our map of it is read."""
    folder = tmp_path / "model"
    convert_model(open_model_folder(tiny, name="tiny"), folder, dtype=dtype)
    asked: list[str] = []
    load = mx.load
    monkeypatch.setattr(mx, "load", lambda path, **more: asked.append(path) or load(path, **more))
    for path in sorted([*folder.rglob("*.safetensors"), *tiny.rglob("*.safetensors")]):
        checkpoint = open_file(path)
        if "unet" not in str(path):
            continue
        table = unet_table(open_model_folder(tiny, name="tiny").unet)
        found = dict(arrays(convert(checkpoint, table), mx.float32))
        assert asked.pop() == str(path) and not asked
        kept = path.with_name("kept")
        path.rename(kept)
        path.write_bytes(kept.read_bytes()[:-4] + b"\0\0\0\0")
        again = dict(arrays(convert(checkpoint, table), mx.float32))
        kept.rename(path)
        assert not asked
        assert found.keys() == again.keys()
        assert all(mx.array_equal(found[name], again[name]) for name in found)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_found_in_mlx_s_memory(dtype: str, bad: float, tmp_path: Path) -> None:
    path, kind = tmp_path / "norm.safetensors", getattr(mx, dtype)
    values = mx.ones(300_000).astype(kind)
    values[-1] = bad
    mx.save_safetensors(str(path), {"weight": values}, {"format": "pt"})
    tensor = Tensor("weight", (300_000,))
    (stored,) = open_file(path).values()
    one = ConvertedTensor(name="weight", tensor=tensor, layout=tensor.layout, stored=stored)
    with pytest.raises(CheckpointError, match=r"weight.*NaN|weight.*infinit"):
        dict(arrays(Converted(str(path), {"weight": one}), mx.float32))


def test_no_more_is_held_than_what_is_loaded(tmp_path: Path) -> None:
    """Peak of MLX's memory over the weights' bytes: 1.0 where nothing is converted, and a group
    more where precision changes."""
    path = tmp_path / "many.safetensors"
    shape = (1024, 1024)
    weights = {f"w{n}": mx.full(shape, n, dtype=mx.float16) for n in range(64)}
    mx.save_safetensors(str(path), weights, {"format": "pt"})
    del weights
    tensor = {name: Tensor(name, shape) for name in open_file(path)}
    converted = Converted(
        str(path),
        {
            name: ConvertedTensor(
                name=name, tensor=tensor[name], layout=tensor[name].layout, stored=stored
            )
            for name, stored in open_file(path).items()
        },
    )
    for dtype, most in ((mx.float16, 1.001), (mx.float32, 1.4)):
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        found = dict(arrays(converted, dtype))
        total = sum(array.nbytes for array in found.values())
        assert mx.get_peak_memory() - before <= most * total  # measured: 1.0 and 1.26
        del found
