"""Reports for programs: JSON, and JUnit with a test for each stage."""

from __future__ import annotations

import math
from dataclasses import asdict
from itertools import groupby
from typing import Any
from xml.etree import ElementTree

from ipa.backend.stages import split
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.measures import METRICS, Difference
from ipa.parity.compare.verdict import BadKind, short

_DIGITS = 3


def json_report(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON; numbers that are not finite are None. No pixels."""
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


def junit(comparison: Comparison) -> bytes:
    """A comparison as JUnit XML: a suite for each phase, a case for each stage."""
    root = ElementTree.Element("testsuites", name=comparison.verdict.sentence)
    for phase, group in groupby(comparison.differences, lambda one: split(one.stage)[0]):
        cases = list(group)
        suite = _suite(root, phase, len(cases), sum(one.bad for one in cases))
        for one in cases:
            _case(suite, one)
    alone = dict.fromkeys(comparison.only_a, comparison.a.name)
    alone |= {stage: comparison.b.name for stage in comparison.only_b if stage not in alone}
    if alone:
        suite = _suite(root, "of one run alone", len(alone), 0, skipped=len(alone))
        for stage, name in alone.items():
            case = ElementTree.SubElement(suite, "testcase", classname="alone", name=stage)
            ElementTree.SubElement(case, "skipped", message=f"of {name} alone, or not comparable")
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
    return written


def _suite(
    root: ElementTree.Element, name: str, tests: int, failures: int, skipped: int = 0
) -> ElementTree.Element:
    counts = {"tests": tests, "failures": failures, "errors": 0, "skipped": skipped}
    attributes = {"name": name} | {key: str(count) for key, count in counts.items()}
    return ElementTree.SubElement(root, "testsuite", attributes)


def _case(suite: ElementTree.Element, one: Difference) -> None:
    phase, path = split(one.stage)
    case = ElementTree.SubElement(suite, "testcase", classname=phase, name=path)
    if one.bad:
        found = one.measures
        text = f"relative L2 {found.relative_l2:.3g}, limit {one.limit:.3g}"
        failure = ElementTree.SubElement(case, "failure", message=text, type="difference")
        values = ((metric, metric.value(one)) for metric in METRICS)
        told = [f"{m.title} {short(v, max(_DIGITS, m.digits))}" for m, v in values if v is not None]
        failure.text = ", ".join([f"shape {one.shape}", *told, f"finite {found.finite}"])
