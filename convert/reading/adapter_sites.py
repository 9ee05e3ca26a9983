"""Which cross-attentions an adapter's file has keys and values for."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ipa.model.sites import SITES, Site

from ..containers.checkpoint import Checkpoint
from ..tables import ip_adapter

# By number, or by path where no base is known that has it.
_ORIGINAL = re.compile(r"ip_adapter\.(.+?)(?:\.processor)?\.to_k_ip\.weight")
_CONVERTED = re.compile(r"sites\.(.+)\.to_k\.weight")


def adapter_sites(checkpoint: Checkpoint) -> Mapping[str, tuple[int, int]]:
    """The widths of an adapter's keys and values by site: the site's, and the context's."""
    pattern = _CONVERTED if checkpoint.converted else _ORIGINAL
    matches = (
        (pattern.fullmatch(n), s) for n, s in ip_adapter.canonical_shapes(checkpoint).items()
    )
    return {match[1]: (shape[0], shape[1]) for match, shape in matches if match and len(shape) == 2}


def find_sites(checkpoint: Checkpoint) -> tuple[Site, ...] | None:
    """The cross-attention sites of the known base with these widths; None if there is none."""
    found = {place: width for place, (width, _) in adapter_sites(checkpoint).items()}
    for sites in SITES.values():
        widths = {s.path if checkpoint.converted else str(s.number): s.width for s in sites}
        if found == widths:
            return sites
    return None
