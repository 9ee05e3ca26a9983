"""Settings that torch's libraries read once from the environment, made while torch starts.

Without it, MKL's products have other bits where their operands lie otherwise in memory, so that one
request gives two pictures; and the threads of OpenMP wait for one another by spinning, which beside
other busy programs takes many times as long. Whatever the user has set stands.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Any mode gives the same bits at every alignment, for one number of threads; AUTO keeps the fastest
# kernels: measured on AVX2, no slower than without, where COMPATIBLE takes 2 to 7 times as long.
_PRODUCTS = {"MKL_CBWR": "AUTO"}
# Read when the library is loaded. Measured with libgomp; on a Mac torch brings another.
_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"} if sys.platform == "linux" else {}
_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by any of which the user says how threads wait."""


@functools.cache
def start() -> None:
    """Load torch, with reproducible products and threads that sleep while they wait.

    A program that has loaded torch has chosen how threads wait, one that has multiplied matrices
    whether products are reproducible.
    """
    threads = {} if any(map(os.environ.get, _CHOSEN)) else _THREADS
    with _said(threads | _PRODUCTS):
        import torch

        torch.ones(8, 8) @ torch.ones(8, 8)  # MKL asks at its first product


def has_steady_products() -> bool:
    """Whether a product has the same bits wherever its operands lie, by trial."""
    import torch

    for dtype in (torch.float32, torch.float64):
        rows = torch.linspace(-1, 1, 16 * 40).to(dtype).sin().reshape(16, 40)
        weight = torch.linspace(1, 3, 40 * 40).to(dtype).cos().reshape(40, 40)
        room = torch.empty(rows.numel() + 16, dtype=dtype)
        expected = torch.nn.functional.linear(rows, weight)
        for offset in range(16):
            shifted = room[offset : offset + rows.numel()].view_as(rows).copy_(rows)
            if not torch.equal(torch.nn.functional.linear(shifted, weight), expected):
                return False
    return True


@contextmanager
def _said(settings: dict[str, str]) -> Iterator[None]:
    """A context: the environment with settings that the user left open."""
    missing = {name: os.environ.get(name) for name in settings if not os.environ.get(name)}
    os.environ.update({name: settings[name] for name in missing})
    try:
        yield
    finally:
        for name, value in missing.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
