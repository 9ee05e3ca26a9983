"""The sections of the page, those that have something to show."""

from __future__ import annotations

from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.measures import METRICS
from ipa.parity.report.issue_text import issue_text

from .flow_chart import flow_chart
from .heat_map import heat_map, legend
from .markup import Markup, element, joined, scale_of
from .outline import outline
from .picture_section import pictures
from .stage_tree import tree_of
from .step_curves import step_curves
from .tables import MOST_ROWS, lone_stages, request_table, side_table, stage_table, swap_table


def _titles(of_sketch: str) -> str:
    return ", ".join(one.title for one in METRICS if one.of_sketch == of_sketch)


_NUMBERS = (
    *((one.title, one.meaning) for one in METRICS),
    (
        "≈",
        f"The stage was kept as a sketch, so its numbers are estimates ({_titles('estimated')}) or "
        f"of the sketch's own numbers ({_titles('projected')}).",
    ),
)


def sections(comparison: Comparison) -> Markup:
    """The page's sections, in the order in which a reader asks."""
    found = comparison.differences
    curves = element("div", *step_curves(found), class_="curves")
    heat, grows = heat_map(found), comparison.mode == "free-running"
    shaded = joined() if heat is None else joined(legend(), _scroll(heat))
    made = (
        ("flow", "Where the error is made", _flow(comparison) if found else joined()),
        ("steps", "How it grows over the steps", curves if heat and grows else joined()),
        ("heat", "Layers and steps", shaded),
        ("pictures", "The pictures", pictures(comparison)),
        ("swaps", "Which component costs how much", swap_table(comparison)),
        ("sides", "The two sides", side_table(comparison)),
        ("request", "The request", request_table(comparison.request)),
        ("lone", "Stages that only one run has", lone_stages(comparison)),
        ("differences", "All stages", _stages(comparison) if found else joined()),
        ("text", "As text, for an issue", _text(comparison)),
    )  # fmt: skip
    return joined(*(_section(*one) for one in made if one[2]))


def _section(name: str, title: str, contents: Markup) -> Markup:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, contents, id=name, aria_labelledby=f"{name}-title")


def _flow(comparison: Comparison) -> Markup:
    scale, tree = scale_of(comparison.differences), tree_of(comparison.differences)
    keys = (
        ("error", "relative L2, logarithmic; of a group its worst stage"),
        ("floor", "floor: what rounding alone makes"),
        ("limit", "limit"),
        ("bad", "▼ beyond its limit"),
    )
    spans = [element("span", words, class_=f"key {kind}") for kind, words in keys]
    hint = "Point at a bar: its stage is told here."
    return joined(
        element("p", *spans, class_="keys"),
        _scroll(flow_chart(tree, scale, comparison.verdict.first)),
        element("p", hint, id="told", class_="script", hidden=True),
        element("p", "Phases open into blocks, layers and operations; the worst is open."),
        element("noscript", element("p", "The other phases open where scripts may run.")),
        outline(tree, scale, comparison.verdict.first),
    )


def _stages(comparison: Comparison) -> Markup:
    is_bad = comparison.verdict.bad > 0
    which = (
        "bad stages, in the order of computation" if is_bad else "stages nearest to their limits"
    )
    number = min(MOST_ROWS, len(comparison.differences))
    terms = [joined(element("dt", term), element("dd", words)) for term, words in _NUMBERS]
    meaning = element("details", element("summary", "What the numbers mean"), element("dl", *terms))
    label = element("label", "Filter ", element("input", type="search", id="filter"))
    only = element("label", element("input", type="checkbox", id="only-bad"), " bad ones only")
    copy = element("button", "Copy what is shown as text", type="button", id="copy-rows")
    count = element("span", role="status", id="count")
    controls = element("p", label, only, copy, count, class_="script controls", hidden=True)
    more = element("button", "Show more", type="button", id="more", class_="script", hidden=True)
    first = f"The first {number} {which}; all of them where scripts may run."
    return joined(
        meaning,
        element("noscript", element("p", first)),
        controls,
        _scroll(stage_table(comparison)),
        more,
    )


def _text(comparison: Comparison) -> Markup:
    button = element("button", "Copy", type="button", id="copy-issue", class_="script", hidden=True)
    text = issue_text(comparison)
    area = element(
        "textarea", text, id="issue", readonly=True, rows=12, aria_labelledby="text-title"
    )
    return joined(button, area, element("span", role="status", id="copied"))


def _scroll(contents: Markup) -> Markup:
    return element("div", contents, class_="scroll", tabindex=0)
