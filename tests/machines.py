"""`make test-machines`: what rests on bits once more, as other processors and other users compute.

A green suite says something about the machine that it ran on. Libraries choose their kernels by the
processor, and can be told to take those of another one; so each setting stands for a machine.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "without AVX": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OMP_NUM_THREADS": "1",
    },
    "AVX2, 2 threads": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AUTO",
        "OMP_NUM_THREADS": "2",
    },
    "more threads than cores": {"MKL_CBWR": "AVX2", "OMP_NUM_THREADS": "4"},
    "MLX's own BLAS": {"IPA_TESTS_BLAS": "own", "OMP_NUM_THREADS": "1"},
}
"""What a process is told; a setting that a library does not know changes nothing."""

CHOSEN = (
    "laws/test_laws.py",
    "laws/test_control_kinds.py",
    "laws/test_t2i_adapters.py",
    "backend_torch/test_attention.py",
    "backend_torch/test_stages.py",
)
"""Both backends against themselves, and torch against diffusers, bit for bit."""

WIDTHS = (
    "prepare/samplers/test_noise.py",
    "prepare/samplers/test_custom_steps.py::test_timesteps_equal_diffusers",
    "prepare/samplers/test_samplers.py::test_whole_runs_equal_diffusers",
    "prepare/samplers/test_samplers.py::test_eta_equals_diffusers",
    "prepare/scaling/test_masks.py::test_downsample_is_diffusers",
    "prepare/scaling/test_mask_rules.py::test_latent_grid_is_comfyuis",
    "trajectories/test_vae_tiles.py::test_encoding",
    "convert/lora/test_lora.py::test_pefts_configuration",
    "convert/lora/test_lora.py::test_diffusers_fuses_the_same[kohya-sdxl]",
)
"""Ours against judges whose last bits rest on how wide the processor's vectors are."""

FEWER = {"MLX's own BLAS": ("laws/test_control_kinds.py",)}
"""Where all of them take long."""


def main() -> int:
    """All settings, also after one that fails; how long each took."""
    parser = argparse.ArgumentParser(prog="make test-machines")
    parser.add_argument("--only", choices=SETTINGS, action="append", help="one of the settings")
    parser.add_argument("tests", nargs="*", help="instead of those chosen")
    options = parser.parse_args()
    folder = Path(__file__).parent
    ended = {}
    for name in options.only or SETTINGS:
        began = time.monotonic()
        wider = WIDTHS if "ATEN_CPU_CAPABILITY" in SETTINGS[name] else ()
        tests = [str(folder / chosen) for chosen in (*FEWER.get(name, CHOSEN), *wider)]
        ended[name] = _run(SETTINGS[name], options.tests or tests)
        print(f"{name}: exit {ended[name]}, {time.monotonic() - began:.0f} s", flush=True)
    return int(any(ended.values()))


def _run(setting: Mapping[str, str], tests: list[str]) -> int:
    words = ["-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", *tests]
    command = [sys.executable, "-m", "pytest", *words]
    return subprocess.run(command, env=os.environ | setting, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
