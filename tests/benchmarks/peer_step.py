"""`python -m benchmarks.peer_step`: one evaluation of SD1.5's UNet, ours and the MLX examples'.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.peer_step --peer FOLDER --side 32

Float32 on a CPU, both halves of guidance, random weights, the same BLAS, interleaved. What counts
is the least processor time of the rounds, which other programs disturb less than a clock; on an
idle machine the ratio of wall times is the same question with all threads. `--default-config` takes
the examples' UNet as its config class has it by default, which has no attention at the finest level
of the way up and three at the coarsest: earlier figures were of that one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import peer
from ipa import bases
from ipa.model.unet import UNetSpec
from ipa_mlx.blas import preload

ROWS, TEXT = 2, 77


def ours(side: int) -> Callable[[], Any]:
    """One evaluation of ours; keys and values of the text are there already, as in a run."""
    import mlx.core as mx

    from ipa_mlx.conditioning import Conditioning
    from ipa_mlx.networks.unet import UNet
    from ipa_mlx.networks.weights import keep_freed
    from ipa_mlx.prediction import Network, predict

    keep_freed()
    path = bases.folder("sd15") / "unet" / "config.json"
    unet = UNet(UNetSpec.from_config(json.loads(path.read_text("utf-8"))))
    text = mx.random.normal((ROWS, TEXT, 768))
    pairs = tuple(site.keys_values(text) for site in unet.cross_attentions)
    conditioning = Conditioning(ROWS, pairs, ())
    x = mx.random.normal((1, side, side, 4))
    mx.eval(unet.parameters(), x, *conditioning.arrays())
    return lambda: mx.eval(predict(Network(unet), x, 501.0, conditioning, [], None))


def theirs(side: int, folder: Path, config: dict[str, Any]) -> Callable[[], Any]:
    """One evaluation of the MLX examples' UNet, as their pipeline calls it."""
    import mlx.core as mx

    unet = peer.unet(folder, "sd15", config)
    text = mx.random.normal((ROWS, TEXT, 768))
    x, timestep = mx.random.normal((1, side, side, 4)), mx.array([501.0] * ROWS)
    mx.eval(unet.parameters(), x, text)
    return lambda: mx.eval(unet(mx.concatenate([x] * ROWS), timestep, text))


def measured(run: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the processor and by the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - processor, time.perf_counter() - clock


def main() -> None:
    """Print the least and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--side", type=int, default=32, help="of the latents")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--default-config", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("MLX_DISABLE_COMPILE", "1")  # both: it would start a C++ compiler
    blas = preload()
    given = {k: v for k, v in peer.CONFIGS["sd15"].items() if k != "up_block_types"}
    config = given if options.default_config else peer.CONFIGS["sd15"]
    runs = {"ours": ours(options.side), "theirs": theirs(options.side, options.peer, config)}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            found = measured(run)
            if number:
                times[name].append(found)
    print(f"latents {options.side}², {options.rounds} rounds, BLAS {blas or 'of the MLX wheel'}")
    for place, kind in enumerate(("processor", "clock")):
        least = {name: min(pair[place] for pair in found) for name, found in times.items()}
        shown = ", ".join(f"{name} {value:.2f} s" for name, value in least.items())
        print(f"{kind}: {shown}, ours / theirs {least['ours'] / least['theirs']:.2f}")


if __name__ == "__main__":
    main()
