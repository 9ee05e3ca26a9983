"""`make bench-conversion`: converting whole checkpoints at their true sizes, against copying them.

Random weights in the original names, each tensor another one. Each round copies the file (read,
write, flush to the disk) and converts it, in turn; what counts is the median of the ratios. Then
the result is verified. SD1.5 in float16 is loaded on MLX as well, against reading the same bytes
into new memory, MLX's own reading of them, and diffusers' loading of the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

import numpy as np

from oracle import true_shapes
from oracle.containers import entry

_BLOCK = 1 << 24  # weights of the random block that all tensors are cut from
_CHUNK = 16 << 20  # bytes
KINDS = {"sd15": np.float32, "sdxl": np.float16}

# The system's own mark of a process counts what it inherited from its parent; Linux has another.
_PEAK = """
def peak():
    try:
        status = open("/proc/self/status").read()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # a Mac counts in bytes
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
"""
_CONVERT = """
import json, resource, sys, time
from pathlib import Path
start = time.perf_counter()
from ipa.sources.models import resolve_model
import ipa_convert
model = resolve_model(Path(sys.argv[1]))
ipa_convert.convert_model(model, Path(sys.argv[2]), dtype=sys.argv[3] or None, layout=sys.argv[4])
print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak()}))
"""
_LOAD = """
import json, resource, sys, time
start = time.perf_counter()
import ipa
import mlx.core as mx
base = peak()
ready = time.perf_counter()
used = resource.getrusage(resource.RUSAGE_SELF)
pipe = ipa.load(sys.argv[1], backend="mlx", dtype=sys.argv[2])
done = time.perf_counter()
now = resource.getrusage(resource.RUSAGE_SELF)
residency = pipe._loaded.backend.residency
found = {
    "seconds": done - ready,
    "user": now.ru_utime - used.ru_utime,
    "system": now.ru_stime - used.ru_stime,
    "imports": ready - start,
    "peak": peak() - base,
    "mlx_peak": mx.get_peak_memory(),
}
residency.release(list(residency.parts()))
start = time.perf_counter()
for network in pipe._loaded.backend.networks.values():
    network.get()
print(json.dumps(found | {"again": time.perf_counter() - start}))
"""
_DIFFUSERS = """
import json, resource, sys, time
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel
kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
base, ready = peak(), time.perf_counter()
parts = [
    kind.from_pretrained(f"{sys.argv[1]}/{name}", torch_dtype=torch.float16)
    for name, kind in kinds.items()
]
print(json.dumps({"seconds": time.perf_counter() - ready, "peak": peak() - base}))
"""


_MX_LOAD = """
import json, resource, sys, time
import mlx.core as mx
ready = time.perf_counter()
arrays = [mx.load(path) for path in sys.argv[1:]]
mx.eval(arrays)
print(json.dumps({"seconds": time.perf_counter() - ready}))
"""


def write_random(path: Path, base: str) -> int:
    """A single file of random weights; returns its bytes."""
    kind = np.dtype(KINDS[base])
    tag = {2: "F16", 4: "F32"}[kind.itemsize]
    block = (np.random.default_rng(1).standard_normal(_BLOCK, np.float32) * 0.02).astype(kind)
    header, position = {}, 0
    shapes = true_shapes.single_file(base)
    for name, shape in shapes.items():
        end = position + prod(shape) * kind.itemsize
        header[name] = entry(tag, shape, position, end)
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, shape in enumerate(shapes.values()):
            left, start = prod(shape), number * 7919 % (_BLOCK // 2)
            while left:
                piece = block[start : start + left]
                file.write(piece.data)
                left, start = left - piece.size, (start + 104_729) % (_BLOCK // 2)
    return path.stat().st_size


def copy(source: Path, target: Path) -> float:
    """Seconds for the same bytes: read, written, flushed."""
    start = time.perf_counter()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return time.perf_counter() - start


def child(code: str, *arguments: str) -> dict[str, float]:
    """What a process of its own measured."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + code, *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_conversion(source: Path, work: Path, rounds: int, dtype: str) -> dict[str, object]:
    """Interleaved rounds of copying and converting."""
    rows = []
    for _ in range(rounds):
        seconds = copy(source, work / "copy")
        (work / "copy").unlink()
        shutil.rmtree(work / "converted", ignore_errors=True)
        rows.append((seconds, child(_CONVERT, str(source), str(work / "converted"), dtype, "mlx")))
    return {
        "copy_s": [round(seconds, 1) for seconds, _ in rows],
        "convert_s": [round(found["seconds"], 1) for _, found in rows],
        "ratio": round(statistics.median(f["seconds"] / s for s, f in rows), 2),
        "peak_rss_mb": round(max(found["peak"] for _, found in rows) / 1e6),
    }


def measure_loading(folder: Path, original: Path, rounds: int, dtype: str) -> dict[str, object]:
    """Interleaved rounds of reading the bytes into new memory, of MLX's own reading of the files,
    of diffusers' loading, and of loading the model, each in a process of its own, all from the page
    cache. Ratios are of the quickest of each."""
    files = sorted(folder.glob("*/*.safetensors"))
    total = sum(path.stat().st_size for path in files)
    rows = []
    for _ in range(rounds):
        start = time.perf_counter()
        read = [np.fromfile(path, np.uint8) for path in files]
        floor = time.perf_counter() - start
        del read
        peer = child(_MX_LOAD, *map(str, files))["seconds"]
        theirs = child(_DIFFUSERS, str(original))["seconds"]
        rows.append((floor, peer, theirs, child(_LOAD, str(folder), dtype)))
    best = [min(row[n] for row in rows) for n in range(3)]
    ours = {key: min(found[key] for *_, found in rows) for key in rows[0][3]}
    return {
        "bytes": total,
        "read_s": [round(row[0], 2) for row in rows],
        "mx_load_s": [round(row[1], 2) for row in rows],
        "diffusers_s": [round(row[2], 2) for row in rows],
        "load_s": [round(found["seconds"], 2) for *_, found in rows],
        "load_again_s": [round(found["again"], 2) for *_, found in rows],
        "load_user_s": round(ours["user"], 2),
        "load_system_s": round(ours["system"], 2),
        "load_over_read": round(ours["seconds"] / best[0], 2),
        "load_over_mx_load": round(ours["seconds"] / best[1], 2),
        "load_over_diffusers": round(ours["seconds"] / best[2], 2),
        "again_over_read": round(ours["again"] / best[0], 2),
        "import_s": round(statistics.median(found["imports"] for *_, found in rows), 2),
        "peak_rss_over_bytes": round(max(found["peak"] for *_, found in rows) / total, 2),
        "mlx_peak_over_bytes": round(max(found["mlx_peak"] for *_, found in rows) / total, 2),
    }


def verified(source: Path, folder: Path, dtype: str) -> int:
    """How many tensors of a conversion were compared with their source; all are right."""
    from ipa.sources.models import resolve_model
    from ipa_convert import verify_model

    return verify_model(resolve_model(source), resolve_model(folder), dtype=dtype or None)


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", nargs="+", default=["sd15", "sdxl"], choices=sorted(KINDS))
    parser.add_argument("--loading", action="store_true", help="load alone, SD1.5's")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="", help="of the conversion; as stored by default")
    options = parser.parse_args()
    for base in options.bases:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            source = work / f"{base}.safetensors"
            found: dict[str, object] = {"base": base, "bytes": write_random(source, base)}
            if not options.loading:
                found |= measure_conversion(source, work, options.rounds, options.dtype)
                found["tensors_verified"] = verified(source, work / "converted", options.dtype)
                shutil.rmtree(work / "converted")
            if base == "sd15":
                child(_CONVERT, str(source), str(work / "converted"), "float16", "mlx")
                child(_CONVERT, str(source), str(work / "original"), "float16", "diffusers")
                found["load_float16"] = measure_loading(
                    work / "converted", work / "original", options.rounds, "float16"
                )
            print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
