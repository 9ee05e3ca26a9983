"""Names and shapes are checked before memory is spent, and values come one tensor at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipa.errors import CheckpointError
from ipa.model.unet import UNetSpec
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_model, inspect, read_component
from ipa_convert.tables import unet
from oracle.containers import write_sparse

SD15 = UNetSpec.from_config(
    {
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "cross_attention_dim": 768,
    }
)
SHAPES = {tensor.name: tensor.shape for tensor in unet.tensors(SD15)}
FILE = "diffusion_pytorch_model.safetensors"
MIB = 1 << 20


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """numpy reports its buffers to tracemalloc; pages of a mapped file do not count."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MIB:.1f} MiB"


def test_headers_of_a_large_model(tmp_path: Path) -> None:
    """A float32 UNet of SD1.5, 3.4 GB (a sparse file). Measured: 0.7 MiB."""
    path = write_sparse(tmp_path / FILE, SHAPES)
    assert path.stat().st_size > 3.4e9
    with at_most(2 * MIB):
        converted = read_component("unet", tmp_path, SD15)
    assert len(converted) == 686
    with at_most(2 * MIB):
        found = inspect(path)
    assert (found.tensors, found.parameters) == (686, 859_520_964)
    assert (found.family, found.base) == ("Stable Diffusion UNet", "SD1.5")


def test_refusal_of_a_large_model(tmp_path: Path) -> None:
    write_sparse(tmp_path / FILE, SHAPES | {"conv_in.weight": (320, 9, 3, 3)})
    with at_most(2 * MIB), pytest.raises(CheckpointError, match=r"\(320, 9, 3, 3\), needed"):
        read_component("unet", tmp_path, SD15)


def test_one_tensor_at_a_time(tmp_path: Path) -> None:
    """The largest convolution has 112.5 MiB; its permuted copy is all that is held."""
    write_sparse(tmp_path / FILE, SHAPES)
    converted = read_component("unet", tmp_path, SD15)
    name = "up_blocks.0.resnets.0.conv1.weight"
    assert converted[name].shape == (1280, 3, 3, 2560)
    nbytes = 4 * 1280 * 3 * 3 * 2560
    with at_most(nbytes + 2 * MIB):
        assert converted[name].array().nbytes == nbytes


def test_conversion_streams(tiny: Path, tmp_path: Path) -> None:
    """One tensor and the headers. Measured: 1.4 MiB; the UNet alone has 7.9 MiB."""
    model = open_model_folder(tiny, name="tiny")
    weights = inspect(tiny / "unet").bytes
    with at_most(weights // 2):
        convert_model(model, tmp_path / "converted", dtype="float16")
