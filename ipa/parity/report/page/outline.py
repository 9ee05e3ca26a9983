"""The waterfall as an outline: phases, blocks, layers and operations that open and close."""

from __future__ import annotations

from collections.abc import Sequence

from ipa.backend.stages import ancestry, explain_stage
from ipa.parity.compare.measures import Difference
from ipa.parity.compare.verdict import short

from .markup import LogScale, Markup, element
from .stage_tree import Group, farthest, holds


def outline(tree: Sequence[Group], scale: LogScale, shown: Difference | None) -> Markup:
    """The outline of all phases, open down to one stage.

    The page's script fills the other phases when they are opened: thousands of stages would make
    the file large.
    """
    target = shown or farthest([phase.worst for phase in tree])
    home = target.stage.partition("/")[0]
    phases = [_group(phase, scale, target, is_filled=phase.name == home) for phase in tree]
    return element("div", *phases, id="tree", data_low=scale.low, data_high=scale.high)


def _group(group: Group, scale: LogScale, target: Difference, *, is_filled: bool) -> Markup:
    is_open = is_filled and holds(group, target)
    plural = "" if group.count == 1 else "s"
    bad = f", {group.bad:,} bad" if group.bad else ""
    name = element("span", group.name, element("small", f" {group.count:,} stage{plural}{bad}"))
    summary = element("summary", name, *_row(group.worst, scale), class_=_class(group.bad))
    rows = [
        _group(child, scale, target, is_filled=True) if isinstance(child, Group)
        else _leaf(child, scale, target)
        for child in group.children
        if is_filled
    ]  # fmt: skip
    name_to_fill = None if is_filled else group.name
    return element("details", summary, *rows, open=is_open, data_phase=name_to_fill)


def _leaf(one: Difference, scale: LogScale, target: Difference) -> Markup:
    name = element("span", _short_name(one), title=explain_stage(one.stage))
    kind = " ".join(filter(None, ("leaf", _class(one.bad), "here" if one is target else None)))
    return element("div", name, *_row(one, scale), class_=kind)


def _row(one: Difference, scale: LogScale) -> tuple[Markup, ...]:
    error = one.measures.relative_l2
    marks = [("limit", one.limit), ("floor", one.floor)]
    lines = [
        element("path", d=f"M{100 * scale.share(at):.1f} 0v10", class_=kind)
        for kind, at in marks
        if at is not None
    ]
    rectangle = element("rect", width=max(0.5, 100 * scale.share(error)), height=10)
    svg = element(
        "svg",
        rectangle,
        *lines,
        class_="bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    ratio = "" if one.ratio is None else f"{short(one.ratio)} × floor"
    return svg, element("span", short(error)), element("span", ratio)


def _class(bad: int) -> str | None:
    return "bad" if bad else None


def _short_name(one: Difference) -> str:
    """A name less what the groups above have said."""
    _, block, layer = ancestry(one.stage)
    path = one.stage.partition("/")[2]
    return path.removeprefix(layer or block).lstrip(".") or "(its result)"
