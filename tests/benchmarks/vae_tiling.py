"""What strips and tiles of the VAE save and cost: memory, time, and how far from the whole picture.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.vae_tiling --side 1024
    PYTHONPATH=tests .venv/bin/python -m benchmarks.vae_tiling --side 512 --way encode \
        --dtype float16 --arms whole strips --backend torch
    PYTHONPATH=tests .venv/bin/python -m benchmarks.vae_tiling --side 2048 --arms strips

One process an arm, since the system counts the peak of a process: the autoencoder of Stable
Diffusion 1.5 and SDXL, which have one size (83.7 million parameters), random weights, a CPU. An arm
is "whole", "strips", "tiles" (of 512 pixels) or the side of a tile.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ipa_mlx.blas import preload

preload()

from ipa.backend.vae_memory import VaeUse  # noqa: E402
from ipa.model.vae import VaeSpec  # noqa: E402

from .true_models import VAE  # noqa: E402

_CACHE = 1 << 30  # as `ipa_mlx.backend.load` sets it on a CPU
_SPEC = VaeSpec.from_config(VAE | {"sample_size": 512})


class Subject(NamedTuple):
    """A backend's VAE: what runs it on an array (1, C, H, W), and its peak, where that is told."""

    run: Callable[[np.ndarray], np.ndarray]
    peak: Callable[[], int | None]


def drawn(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> np.ndarray:
    """Gaussian weights that keep activations alive."""
    noise = draw.standard_normal(shape, np.float32)
    if len(shape) > 1:
        return noise / np.float32(np.prod(shape[1:])) ** 0.5
    return 0.2 * noise + np.float32(name.endswith("weight"))  # of a norm, around 1


def of_mlx(way: str, dtype: str, use: VaeUse) -> Subject:
    """The VAE of the MLX backend."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from ipa_mlx.networks.vae import Vae
    from ipa_mlx.vae_codec import decode, encode

    mx.set_cache_limit(_CACHE)
    vae, draw = Vae(_SPEC), np.random.default_rng(3)
    for name, array in tree_flatten(vae.parameters()):
        weight = mx.array(drawn(name, array.shape, draw)).astype(getattr(mx, dtype))
        mx.eval(weight)  # one by one: a peak of memory here would be that of the process
        vae.load_weights([(name, weight)], strict=False)
    mx.clear_cache()

    def run(array: np.ndarray) -> np.ndarray:
        given = mx.array(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))
        mx.eval(given)
        mx.reset_peak_memory()
        if way == "encode":
            return np.concatenate(encode(vae, given, [], wide=False, use=use))
        return decode(vae, given * _SPEC.scaling_factor, [], wide=False, use=use)

    return Subject(run, mx.get_peak_memory)


def of_torch(way: str, dtype: str, use: VaeUse) -> Subject:
    """The VAE of the reference."""
    import torch
    from diffusers import AutoencoderKL

    from ipa_torch.vae_codec import decode, encode

    vae, draw = AutoencoderKL(**VAE).eval(), np.random.default_rng(3)
    with torch.inference_mode():
        for name, weight in vae.named_parameters():
            weight.copy_(torch.from_numpy(drawn(name, tuple(weight.shape), draw)))
        vae.to(getattr(torch, dtype))

    @torch.inference_mode()
    def run(array: np.ndarray) -> np.ndarray:
        given = torch.from_numpy(array)
        if way == "encode":
            return np.concatenate(encode(vae, given, [], wide=False, use=use))
        return decode(vae, given * _SPEC.scaling_factor, [], wide=False, use=use)

    return Subject(run, lambda: None)


_BACKENDS = {"mlx": of_mlx, "torch": of_torch}


def given(way: str, side: int) -> np.ndarray:
    """Latents of unit variance, or a picture of it."""
    draw = np.random.default_rng(7)
    if way == "encode":
        return draw.uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    latent = side // _SPEC.scale_factor
    return draw.standard_normal((1, 4, latent, latent), np.float32)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One arm in this process; what it made is kept in a file."""
    arm = 512 if options.arm == "tiles" else options.arm
    use = VaeUse(int(arm) if str(arm).isdecimal() else arm, _SPEC)
    subject = _BACKENDS[options.backend](options.way, options.dtype, use)
    array = given(options.way, options.side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began, busy = time.perf_counter(), time.process_time()
    made = subject.run(array)
    seconds, busy = time.perf_counter() - began, time.process_time() - busy
    np.save(options.keep, made)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"seconds": seconds, "busy": busy, "counted": subject.peak()}
    return told | {"process": peak, "before": before}


def row(name: str, told: dict[str, Any], made: np.ndarray, whole: np.ndarray | None) -> str:
    """A line of the table."""
    words = [f"{name:7}", f"{told['seconds']:7.1f} s (processor {told['busy']:.1f})"]
    if told["counted"]:
        words.append(f"counted {told['counted'] / 1e9:.2f} GB")
    words.append(f"process {told['process'] / 1e9:.2f} GB (before {told['before'] / 1e9:.2f})")
    if whole is not None:
        error = made.astype(np.float64) - whole
        relative = np.linalg.norm(error) / np.linalg.norm(whole)
        extent = 1.0 if whole.shape[-1] == 3 else float(np.ptp(whole))
        with np.errstate(divide="ignore"):  # the same picture
            ratio = 20 * np.log10(extent / np.sqrt(np.mean(np.square(error))))
        words.append(f"to whole {relative:.1e}, {ratio:.1f} dB")
    return "  ".join(words)


def main() -> None:
    """Measure each arm in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1024, help="of the picture, pixels")
    parser.add_argument("--way", choices=("decode", "encode"), default="decode")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--backend", choices=tuple(_BACKENDS), default="mlx")
    parser.add_argument("--arms", nargs="+", default=["whole", "strips", "tiles"])
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measured(options)))
        return
    print(f"{options.backend}, {options.way}, {options.side}², {options.dtype}", flush=True)
    whole = None
    with tempfile.TemporaryDirectory() as folder:
        for arm in options.arms:
            keep = Path(folder) / f"{arm}.npy"
            words = [sys.executable, "-m", "benchmarks.vae_tiling", *sys.argv[1:]]
            words += ["--arm", arm, "--keep", str(keep)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            made = np.load(keep)
            print(row(arm, json.loads(done.stdout.splitlines()[-1]), made, whole), flush=True)
            whole = made if arm == "whole" else whole


if __name__ == "__main__":
    main()
