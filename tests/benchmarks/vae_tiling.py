"""What decoding in tiles saves and costs: memory, time, and how far from the picture as a whole.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.vae_tiling --side 1024 --tile 512
    PYTHONPATH=tests .venv/bin/python -m benchmarks.vae_tiling --side 1024 --tile 0       # whole

One case a process, since the system counts the peak of a process: the decoder of Stable Diffusion
1.5 at its true size (83.7 million parameters with the encoder), random weights, float32, a CPU.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from ipa_mlx.blas import preload

preload()

import mlx.core as mx  # noqa: E402
from mlx.utils import tree_flatten, tree_map_with_path  # noqa: E402

from ipa.backend.tiling import Tiling  # noqa: E402
from ipa.model.vae import VaeSpec  # noqa: E402
from ipa_mlx.networks.vae import Vae  # noqa: E402
from ipa_mlx.vae_codec import decode  # noqa: E402

from .true_models import VAE  # noqa: E402

_CACHE = 1 << 30  # as `ipa_mlx.backend.load` sets it on a CPU


def random_vae() -> Vae:
    """Gaussian weights that keep activations alive, evaluated; the same ones in every process."""
    vae = Vae(VaeSpec.from_config(VAE | {"sample_size": 512}))
    mx.random.seed(3)

    def draw(name: str, array: mx.array) -> mx.array:
        noise = mx.random.normal(array.shape)
        fan = array.size // array.shape[0]
        scale = float(name.endswith("weight"))  # of a norm, around 1
        weight = noise / fan**0.5 if array.ndim > 1 else 0.2 * noise + scale
        mx.eval(weight)  # one by one: a peak of memory here would be that of the process
        return weight

    vae.update(tree_map_with_path(draw, vae.parameters()))
    mx.clear_cache()
    return vae


def main() -> None:
    """Decode one picture and print a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1024, help="of the picture, pixels")
    parser.add_argument("--tile", type=int, default=512, help="0 is the whole picture")
    parser.add_argument("--keep", type=Path, help="write the picture here (.npy)")
    parser.add_argument("--against", type=Path, help="PSNR against such a file")
    arguments = parser.parse_args()
    mx.set_cache_limit(_CACHE)
    vae = random_vae()
    size = sum(array.nbytes for _, array in tree_flatten(vae.parameters()))
    side = arguments.side // vae.spec.scale_factor
    latents = mx.array(np.random.default_rng(7).standard_normal((1, side, side, 4), np.float32))
    mx.eval(latents)
    mx.reset_peak_memory()
    began = time.perf_counter()
    tiling = Tiling(arguments.tile or False, vae.spec)
    picture = decode(vae, latents * vae.spec.scaling_factor, [], wide=False, tiling=tiling)
    seconds = time.perf_counter() - began
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = [f"{arguments.side}²", f"tile {arguments.tile or 'none'}", f"{seconds:.1f} s"]
    row += [f"weights {size / 1e9:.2f} GB", f"MLX {mx.get_peak_memory() / 1e9:.2f} GB"]
    row += [f"process {resident / 1e9:.2f} GB"]
    if arguments.against:
        error = np.mean(np.square(picture - np.load(arguments.against), dtype=np.float64))
        with np.errstate(divide="ignore"):  # the same picture
            row.append(f"PSNR {-10 * np.log10(error):.1f} dB")
    if arguments.keep:
        np.save(arguments.keep, picture)
    print(", ".join(row))


if __name__ == "__main__":
    main()
