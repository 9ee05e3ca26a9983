"""What a run ran on: chip, system, versions, settings that change numbers. Nothing is imported."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ipa.version import __version__

PACKAGES = ("numpy", "mlx", "torch", "diffusers", "transformers", "peft")
"""The packages whose versions are recorded, if they are installed."""

VARIABLES = (
    *("NVIDIA_TF32_OVERRIDE", "PYTORCH_ENABLE_MPS_FALLBACK"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("MKL_CBWR", "ATEN_CPU_CAPABILITY", "OMP_WAIT_POLICY"),
)
"""Environment variables that change numbers or threads; those that are set are recorded."""

_CPUINFO = Path("/proc/cpuinfo")


def environment(described: Mapping[str, Any]) -> dict[str, str]:
    """Facts of the machine by name, in words.

    Args:
        described: `Result.info` or `Pipeline.info()`: device, BLAS and quantisation are told there.
    """
    facts = {
        "chip": _chip(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "memory": _memory(),
        **dict(_versions()),
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
        **_mlx_facts(),
        **_torch_facts(),
    }
    for name in ("device", "blas"):
        if described.get(name):
            facts[name] = str(described[name])
    bits = {part: how["bits"] for part, how in (described.get("quantization") or {}).items()}
    if bits:
        facts["quantised"] = ", ".join(f"{part}: {number} bits" for part, number in bits.items())
    return facts


def _chip() -> str:
    """The processor's own name where the system tells it."""
    if _CPUINFO.is_file():
        lines = _CPUINFO.read_text("utf-8", "replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    """The machine's memory; "unknown" on a system without the names for it."""
    is_told = {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= os.sysconf_names.keys()
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if is_told else 0
    return f"{size / 2**30:.0f} GiB" if size else "unknown"


def _versions() -> Iterator[tuple[str, str]]:
    import importlib.metadata  # with all of email: 30 ms that `ipa-mlx --help` need not wait for

    yield "ipa-mlx", __version__
    for package in PACKAGES:
        try:
            yield package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue


def _mlx_facts() -> dict[str, str]:
    """Facts of MLX, if it runs already; on a CPU the setting changes nothing."""
    if "mlx.core" not in sys.modules:
        return {}
    return {"MLX_ENABLE_TF32": os.environ.get("MLX_ENABLE_TF32", "1, its default")}


def _torch_facts() -> dict[str, str]:
    """Facts of torch, if it runs already."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {}
    facts = {
        "torch threads": str(torch.get_num_threads()),
        "torch TF32 of matrices": str(torch.backends.cuda.matmul.allow_tf32),
        "torch BLAS": torch.__config__.show().partition("BLAS_INFO=")[2].partition(",")[0],
    }
    if torch.cuda.is_available():
        facts["GPU"] = torch.cuda.get_device_name()
        facts["CUDA"] = str(torch.version.cuda)
    return {name: value for name, value in facts.items() if value}
