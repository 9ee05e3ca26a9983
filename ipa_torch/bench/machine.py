"""The machine as torch sees it: its rate of matrix products, and memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ipa.arrays import Floats
from ipa_torch.backend import TorchBackend
from ipa_torch.files.weights import DTYPES, find_device


def tensor(array: Floats, backend: TorchBackend) -> torch.Tensor:
    """An array of a backend's precision, on its device."""
    return torch.tensor(array, device=backend.device).to(DTYPES[backend.dtype])


def product(shape: tuple[int, int, int], dtype: str, device: str | None) -> Callable[[int], None]:
    """A function that multiplies matrices (a, b) · (b, c) so many times, and waits for them."""
    rows, inner, columns = shape
    place, precision = find_device(device), DTYPES[dtype]
    left = torch.randn(rows, inner).to(place, precision)
    right = torch.randn(inner, columns).to(place, precision)

    @torch.inference_mode()
    def run(count: int) -> None:
        made = [left @ right for _ in range(count)]
        made[-1][0, 0].item()

    return run


def held_bytes(device: str | None) -> int | None:
    """Bytes of tensors that there are now; None where torch does not count."""
    place = find_device(device)
    return int(torch.cuda.memory_allocated(place)) if place.startswith("cuda") else None


def wait(device: str | None) -> None:
    """Wait until everything that was asked for is computed."""
    place = find_device(device)
    if place.startswith("cuda"):
        torch.cuda.synchronize(place)
    elif place.startswith("mps"):
        torch.mps.synchronize()


def peak_bytes(device: str | None) -> int | None:
    """The most bytes of tensors since `reset_peak`; None where torch does not count."""
    place = find_device(device)
    return int(torch.cuda.max_memory_allocated(place)) if place.startswith("cuda") else None


def reset_peak(device: str | None) -> None:
    """Count the peak anew."""
    place = find_device(device)
    if place.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(place)
