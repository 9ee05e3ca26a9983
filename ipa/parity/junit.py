"""A comparison as JUnit's XML, which servers of continuous integration show."""

from __future__ import annotations

from itertools import groupby
from xml.etree import ElementTree

from .comparison import Comparison
from .difference import Difference
from .stages import split


def junit(comparison: Comparison) -> bytes:
    """One suite for each phase, one case for each stage; a stage of one run alone is skipped."""
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
    told = {"name": name} | {key: str(count) for key, count in counts.items()}
    return ElementTree.SubElement(root, "testsuite", told)


def _case(suite: ElementTree.Element, one: Difference) -> None:
    phase, path = split(one.stage)
    case = ElementTree.SubElement(suite, "testcase", classname=phase, name=path)
    if one.bad:
        found = one.measures
        text = f"relative L2 {found.relative_l2:.3g}, limit {one.limit:.3g}"
        failure = ElementTree.SubElement(case, "failure", message=text, type="difference")
        failure.text = (
            f"shape {one.shape}, max abs {found.max_abs:.3g}, cosine {found.cosine:.9f}, "
            f"slope {found.slope:.6f}, bias {found.bias:.3g}, finite {found.finite}"
        )
