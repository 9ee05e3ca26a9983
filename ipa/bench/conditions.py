"""What a measurement ran under: the machine, its load, its power."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .rounds import Turn

_SUPPLIES = Path("/sys/class/power_supply")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_PMSET = "/usr/bin/pmset"
SWITCHES = (
    "IPA_MLX_CONV_ROUTE",
    "MLX_CONV_WINOGRAD",
    "MLX_SDPA_PAD_HEAD_DIM",
    "MLX_DISABLE_COMPILE",
)
"""Environment variables that change what runs on MLX."""


def conditions(turns: Sequence[Turn], before: Mapping[str, str]) -> dict[str, str]:
    """Facts by name, in words: what the processes told, load and power before and after."""
    facts: dict[str, str] = {}
    for turn in turns:
        told: Mapping[str, Any] = turn.outcome.found.get("facts", {})
        framework = turn.group[0].framework
        for name, fact in told.items():
            own = name if name != "device" else f"{framework} {name}"
            facts.setdefault(own, str(fact))
    now = state()
    both = {name: _change(before.get(name, ""), now[name]) for name in now}
    is_mlx = any(turn.group[0].framework == "mlx" for turn in turns)
    switches = {name: os.environ.get(name, "not set") for name in SWITCHES if is_mlx}
    return facts | switches | both


def state() -> dict[str, str]:
    """What changes: the load of the last minute, and power where the system tells it."""
    found = {"load": f"{os.getloadavg()[0]:.1f}"}
    power = "; ".join(_power())
    return found | ({"power": power} if power else {})


def _power() -> Iterator[str]:
    if sys.platform == "darwin":
        yield from _of_mac(_said("-g", "batt"), _said("-g"), _said("-g", "therm"))
        return
    for supply in sorted(_SUPPLIES.glob("*/online")):
        yield f"{supply.parent.name} {'on' if _text(supply) == '1' else 'off'}"
    if _GOVERNOR.is_file():
        yield f"governor {_text(_GOVERNOR)}"


def _of_mac(battery: str, settings: str, thermal: str) -> Iterator[str]:
    """What `pmset` says: the source, low power mode, and a limit of the processor's speed."""
    source = re.search(r"drawing from '([^']+)'", battery)
    if source:
        yield source.group(1)
    if re.search(r"lowpowermode\s+1", settings):
        yield "low power mode"
    limit = re.search(r"CPU_Speed_Limit\s*=\s*(\d+)", thermal)
    if limit and limit.group(1) != "100":
        yield f"held to {limit.group(1)} % of its speed"


def _said(*words: str) -> str:
    try:
        done = subprocess.run([_PMSET, *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""


def _change(before: str, after: str) -> str:
    return after if before in ("", after) else f"{before}, then {after}"
