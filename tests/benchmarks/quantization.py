"""What quantisation costs and saves: one step of a true-size SD1.5 UNet against itself in float32.

Weights are Gaussian, every tensor distinct: no trained weights are at hand, and these have neither
the outliers nor the structure of trained ones, so the figures compare choices rather than predict
pictures. Matrices in few bits are quantised from float16, restored by `mx.dequantize`, multiplied
in float32: the error of the weights alone. (On a CPU, MLX multiplies them in float16 by adding up
in float16, and takes minutes for a step.)
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from benchmarks import true_models
from ipa.model.files import read_json
from ipa.model.quantization import Quantization
from ipa.model.unet import UNetSpec
from ipa_torch.files.weights import quiet
from oracle import models
from oracle.measure import relative

Chosen = Callable[[str, tuple[int, ...], Quantization], bool]
_PROJECTION = re.compile(r".+\.attentions\.\d+\.proj_(in|out)")


def in_blocks(path: str, shape: tuple[int, ...], how: Quantization) -> bool:
    """The table of the converters."""
    from ipa_convert import is_quantized

    return is_quantized(f"{path}.weight", shape, how)


def with_projections(path: str, shape: tuple[int, ...], how: Quantization) -> bool:
    """The table, and the matrices into and out of each transformer."""
    return in_blocks(path, shape, how) or _PROJECTION.fullmatch(path) is not None


def projections_alone(path: str, shape: tuple[int, ...], how: Quantization) -> bool:
    """These alone, for what they cost by themselves."""
    return _PROJECTION.fullmatch(path) is not None


CHOICES: tuple[tuple[str, str, int | None, Chosen | None], ...] = (
    ("float32", "float32", None, None),
    ("float16", "float16", None, None),
    ("8 bit", "float16", 8, in_blocks),
    ("8 bit, proj_in and proj_out too", "float16", 8, with_projections),
    ("8 bit, proj_in and proj_out alone", "float16", 8, projections_alone),
    ("4 bit", "float16", 4, in_blocks),
    ("4 bit, proj_in and proj_out too", "float16", 4, with_projections),
    ("4 bit, proj_in and proj_out alone", "float16", 4, projections_alone),
)


def build(folder: Path) -> UNetSpec:
    """A UNet of SD1.5's size, 3.4 GB, as diffusers writes it."""
    unet = models.randomize(UNet2DConditionModel(**true_models.UNET), 30)
    assert sum(p.numel() for p in unet.parameters()) == true_models.UNET_PARAMETERS
    unet.save_pretrained(folder)
    return UNetSpec.from_config(read_json(folder / "config.json"))


def measure(
    folder: Path, spec: UNetSpec, dtype: str, bits: int | None, chosen: Chosen | None, side: int
) -> tuple[int, int, np.ndarray[Any, Any]]:
    """Bytes, quantised layers, and the output of one evaluation with both rows of guidance."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten

    from ipa_convert import read_component
    from ipa_mlx.conditioning import Conditioning
    from ipa_mlx.networks.unet import UNet
    from ipa_mlx.networks.weights import DTYPES, place

    unet = UNet(spec)
    place(unet, read_component("unet", folder, spec), DTYPES[dtype], "unet")
    size = sum(array.nbytes for _, array in tree_flatten(unet.parameters()))
    layers = 0
    if bits is not None and chosen is not None:
        how = Quantization(bits)
        for path, layer in unet.named_modules():
            if isinstance(layer, nn.Linear) and chosen(path, layer.weight.shape, how):
                parts = mx.quantize(layer.weight, how.group_size, how.bits)
                mx.eval(parts)
                size += sum(part.nbytes for part in parts) - layer.weight.nbytes
                packed, *grid = parts
                grid = [part.astype(mx.float32) for part in grid]
                layer.weight = mx.dequantize(packed, *grid, how.group_size, how.bits)
                layers += 1
        unet.set_dtype(mx.float32)
        mx.eval(unet.parameters())
    draw = np.random.default_rng(1)
    precision = unet.conv_in.weight.dtype
    x, text = (
        mx.array(draw.standard_normal(shape, dtype=np.float32)).astype(precision)
        for shape in ((2, side, side, 4), (2, 77, 768))
    )
    keys_values = tuple(attention.keys_values(text) for attention in unet.cross_attentions)
    found = unet(x, 501.0, Conditioning(2, keys_values, ()).context(())).astype(mx.float32)
    return size, layers, np.array(found)


def rows(folder: Path, spec: UNetSpec, side: int) -> list[dict[str, Any]]:
    """One row a choice; the first is what the others are compared with."""
    import mlx.core as mx

    table: list[dict[str, Any]] = []
    exact: np.ndarray[Any, Any] | None = None
    for name, dtype, bits, chosen in CHOICES:
        start = time.perf_counter()
        size, layers, found = measure(folder, spec, dtype, bits, chosen, side)
        exact = found if exact is None else exact
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
        row = {"weights": name, "bytes": size, "layers": layers, "seconds": seconds}
        table.append(row | {"error": relative(found, exact)})
        gc.collect()
        mx.clear_cache()
    return table


def main() -> None:
    """Build the UNet, measure every choice, print the table."""
    from ipa_mlx.blas import preload

    preload()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=16, help="latent pixels along a side")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with quiet(), torch.no_grad(), tempfile.TemporaryDirectory() as temporary:
        spec = build(Path(temporary))
        gc.collect()
        table = rows(Path(temporary), spec, options.side)
    if options.json:
        print(json.dumps({"side": options.side, "rows": table}, indent=2))
        return
    print(f"UNet of SD1.5, Gaussian weights, latents {options.side} × {options.side}, MLX")
    for row in table:
        print(
            f"{row['weights']:36s}{row['layers']:4d} layers {row['bytes'] / 1e6:9,.1f} MB  "
            f"{row['error']:.1e}"
        )


if __name__ == "__main__":
    main()
