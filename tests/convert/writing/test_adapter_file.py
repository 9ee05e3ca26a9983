"""One adapter's file: written for MLX with its description, read again, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from ipa.errors import CheckpointError, RequestError
from ipa.model.sites import cross_attention_sites
from ipa.model.unet import UNetSpec
from ipa_convert import Converted, convert_adapter, inspect, read_adapter
from oracle import models
from oracle.adapters import SD15, Tensors, nested, random_tensors
from oracle.containers import array_bits, bits, save, write_sparse

SPEC = UNetSpec.from_config(SD15)
SITES = cross_attention_sites(SPEC)


def make(kind: str, seed: int = 0) -> Tensors:
    """An adapter in the published mixture: projector F32, keys, values and LoRA F16."""
    tensors = random_tensors(SD15, kind, seed)
    return {n: v.half() if n.startswith("ip_adapter.") else v for n, v in tensors.items()}


def write(path: Path, tensors: Tensors) -> Path:
    """By the library of its suffix; torch's files nest."""
    if path.suffix == ".safetensors":
        return save(path, tensors)
    torch.save(nested(tensors), path)
    return path


def read(path: Path) -> tuple[Any, Converted]:
    return read_adapter(path, SITES, SPEC.context_width)


def values(converted: Converted) -> dict[str, tuple[str, bytes]]:
    return {name: (t.dtype, t.array().tobytes()) for name, t in converted.items()}


def loaded(path: Path) -> Tensors:
    return safetensors.torch.load_file(path)


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and np.array_equal(bits(value), bits(other[name]))
        for name, value in one.items()
    )


KINDS = {
    "linear": None,
    "mlp": None,
    "resampler": None,
    "faceid": None,
    "faceid_plus": "faceid-plusv2",
}


@pytest.mark.matrix
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("structure", KINDS)
def test_there_and_back(structure: str, suffix: str, tmp_path: Path) -> None:
    """Every tensor keeps its own precision and its bits."""
    tensors, kind = make(structure), KINDS[structure]
    source = write(tmp_path / f"a.{suffix}", tensors)
    target = convert_adapter(source, tmp_path / "new" / "b.safetensors", sites=SITES, kind=kind)
    (spec, before), (again, after) = read(source), read(target)
    assert again == spec.with_kind(again.kind)
    assert again.kind == {"faceid": "faceid"}.get(structure, kind or "")
    assert values(after) == values(before)
    assert {stored.dtype for stored in after.values()} == {"F32", "F16"}
    back = convert_adapter(target, tmp_path / "c.safetensors", layout="original", sites=SITES)
    assert same(loaded(back), tensors)
    once = convert_adapter(target, tmp_path / "d.safetensors", sites=SITES)
    assert once.read_bytes() == target.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [source.name, "new", "c.safetensors", "d.safetensors"]
    )


def test_precision_on_request(tmp_path: Path) -> None:
    tensors = make("linear")
    source = write(tmp_path / "a.safetensors", tensors)
    for dtype in ("float16", "bfloat16", "float32"):
        target = convert_adapter(
            source, tmp_path / dtype, dtype=dtype, layout="original", sites=SITES
        )
        expected = {name: value.to(getattr(torch, dtype)) for name, value in tensors.items()}
        assert same(loaded(target), expected)


def sparse(path: Path, dtype: str = "F16", **changes: tuple[int, ...]) -> Path:
    """A base adapter of SD1.5's true shapes, all zeros."""
    shapes = {"image_proj.proj.weight": (3072, 1024), "image_proj.proj.bias": (3072,)}
    shapes |= {f"image_proj.norm.{part}": (768,) for part in ("weight", "bias")}
    widths = (320,) * 2 + (640,) * 2 + (1280,) * 5 + (640,) * 3 + (320,) * 3 + (1280,)
    for rank, width in enumerate(widths):
        shapes |= {f"ip_adapter.{2 * rank + 1}.to_{x}_ip.weight": (width, 768) for x in "kv"}
    return write_sparse(path, shapes | changes, dtype)


def test_the_base_is_told_from_numbers_and_widths(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = convert_adapter(
        sparse(tmp_path / "a.safetensors"),
        tmp_path / "b.safetensors",
        on_progress=lambda *step: seen.append(step),
    )
    found = inspect(target)
    assert (found.family, found.base, found.converted) == ("IP-Adapter", "SD1.5", True)
    assert found.variant == "linear (base, light or light-v11)"
    assert "ViT-H" in found.encoder
    assert found.remarks[:2] == ("16 cross-attention sites", "4 tokens per picture")
    assert seen[-1] == (found.bytes, found.bytes) and len(seen) == found.tensors
    back = convert_adapter(target, tmp_path / "c.safetensors", layout="original")
    assert inspect(back).parameters == found.parameters


@pytest.mark.parametrize(
    "changes",
    [
        {"ip_adapter.33.to_k_ip.weight": (1280, 768)},
        {"ip_adapter.5.to_k_ip.weight": (320, 768)},
        {"ip_adapter.01.to_k_ip.weight": (320, 768)},
    ],
)
def test_an_unknown_base(changes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    source = sparse(tmp_path / "a.safetensors", **changes)
    assert "those of no known base" in " ".join(inspect(source).remarks) or "01" in str(changes)
    with pytest.raises(CheckpointError):
        convert_adapter(source, tmp_path / "b.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_kind_is_asked_for_where_it_matters(tmp_path: Path) -> None:
    """FaceID-Plus v1 and v2 have the same tensors; the file's name decides nothing."""
    source = write(tmp_path / "ip-adapter-faceid-plusv2_sd15.bin", make("faceid_plus"))
    assert "its name suggests faceid-plusv2" in inspect(source).remarks
    target = tmp_path / "b.safetensors"
    with pytest.raises(RequestError, match="kind= with one of faceid-plus, faceid-plusv2"):
        convert_adapter(source, target, sites=SITES)
    with pytest.raises(RequestError, match="not the structure of a faceid adapter"):
        convert_adapter(source, target, sites=SITES, kind="faceid")
    convert_adapter(source, target, sites=SITES, kind="faceid-plus")
    assert inspect(target).variant == "face MLP and resampler (faceid-plus)"
    assert "suggests" not in " ".join(inspect(target).remarks)
    changed = convert_adapter(target, tmp_path / "c.safetensors", sites=SITES, kind="faceid-plusv2")
    assert read(changed)[0].kind == "faceid-plusv2"


def test_a_structure_without_public_names(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", make("linear"))
    with pytest.raises(RequestError, match="leave kind= out"):
        convert_adapter(source, tmp_path / "b.safetensors", sites=SITES, kind="base")


def test_nothing_is_overwritten_and_nothing_is_left(tmp_path: Path) -> None:
    tensors = make("linear")
    source = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match="exists already"):
        convert_adapter(source, source, sites=SITES)
    assert same(loaded(source), tensors)
    tensors["ip_adapter.7.to_v_ip.weight"][0, 0] = float("nan")
    broken = write(tmp_path / "broken.safetensors", tensors)
    with pytest.raises(CheckpointError, match="not finite"):
        convert_adapter(broken, tmp_path / "b.safetensors", sites=SITES)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        convert_adapter(source, tmp_path / "file" / "b.safetensors", sites=SITES)
    assert {p.name for p in tmp_path.iterdir()} == {"a.safetensors", "broken.safetensors", "file"}


def test_a_source_that_changes_meanwhile(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", make("linear"))
    with pytest.raises(CheckpointError, match="changed while it was converted"):
        convert_adapter(
            source,
            tmp_path / "b.safetensors",
            sites=SITES,
            on_progress=lambda *_: source.touch(),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


DESCRIBED = "does not say which adapter it is"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, DESCRIBED),
        ("{", DESCRIBED),
        ("[" * 100_000, DESCRIBED),
        ("[]", DESCRIBED),
        ({"more": 1}, DESCRIBED),
        ({"projector": "mlp2"}, DESCRIBED),
        ({"projector": []}, DESCRIBED),
        ({"layers": 10**9}, DESCRIBED),
        ({"tokens": -1}, DESCRIBED),
        ({"tokens": True}, DESCRIBED),
        ({"tokens": 4.0}, DESCRIBED),
        ({"kind": "plus"}, DESCRIBED),
        ({"kind": 1}, DESCRIBED),
        ({"feature": "face"}, "contradicts itself"),
        ({"face_width": 512}, "contradicts itself"),
        ({"lora_rank": 4}, "contradicts itself"),
        ({"feature_width": 31}, "does not fit"),
        ({"tokens": 5}, "does not fit"),
        ({"projector": "mlp"}, "without any values"),
        ({"context_width": 0}, "without any values"),
        ({"projector": "faceid_plus", "layers": 256}, "without any values"),
    ],
)
def test_descriptions_are_not_believed(change: Any, message: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", make("linear"))
    target = convert_adapter(source, tmp_path / "b.safetensors", sites=SITES)
    with safetensors.safe_open(target, "pt") as file:
        metadata = dict(file.metadata())
    description = json.loads(metadata.pop("ip_adapter"))
    assert description["projector"] == "linear"
    if isinstance(change, dict):
        change = json.dumps(description | change)
    if change is not None:
        metadata["ip_adapter"] = change
    changed = tmp_path / "c.safetensors"
    safetensors.torch.save_file(loaded(target), changed, metadata)
    with pytest.raises(CheckpointError, match=message):
        read(changed)


@pytest.mark.parametrize("adapter", ["linear", "plus", "full"])
def test_a_pipeline_takes_the_converted_file(
    adapter: str, tiny: Path, open_pipeline: Any, tmp_path: Path, references: list[Any]
) -> None:
    places = cross_attention_sites(UNetSpec.from_config(models.UNET))
    target = convert_adapter(
        tiny / f"{adapter}.safetensors", tmp_path / "mlx.safetensors", sites=places
    )
    pictures = []
    for path in (tiny / f"{adapter}.safetensors", target):
        pipe = open_pipeline(tiny, "mlx")
        pipe.load_ip_adapter(path, image_encoder_folder=str(tiny / "image_encoder"))
        result = pipe(
            prompt="a cat",
            ip_adapter_image=references[0],
            num_inference_steps=2,
            width=64,
            height=64,
            seed=3,
            output_type="np",
        )
        pictures.append(array_bits(np.asarray(result.images)))
    assert np.array_equal(*pictures)
    with pytest.raises(CheckpointError, match="converted for MLX"):
        open_pipeline(tiny, "torch").load_ip_adapter(target)
