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
    """Each site's own width and its context's, by its number; in a converted file by its path."""
    pattern = _CONVERTED if checkpoint.converted else _ORIGINAL
    matches = (
        (pattern.fullmatch(n), s) for n, s in ip_adapter.canonical_shapes(checkpoint).items()
    )
    return {match[1]: (shape[0], shape[1]) for match, shape in matches if match and len(shape) == 2}


def find_sites(checkpoint: Checkpoint) -> tuple[Site, ...] | None:
    """The sites of the base that has exactly these; None if no known base has."""
    found = {place: width for place, (width, _) in adapter_sites(checkpoint).items()}
    for sites in SITES.values():
        known = {s.path if checkpoint.converted else str(s.number): s.width for s in sites}
        if found == known:
            return sites
    return None
