"""A comparison as text to be pasted into an issue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ipa.parity.capture.capture import Side
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.measures import metrics_of
from ipa.parity.compare.verdict import notable, short

from .advice import advice

_MOST = 10
"""The most stages that are named."""


def issue_text(comparison: Comparison) -> str:
    """A comparison as Markdown: the verdict, what to look at, the worst stages, the two sides."""
    lines = [
        f"**{comparison.verdict.sentence}**",
        "",
        *(f"- {line}" for line in advice(comparison)),
        "",
    ]
    lines += _stages(comparison)
    of = comparison.pictures
    if of is not None:
        clip = "" if of.clip_cosine is None else f", CLIP cosine {of.clip_cosine:.4f}"
        lines += [f"Pictures: PSNR {short(of.psnr_db, 3)} dB, SSIM {of.ssim:.4f}{clip}", ""]
    lines += ["| | a | b |", "|---|---|---|"]
    for name, a, b, _ in side_rows(comparison.a, comparison.b):
        lines.append(f"| {_cell(name)} | {_cell(a)} | {_cell(b)} |")
    return "\n".join(lines) + "\n"


def side_rows(a: Side, b: Side) -> list[tuple[str, str, str, bool]]:
    """Rows on the two sides: name, a's, b's, whether they differ; "" where one says nothing."""
    tables = [_about(a), _about(b)]
    names = dict.fromkeys([*tables[0], *tables[1]])
    rows = [(name, tables[0].get(name, ""), tables[1].get(name, "")) for name in names]
    return [(name, one, other, one != other) for name, one, other in rows]


def _about(side: Side) -> Mapping[str, str]:
    seconds = {} if side.seconds is None else {"seconds": short(side.seconds, 3)}
    facts = {"name": side.name, "backend": side.backend, "precision": side.dtype}
    return {**facts, **seconds, **side.environment}


def _stages(comparison: Comparison) -> Iterable[str]:
    found = list(notable(comparison.differences))[:_MOST]
    if not found:
        return
    metrics = metrics_of("issue")
    yield f"| stage | {' | '.join(one.title for one in metrics)} |"
    yield "|---" * (1 + len(metrics)) + "|"
    for one in found:
        values = ((metric.value(one), metric.digits) for metric in metrics)
        numbers = ("" if value is None else short(value, digits) for value, digits in values)
        yield f"| {_cell(one.stage)} | {' | '.join(numbers)} |"
    yield ""


def _cell(text: str) -> str:
    """A cell of Markdown: one line, without what would end it."""
    return " ".join(text.split()).replace("|", "\\|")
