"""A comparison as one HTML file that needs nothing else: no network, no program, no other file."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import os
from pathlib import Path
from string import Template

from ipa.files import write_whole
from ipa.parity.compare.comparison import Comparison
from ipa.parity.report.advice import advice

from .markup import Markup, element, joined
from .sections import sections
from .stage_tree import stage_data

_MODES = {
    "free-running": "Free-running: each run went on from its own results, so an error is handed on "
    "to what follows. What counts is where it begins.",
    "teacher-forced": "Teacher-forced: every stage of b was given what a computed before it, so an "
    "error stays where it is made. Nothing grows, and the picture would be a's own: both are left "
    "out.",
}


def report(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Write the page to a file, whole or not at all.

    Raises:
        RequestError: The folder cannot be written to.
    """
    write_whole(Path(path), page(comparison).encode())


def page(comparison: Comparison) -> str:
    """A comparison as HTML. Whatever comes from a run is escaped; the page may load nothing."""
    style, script = _text("report.css"), _text("report.js")
    sides = f"{comparison.b.name} against {comparison.a.name}"
    return Template(_text("report.html")).substitute(
        policy=element(
            "meta", http_equiv="Content-Security-Policy", content=_policy(style, script)
        ),
        title=joined(f"Parity: {sides}"),
        verdict=_verdict(comparison),
        sides=joined(f"b is {comparison.b.name}, a, the reference, is {comparison.a.name}. "),
        mode=joined(_MODES[comparison.mode]),
        sections=sections(comparison),
        data=stage_data(comparison.differences),
        style=style,
        script=script,
    )


def _verdict(comparison: Comparison) -> Markup:
    is_good = comparison.verdict.ok
    word = "✓ They agree" if is_good else "✗ They part"
    if not comparison.differences:
        word = "? Nothing was compared"
    next_steps = element("ul", *(element("li", line) for line in advice(comparison)))
    return element(
        "div",
        element("p", word, class_="word"),
        element("p", comparison.verdict.sentence, id="verdict"),
        *(element("p", f"Note: {note}.") for note in comparison.notes),
        element("h2", "What it means, and what to look at next"),
        next_steps,
        class_="verdict good" if is_good else "verdict poor",
    )


def _policy(style: str, script: str) -> str:
    """The content security policy: the page's own style and script, and pictures inside it."""
    return (
        "default-src 'none'; img-src data:; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _text(name: str) -> str:
    return (importlib.resources.files("ipa.parity.report.page") / name).read_text("utf-8")
