"""What facts of a machine mean for numbers and for speed, and what to do."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping

_TF32_ON = (
    "MLX_ENABLE_TF32 is {0}: GPUs that have TF32 (Apple's from M5 on, NVIDIA's) multiply float32 "
    "matrices with the precision of float16, and float32 was judged by that. Set it to 0, before "
    "the program starts, where float32 is to be exact."
)
_TF32_OFF = (
    "This check ran with MLX_ENABLE_TF32=0. It is on by default: GPUs that have TF32 (Apple's from "
    "M5 on, NVIDIA's) then multiply float32 matrices with the precision of float16."
)
_SLOW_BLAS = (
    "MLX's Linux wheel carries a slow BLAS, and nothing faster was found: run `ipa-mlx "
    "accelerate`, which needs a C compiler, or install OpenBLAS (libopenblas0)."
)
_MPS = (
    "torch computes on MPS, which is not the reference: operators differ from the CPU's by more "
    "than rounding now and then, and there is no float64. `--device cpu` is the reference."
)
_FALLBACK = "PYTORCH_ENABLE_MPS_FALLBACK is set: some operators run on the CPU without a word."
_TORCH_TF32 = (
    "torch may multiply float32 matrices in TF32 (torch.backends.cuda.matmul.allow_tf32): float32 "
    "is then no better than float16. Set it to False."
)
_ON_CPU = "MLX computes on the CPU of this Mac, not on its GPU: something set the default device."
_INTEL = (
    "This Python is built for Intel and runs translated: MLX needs one that is built for arm64 "
    "(`python -c 'import platform; print(platform.machine())'` says which)."
)
_UNSTEADY = (
    "The bits of a product of matrices depend on where memory lies, so that one request can give "
    "two pictures, a rounding apart: where torch has MKL, set MKL_CBWR to AUTO before the program "
    "starts."
)
_ONE_THREAD = "OMP_NUM_THREADS is 1: torch computes on one core."


def has_tf32(facts: Mapping[str, str]) -> bool:
    """Whether MLX's float32 may be TF32 here."""
    return "gpu" in facts.get("device", "") and facts.get("MLX_ENABLE_TF32", "0") != "0"


def notes(backend: str, facts: Mapping[str, str], *, tf32_set_off: bool) -> Iterator[str]:
    """Notes for a person on the facts of a machine.

    Args:
        backend: "mlx" or "torch".
        facts: See `ipa.parity.capture.environment`.
        tf32_set_off: Whether this program did that for the check.
    """
    device, is_mac = facts.get("device", ""), sys.platform == "darwin"
    if is_mac and platform.machine() == "x86_64":
        yield _INTEL
    if backend == "mlx":
        if has_tf32(facts):
            yield _TF32_ON.format(facts["MLX_ENABLE_TF32"])
        elif tf32_set_off and "gpu" in device:
            yield _TF32_OFF
        if "cpu" in device and is_mac:
            yield _ON_CPU
        if "slow" in facts.get("BLAS", ""):
            yield _SLOW_BLAS
        return
    if device.startswith("mps"):
        yield _MPS
        if "PYTORCH_ENABLE_MPS_FALLBACK" in facts:
            yield _FALLBACK
    if device.startswith("cuda") and facts.get("torch TF32 of matrices") == "True":
        yield _TORCH_TF32
    if device == "cpu" and facts.get("OMP_NUM_THREADS") == "1":
        yield _ONE_THREAD
    if device == "cpu" and "vary" in facts.get("products", ""):
        yield _UNSTEADY
