"""A converted folder is a model: same values, same names; it appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from ipa.errors import CheckpointError
from ipa.model.files import STEMS as ALL_STEMS
from ipa.model.folder import ModelFolder
from ipa.sources.model_folder import open_model_folder
from ipa_convert import Converted, convert_model, read_component
from ipa_convert.containers import atomic as appearing
from ipa_convert.containers.values import cast
from oracle.containers import save_shards

MISSING = {"text_encoder_2", "controlnet", "t2i_adapter"}  # of SDXL, and no part of a model
STEMS = {name: stem for name, stem in ALL_STEMS.items() if name not in MISSING}

TAGS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
CONFIGS = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
    *(f"{component}/config.json" for component in STEMS),
    *(f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer_config.json")),
    "tokenizer/special_tokens_map.json",
}
MANIFEST = "conversion.json"
UNET = "unet/diffusion_pytorch_model.safetensors"


def opened(path: Path, variant: str | None = None) -> ModelFolder:
    return open_model_folder(path, name=path.name, variant=variant)


def components(model: ModelFolder) -> Iterator[tuple[str, Converted]]:
    for name in STEMS:
        spec = getattr(model, name)
        yield name, read_component(name, model.path / name, spec, variant=model.variant)


def files(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """The shared model, free to be changed."""
    for name in files(tiny):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_bytes((tiny / name).read_bytes())
    return tmp_path / "source"


@pytest.mark.parametrize("dtype", [None, *TAGS])
def test_same_values(dtype: str | None, tiny: Path, tmp_path: Path) -> None:
    source = opened(tiny)
    target = convert_model(source, tmp_path / "converted", dtype=dtype)
    found = dict(components(opened(target)))
    for name, originals in components(source):
        assert found[name].keys() == originals.keys()
        for key, original in originals.items():
            tensor, tag = found[name][key], TAGS[dtype or "float32"]
            assert (tensor.dtype, tensor.shape) == (tag, original.shape)
            wanted = cast(original.array(), original.dtype, tag, key)
            assert np.array_equal(tensor.array(), wanted), key


def test_files_and_metadata(tiny: Path, tmp_path: Path) -> None:
    """Configs byte for byte; nothing else, such as adapters, comes along."""
    target = convert_model(opened(tiny), tmp_path / "deep" / "converted", dtype="float16")
    weights = {f"{component}/{stem}.safetensors" for component, stem in STEMS.items()}
    assert files(target) == CONFIGS | weights | {MANIFEST}
    for name in CONFIGS:
        assert (target / name).read_bytes() == (tiny / name).read_bytes()
    for name in weights:
        with safetensors.safe_open(target / name, "pt") as file:
            assert file.metadata() == {"format": "mlx", "ipa_layout": "1"}
        assert int.from_bytes((target / name).read_bytes()[:8], "little") % 8 == 0
    assert [p.name for p in target.parent.iterdir()] == ["converted"]


def test_layout_in_the_file(tiny: Path, tmp_path: Path) -> None:
    """Read by the safetensors library: MLX's order of axes, and its names."""
    target = convert_model(opened(tiny), tmp_path / "converted")
    before = safetensors.torch.load_file(tiny / UNET)
    after = safetensors.torch.load_file(target / UNET)
    assert torch.equal(after["conv_in.weight"], before["conv_in.weight"].permute(0, 2, 3, 1))
    name = "down_blocks.0.downsample"
    old = before["down_blocks.0.downsamplers.0.conv.weight"]
    assert torch.equal(after[f"{name}.weight"], old.permute(0, 2, 3, 1))
    name = "mid_block.attentions.0.proj_in.weight"
    assert torch.equal(after[name], before[name][:, :, 0, 0])


def test_tensors_are_aligned(copy: Path, tmp_path: Path) -> None:
    """Also where types are mixed and half-precision tensors have odd sizes."""
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for number, name in enumerate(tensors):
        tensors[name] = tensors[name].to((torch.float16, torch.float32)[number % 2])
    tensors["decoder.conv_out.bias"] = tensors["decoder.conv_out.bias"].half()  # three numbers
    safetensors.torch.save_file(tensors, path)
    target = convert_model(opened(copy), tmp_path / "converted")
    converted = read_component("vae", target / "vae", opened(target).vae)
    assert {tensor.dtype for tensor in converted.values()} == {"F16", "F32"}
    assert all(tensor.stored.array().flags.aligned for tensor in converted.values())


def test_way_back(tiny: Path, tmp_path: Path) -> None:
    """From the converted folder to the very tensors of the original."""
    target = opened(convert_model(opened(tiny), tmp_path / "converted"))
    for name, converted in components(target):
        original = safetensors.torch.load_file(tiny / name / f"{STEMS[name]}.safetensors")
        back = {key.removeprefix("text_model."): array for key, _, array in converted.originals()}
        assert back.keys() == original.keys()
        for key, value in original.items():
            assert np.array_equal(back[key], value.numpy()), key


def test_convert_twice(tiny: Path, tmp_path: Path) -> None:
    """A converted model may be converted again: to itself, byte for byte, or to less precision."""
    once = convert_model(opened(tiny), tmp_path / "once")
    twice = convert_model(opened(once), tmp_path / "twice")
    assert (once / UNET).read_bytes() == (twice / UNET).read_bytes()
    direct = convert_model(opened(tiny), tmp_path / "direct", dtype="bfloat16")
    later = convert_model(opened(once), tmp_path / "later", dtype="bfloat16")
    assert (direct / UNET).read_bytes() == (later / UNET).read_bytes()


def test_shards_and_links_and_variants(copy: Path, tmp_path: Path) -> None:
    """Shards become one file; links are followed, as hub caches need; a variant loses its tag."""
    tensors = safetensors.torch.load_file(copy / UNET)
    (copy / UNET).unlink()
    save_shards(copy / "unet", "diffusion_pytorch_model", tensors, 3, "fp16")
    for name in ("vae/diffusion_pytorch_model", "text_encoder/model", "image_encoder/model"):
        blob = copy / f"{name}.safetensors"
        blob.rename(tmp_path / blob.parent.name)
        (copy / f"{name}.fp16.safetensors").symlink_to(tmp_path / blob.parent.name)
    target = convert_model(opened(copy, "fp16"), tmp_path / "converted")
    weights = {f"{component}/{stem}.safetensors" for component, stem in STEMS.items()}
    assert files(target) == CONFIGS | weights | {MANIFEST}
    assert not any(path.is_symlink() for path in target.rglob("*"))
    assert len(dict(components(opened(target)))["unet"]) == len(tensors)


def test_without_an_image_encoder(copy: Path, tmp_path: Path) -> None:
    for path in (copy / "image_encoder").iterdir():
        path.unlink()
    (copy / "image_encoder").rmdir()
    target = convert_model(opened(copy), tmp_path / "converted")
    assert not (target / "image_encoder").exists()
    assert opened(target).image_encoder is None


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_existing_target(kind: str, tiny: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="exists already") as caught:
        convert_model(opened(tiny), target)
    assert str(target) in caught.value.what
    assert "choose another name" in caught.value.remedy
    assert [p.name for p in tmp_path.iterdir()] == ["target"]


def spoil(path: Path, name: str, value: float) -> None:
    tensors = safetensors.torch.load_file(path)
    tensors[name].view(-1)[3] = value
    safetensors.torch.save_file(tensors, path)


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [(float("nan"), None, "not finite"), (1e5, "float16", "does not fit float16")],
)
def test_bad_values_leave_nothing(
    value: float, dtype: str | None, message: str, copy: Path, tmp_path: Path
) -> None:
    name = "vision_model.post_layernorm.bias"
    spoil(copy / "image_encoder" / "model.safetensors", name, value)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert_model(opened(copy), tmp_path / "converted", dtype=dtype)
    assert "image_encoder" in caught.value.what
    assert caught.value.remedy
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_bad_headers_stop_before_writing(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy / "image_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(Path, "mkdir", None)
    with pytest.raises(CheckpointError, match="truncated"):
        convert_model(opened(copy), tmp_path / "converted")


def test_full_disk(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(appearing.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(CheckpointError, match="too small") as caught:
        convert_model(opened(tiny), tmp_path / "converted")
    assert "0.0 GB free" in caught.value.found
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written") as caught:
        convert_model(opened(tiny), tmp_path / "file" / "converted")
    assert "permissions" in caught.value.remedy


def test_configs_are_not_rewritten(copy: Path, tmp_path: Path) -> None:
    """Extra files: licences come along; weights and scripts of others do not."""
    (copy / "LICENSE").write_text("mine")
    (copy / "unet" / "model.ckpt").write_bytes(b"x")
    (copy / "unet" / "code.py").write_text("x")
    (copy / "safety_checker").mkdir()
    (copy / "safety_checker" / "config.json").write_text(json.dumps({}))
    target = convert_model(opened(copy), tmp_path / "converted")
    extra = files(target) - CONFIGS - {f"{c}/{stem}.safetensors" for c, stem in STEMS.items()}
    assert extra == {"LICENSE", MANIFEST}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.pop("conv_in.bias"), "1 missing: conv_in.bias"),
        (lambda t: t.update(extra=torch.ones(1)), "1 left over: extra"),
        (
            lambda t: t.update({"conv_in.weight": t["conv_in.weight"].permute(0, 3, 1, 2)}),
            "conv_in.weight (24, 4, 3, 3), needed (24, 3, 3, 4)",
        ),
    ],
)
def test_converted_files_are_checked_too(
    change: object, found: str, tiny: Path, tmp_path: Path
) -> None:
    target = convert_model(opened(tiny), tmp_path / "converted")
    tensors = safetensors.torch.load_file(target / UNET)
    change(tensors)
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    metadata = {"format": "mlx", "ipa_layout": "1"}
    safetensors.torch.save_file(tensors, target / UNET, metadata)
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        dict(components(opened(target)))
    assert found in caught.value.found
