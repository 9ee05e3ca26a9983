"""HTML and SVG, in which whatever is not markup is escaped."""

from __future__ import annotations

import html

_VOID = frozenset({"img", "input", "br"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | float | bool | None) -> Markup:
    """An element; children that are no `Markup` are escaped, as attributes are.

    An attribute's trailing "_" is dropped, other ones become "-"; one that is None or False is left
    out, one that is True has no value.
    """
    start = tag + "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{joined(*children)}</{tag}>")


def joined(*children: str) -> Markup:
    """Children one after another, escaped where they are not markup."""
    parts = (c if isinstance(c, Markup) else html.escape(c, quote=False) for c in children)
    return Markup("".join(parts))


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    spelled = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {spelled}"
    said = f"{value:.5g}" if isinstance(value, float) else str(value)
    return f' {spelled}="{html.escape(said)}"'
