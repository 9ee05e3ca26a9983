"""A comparison for machines: plain values, ready for JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from .comparison import Comparison
from .verdict import BadKind


def json_report(comparison: Comparison) -> dict[str, Any]:
    """All numbers; those that are not finite are None (a PSNR of equal arrays is). No pixels."""
    of, shown = comparison.verdict, comparison.pictures
    likeness = None
    if shown is not None:
        likeness = {name: getattr(shown, name) for name in ("psnr_db", "ssim", "clip_cosine")}
    report = {
        "verdict": of.sentence,
        "ok": of.ok,
        "first_bad": None if of.first is None else of.first.stage,
        "worst": None if of.worst is None else of.worst.stage,
        "kinds": [_kind(kind) for kind in of.kinds],
        "notes": list(comparison.notes),
        "mode": comparison.mode,
        "a": asdict(comparison.a),
        "b": asdict(comparison.b),
        "request": comparison.request,
        "pictures": likeness,
        "swaps": [asdict(swap) for swap in comparison.swaps],
        "unswapped": comparison.unswapped,
        "only_a": list(comparison.only_a),
        "only_b": list(comparison.only_b),
        "stages": [asdict(one) | {"ratio_to_floor": one.ratio} for one in comparison.differences],
    }
    plain: dict[str, Any] = _plain(report)
    return plain


def _kind(kind: BadKind) -> dict[str, Any]:
    worst = kind.worst
    return {
        "name": kind.name,
        "count": kind.count,
        "first": kind.first.stage,
        "worst": worst.stage,
        "relative_l2": worst.measures.relative_l2,
        "ratio_to_floor": worst.ratio,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
