"""A summary of a run in a line, for a person who wants it again, longer or smaller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.filesize import decimal


def summary(info: Mapping[str, Any]) -> str:
    """A run's summary from `Result.info`: `seed 0, 8 steps, 0.9 s, 0.4 GB`.

    Seconds are those of encoding, steps and decoding; bytes the most that the backend held, where
    it knows.
    """
    request = info["request"]
    seeds = list(dict.fromkeys(request["seeds"]))
    steps = request["num_inference_steps"]
    facts = [
        f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}",
        f"{steps} step{'s' if steps != 1 else ''}",
        f"{sum(info['timings_s'].values()):.1f} s",
    ]
    peak = info.get("peak_memory_bytes")
    return ", ".join([*facts, *([decimal(peak)] if peak else ())])
