"""What the machine can give: its memory, and the share of it that "auto" means."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

RECOMMENDED_SHARE = 0.9
"""The share of a GPU's recommended working set that "auto" takes.

Metal recommends about two thirds of a small Mac's memory and three quarters of a large one's.
"""

AVAILABLE_SHARE = 0.8
"""The share of the memory that is free, where nothing is recommended."""

_MEMINFO = Path("/proc/meminfo")
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_GROUP_USED = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """A machine's memory in bytes.

    Attributes:
        total: Of the machine, or of the container or GPU that the run is in.
        available: What is free, or can be made so without swapping.
        recommended: The GPU's recommended working set, where it is told (Metal's
            max_recommended_working_set_size); None elsewhere.
    """

    total: int
    available: int
    recommended: int | None = None

    @property
    def automatic(self) -> int:
        """What "auto" means: 90 % of what is recommended, or else 80 % of what is free."""
        if self.recommended is not None:
            return int(self.recommended * RECOMMENDED_SHARE)
        return int(self.available * AVAILABLE_SHARE)

    @property
    def automatic_words(self) -> str:
        """How that figure came about."""
        if self.recommended is not None:
            return f"{RECOMMENDED_SHARE:.0%} of the GPU's recommended working set"
        return f"{AVAILABLE_SHARE:.0%} of the memory that is free"


def system_memory() -> MachineMemory:
    """The memory of the system, or of the container (cgroup) that limits it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = _available(total)
    limit = _number(_GROUP_LIMIT)
    if limit is not None and limit < total:
        total = limit
        available = min(available, max(0, limit - (_number(_GROUP_USED) or 0)))
    return MachineMemory(total, available)


def _available(total: int) -> int:
    """Linux says; elsewhere nothing but an estimate is to be had without a library."""
    try:
        lines = _MEMINFO.read_text("ascii").splitlines()
    except OSError:
        return total * 3 // 4
    found = (line.split() for line in lines if line.startswith("MemAvailable:"))
    return next((int(words[1]) * 1024 for words in found), total * 3 // 4)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None
