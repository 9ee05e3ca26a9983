"""Every public adapter, by its true shapes: what is said of it, and that its size is the published.

Sizes in megabytes as their authors' pages list them; files of zeros take no room.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from ipa.errors import CheckpointError
from ipa.sources.catalogue import ADAPTERS, PublicAdapter
from ipa_convert import convert_adapter, inspect
from ipa_convert.containers.checkpoint import open_file
from ipa_convert.reading.adapter_sites import find_sites
from oracle import adapters
from oracle.containers import write_sparse

Shapes = dict[str, tuple[int, ...]]

UNETS: dict[str, dict[str, Any]] = {
    "SD1.5": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "cross_attention_dim": 768,
    },
    "SDXL": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
        "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
    },
}
VIT_H = "h94/IP-Adapter models/image_encoder"
BIGG = "h94/IP-Adapter sdxl_models/image_encoder"
FACE = "no image encoder, but face embeddings of width 512"


@dataclass(frozen=True)
class Public:
    """A published file.

    `bits` are those of the projector and of the rest. `names` are what only a person can tell
    apart, `suggested` what the file's name says of it.
    """

    path: str
    megabytes: float
    base: str
    structure: str
    encoder: str
    tokens: int | None
    names: tuple[str, ...]
    suggested: str = ""
    rank: int = 0
    bits: tuple[str, str] = ("F16", "F16")
    is_decisive: bool = False

    @property
    def stem(self) -> str:
        return Path(self.path).stem


BASE = ("base", "light", "light-v11")
PLUS = ("plus", "plus-face", "composition")
FACEID_PLUS = ("faceid-plus", "faceid-plusv2")
PORTRAIT = ("faceid-portrait", "faceid-portrait-v11")
UNNORM = ("faceid-portrait-unnorm", "instantid")
MIXED = ("F32", "F16")
SD15, SDXL = "SD1.5", "SDXL"
# fmt: off
FILES = (
    Public("ip-adapter_sd15.safetensors", 44.6, SD15, "linear", VIT_H, 4, BASE),
    Public("ip-adapter_sd15_light.bin", 44.6, SD15, "linear", VIT_H, 4, BASE, "light"),
    Public("ip-adapter_sd15_light_v11.bin", 44.6, SD15, "linear", VIT_H, 4, BASE, "light-v11"),
    Public("ip-adapter_sd15_vit-G.safetensors", 46.2, SD15, "linear", BIGG, 4, ("vit-g",)),
    Public("ip-adapter-plus_sd15.safetensors", 98.2, SD15, "resampler", VIT_H, 16, PLUS, "plus"),
    Public("ip-adapter-plus_sd15.bin", 158, SD15, "resampler", VIT_H, 16, PLUS, "plus",
           bits=MIXED),
    Public("ip-adapter-plus-face_sd15.safetensors", 98.2, SD15, "resampler", VIT_H, 16, PLUS,
           "plus-face"),
    Public("ip-adapter-full-face_sd15.safetensors", 43.6, SD15, "mlp", VIT_H, None,
           ("full-face",)),
    Public("ip_plus_composition_sd15.safetensors", 98.2, SD15, "resampler", VIT_H, 16, PLUS,
           "composition"),
    Public("ip-adapter_sdxl.safetensors", 702.6, SDXL, "linear", BIGG, 4, ("base",)),
    Public("ip-adapter_sdxl_vit-h.safetensors", 698.4, SDXL, "linear", VIT_H, 4, ("vit-h",)),
    Public("ip-adapter-plus_sdxl_vit-h.safetensors", 847.5, SDXL, "resampler", VIT_H, 16, PLUS,
           "plus"),
    Public("ip-adapter-plus_sdxl_vit-h.bin", 1010, SDXL, "resampler", VIT_H, 16, PLUS, "plus",
           bits=MIXED),
    Public("ip-adapter-plus-face_sdxl_vit-h.safetensors", 847.5, SDXL, "resampler", VIT_H, 16,
           PLUS, "plus-face"),
    Public("ip_plus_composition_sdxl.safetensors", 847.5, SDXL, "resampler", VIT_H, 16, PLUS,
           "composition"),
    Public("ip-adapter-faceid_sd15.bin", 96.7, SD15, "faceid", FACE, 4, ("faceid",), rank=128),
    Public("ip-adapter-faceid_sdxl.bin", 1070, SDXL, "faceid", FACE, 4, ("faceid",), rank=128),
    Public("ip-adapter-faceid-plus_sd15.bin", 156.6, SD15, "faceid_plus", VIT_H, 4, FACEID_PLUS,
           "faceid-plus", rank=128, is_decisive=True),
    Public("ip-adapter-faceid-plusv2_sd15.bin", 156.6, SD15, "faceid_plus", VIT_H, 4,
           FACEID_PLUS, "faceid-plusv2", rank=128, is_decisive=True),
    Public("ip-adapter-faceid-plusv2_sdxl.bin", 1490, SDXL, "faceid_plus", VIT_H, 4,
           ("faceid-plusv2",), rank=128),
    Public("ip-adapter-faceid-portrait_sd15.bin", 64.6, SD15, "faceid", FACE, 16, PORTRAIT,
           "faceid-portrait"),
    Public("ip-adapter-faceid-portrait-v11_sd15.bin", 64.6, SD15, "faceid", FACE, 16, PORTRAIT,
           "faceid-portrait-v11"),
    Public("ip-adapter-faceid-portrait_sdxl.bin", 749.8, SDXL, "faceid", FACE, 16,
           ("faceid-portrait",)),
    Public("ip-adapter-faceid-portrait_sdxl_unnorm.bin", 1010, SDXL, "resampler", FACE, 16,
           UNNORM, "faceid-portrait-unnorm", bits=MIXED, is_decisive=True),
    Public("InstantID/ip-adapter.bin", 1690, SDXL, "resampler", FACE, 16, UNNORM,
           bits=("F32", "F32"), is_decisive=True),
)
# fmt: on


def sites(base: str) -> tuple[tuple[int, int], ...]:
    """(number, width), as diffusers enumerates them."""
    return tuple(adapters.sites(UNETS[base]))


def shapes(file: Public) -> Shapes:
    """All tensors of a published file, as their authors' classes name and shape them."""
    context = UNETS[file.base]["cross_attention_dim"]
    feature = 512 if file.encoder == FACE else 1280
    if file.structure == "linear":
        feature = 1280 if file.encoder == BIGG else 1024
    found = adapters.projector_shapes(
        file.structure,
        context=context,
        feature=feature,
        tokens=file.tokens or 1,
        width=1280 if file.base == SDXL else 768,
    )
    found |= adapters.site_shapes(sites(file.base), context)
    for number, width in sites(file.base):
        for attention, inputs in ((number - 1, width), (number, context)) if file.rank else ():
            for part in ("q", "k", "v", "out"):
                path = f"ip_adapter.{attention}.to_{part}_lora"
                found[f"{path}.down.weight"] = (file.rank, inputs if part in "kv" else width)
                found[f"{path}.up.weight"] = (width, file.rank)
    return found


def write(folder: Path, file: Public) -> Path:
    """The smallest of torch.save as they are; the others as sparse safetensors."""
    listed = shapes(file)
    tags = {name: file.bits[name.startswith("ip_adapter.")] for name in listed}
    if not file.path.endswith(".bin") or file.megabytes > 45:
        return write_sparse(folder / f"{file.stem}.safetensors", listed, tags)
    tensors = {name: torch.zeros(shape, dtype=torch.float16) for name, shape in listed.items()}
    torch.save(adapters.nested(tensors), folder / f"{file.stem}.bin")
    return folder / f"{file.stem}.bin"


def catalogued(file: Public) -> dict[str, PublicAdapter]:
    return {name: entry for name, entry in ADAPTERS.items() if Path(entry.path).stem == file.stem}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.path)
def test_public_files(file: Public, tmp_path: Path) -> None:
    path = write(tmp_path, file)
    found = inspect(path)
    remarks = " | ".join(found.remarks)
    assert (found.family, found.base) == ("IP-Adapter", file.base)
    assert found.encoder.startswith(file.encoder) or f"({file.encoder})" in found.encoder
    assert ("face embeddings of width 512" in found.encoder) == (
        "faceid" in file.path or "InstantID" in file.path
    )
    assert f"{file.tokens or 'one per patch'} tokens" in remarks
    assert f"{len(sites(file.base))} cross-attention sites" in remarks
    assert ("LoRA of rank 128" in remarks) == bool(file.rank)
    assert "no known base" not in remarks
    # What only a person can tell.
    *before, last = file.names
    alternatives = f"{', '.join(before)} or {last}" if before else last
    assert f"({alternatives})" in found.variant
    assert (f"do not tell {alternatives}" in remarks) == bool(before)
    assert ("converting needs to know" in remarks) == file.is_decisive
    assert (f"its name suggests {file.suggested}" in found.remarks) == bool(file.suggested)
    assert ("suggests" in remarks) == bool(file.suggested)
    # Published in MB with one digit, or in GB with two.
    assert abs(found.bytes / 1e6 - file.megabytes) <= (0.2 if file.megabytes < 1000 else 5)
    sizes = {"F32": 4, "F16": 2}
    tags = {name: file.bits[name.startswith("ip_adapter.")] for name in shapes(file)}
    assert found.bytes == sum(sizes[tags[n]] * prod(s) for n, s in shapes(file).items())
    # The catalogue promises the same.
    for name, entry in catalogued(file).items():
        assert entry.base == found.base
        assert name.rsplit("-", 1)[0] in file.names
        if entry.encoder is None:
            assert found.encoder.startswith("no image encoder")
        else:
            assert f"({entry.encoder_repository} {entry.encoder})" in found.encoder


def test_the_catalogue_is_covered() -> None:
    covered = {name for file in FILES for name in catalogued(file)}
    assert covered == ADAPTERS.keys()


@pytest.mark.parametrize("base", UNETS)
def test_parameters_of_keys_values_and_lora(base: str) -> None:
    """Published counts of ip_adapter's tensors."""
    file = next(f for f in FILES if f.base == base and f.rank)
    counts = {"_ip.": 0, "_lora.": 0, "image_proj.": 0}
    for name, shape in shapes(file).items():
        counts[next(part for part in counts if part in name)] += prod(shape)
    expected = {"SD1.5": (19_169_280, 25_509_888), "SDXL": (340_787_200, 185_794_560)}
    assert (counts["_ip."], counts["_lora."]) == expected[base]


@pytest.mark.parametrize("base", UNETS)
def test_the_base_is_told_from_all_numbers(base: str, tmp_path: Path) -> None:
    file = next(f for f in FILES if f.base == base)
    listed = shapes(file)
    path = write_sparse(tmp_path / "a.safetensors", listed, "F16")
    known = find_sites(open_file(path))
    assert known is not None
    assert [(site.number, site.width) for site in known] == list(sites(base))
    # Two neighbours of different widths exchanged: a file that is numbered in another way.
    widths = dict(sites(base))
    one = next(n for n in widths if n + 2 in widths and widths[n] != widths[n + 2])
    for part in "kv":
        a, b = (f"ip_adapter.{n}.to_{part}_ip.weight" for n in (one, one + 2))
        listed[a], listed[b] = listed[b], listed[a]
    wrong = write_sparse(tmp_path / "b.safetensors", listed, "F16")
    assert find_sites(open_file(wrong)) is None
    assert "those of no known base" in " ".join(inspect(wrong).remarks)
    with pytest.raises(CheckpointError, match="unknown base model") as caught:
        convert_adapter(wrong, tmp_path / "c.safetensors")
    assert "16 sites" in caught.value.remedy
    assert "70 sites" in caught.value.remedy


def test_the_sizes_of_the_catalogue_are_the_published() -> None:
    published = {file.path: file.megabytes for file in FILES}
    for name, public in ADAPTERS.items():
        wanted = published[Path(public.path).name]
        assert public.megabytes == pytest.approx(wanted, rel=3e-3), name
