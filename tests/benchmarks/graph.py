"""`python -m benchmarks.graph`: the kernels that one evaluation of the UNet asks of Metal.

    PYTHONPATH=tests .venv/bin/python -m benchmarks.graph --peer FOLDER

Nothing is computed and no weights are needed, so it runs anywhere. SD1.5 at 64² latents and SDXL at
128², both halves of guidance, float16: plain, and compiled as a run on a GPU has it, without and
with image prompts; and the UNet of Apple's MLX examples, counted by the same table. Then MLX's
class of every convolution and attention, and Python's milliseconds to build a step's graph.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks import peer
from ipa import bases
from ipa.model.unet import UNetSpec
from ipa_mlx.device import Device, writing_for
from ipa_mlx.graph.counts import Counts, counts
from ipa_mlx.graph.steps import StepShape, step_graph, stepper
from ipa_mlx.graph.tracing import hollow, like, trace

SIDES: dict[bases.Base, int] = {"sd15": 64, "sdxl": 128}
PROMPTS = {
    "no image prompt": (),
    "1 base": (4,),
    "1 plus": (16,),
    "4 base": (4,) * 4,
    "4 plus": (16,) * 4,
}
# Of the commit before this table was made, by the same table: operations and launches.
BEFORE = {
    "sd15": {"no image prompt": (1981, 2115), "1 base": (2044, 2206)},
    "sdxl": {"no image prompt": (2501, 2621), "1 base": (2781, 2901)},
}


def spec_of(base: bases.Base) -> UNetSpec:
    """The spec of a public base."""
    path = bases.folder(base) / "unet" / "config.json"
    return UNetSpec.from_config(json.loads(path.read_text("utf-8")))


def rows(base: bases.Base, folder: Path | None) -> Iterator[tuple[str, Counts]]:
    """Every row of a base's table, by its title."""
    spec, side = spec_of(base), SIDES[base]
    for name, tokens in PROMPTS.items():
        for compiled in (False, True):
            graph = step_graph(spec, StepShape(side, side, prompts=tokens), compiled=compiled)
            yield f"{name}, {'compiled' if compiled else 'plain'}", counts(graph)
    if folder is not None:
        yield "the MLX examples' UNet", of_peer(folder, base, spec, side)


def of_peer(folder: Path, base: bases.Base, spec: UNetSpec, side: int) -> Counts:
    """The counts of the MLX examples' UNet, which they run as it is."""
    module = peer.unet(folder, base)
    hollow(module, mx.float16)
    given = [
        like((2, side, side, 4), mx.float16),
        like((2,), mx.float32),
        like((2, 77, spec.context_width), mx.float16),
    ]
    if base == "sdxl":
        given += [like((2, 1280), mx.float16), like((2, 6), mx.float32)]

    def run(x: mx.array, t: mx.array, text: mx.array, *added: mx.array) -> Any:
        return module(x, t, text, text_time=added or None)

    return counts(trace(run, *given, module=module))


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """The least time of a call on its own thread; it evaluates nothing."""
    best = float("inf")
    for _ in range(repeats):
        began = time.thread_time()
        run()
        best = min(best, time.thread_time() - began)
    return 1000 * best


def python_times(base: bases.Base, repeats: int) -> dict[str, float]:
    """Milliseconds of Python that build a step's graph, with an image prompt and without."""
    found = {}
    for name in ("no image prompt", "1 plus"):
        shape = StepShape(SIDES[base], SIDES[base], prompts=PROMPTS[name])
        for device, compiled in ((Device.CPU, False), (Device.METAL, False), (Device.METAL, True)):
            with writing_for(device):
                run = stepper(spec_of(base), shape, compiled=compiled)
                title = f"{name}, {device.value}{', compiled' if compiled else ''}"
                found[title] = milliseconds(run, repeats)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="where diffuse-mlx was installed")
    parser.add_argument("--repeats", type=int, default=20, help="of Python's times")
    parser.add_argument("--json", type=Path, help="write all counts here, too")
    options = parser.parse_args()
    record: dict[str, Any] = {}
    for base in SIDES:
        table = dict(rows(base, options.peer))
        times = python_times(base, options.repeats)
        record[base] = {name: row.record() for name, row in table.items()} | {"python ms": times}
        print(f"\n{base}, latents {SIDES[base]}², guided, float16, on Metal")
        print(f"{'':36s}{'operations':>12s}{'launches':>10s}  launches by kind")
        for name, (operations, launched) in BEFORE[base].items():
            print(f"{f'before (c12562b), {name}':36s}{operations:12d}{launched:10d}")
        for name, row in table.items():
            kinds = ", ".join(f"{kind} {count}" for kind, count in row.kernels.items())
            print(f"{name:36s}{row.operations:12d}{row.launches:10d}  {kinds}")
        print("classes: " + ", ".join(f"{k} {n}" for k, n in row_of(table).classes.items()))
        shares = ", ".join(f"{k} {share:.0%}" for k, share in row_of(table).shares.items())
        print(f"multiply-adds of convolutions: {shares}")
        print("Python: " + ", ".join(f"{k} {t:.1f} ms" for k, t in times.items()))
    if options.json:
        options.json.write_text(json.dumps(record, indent=2))


def row_of(table: dict[str, Counts]) -> Counts:
    """Ours, without an image prompt."""
    return table["no image prompt, plain"]


if __name__ == "__main__":
    main()
