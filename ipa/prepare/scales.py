"""λ, the weight of an image prompt, as a table over cross-attention sites and steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ipa.contract.errors import RequestError
from ipa.contract.request import Scale, plain_scale
from ipa.contract.sites import Site

SiteScales = tuple[float, ...]


def site_scales(scale: Scale, sites: Sequence[Site]) -> SiteScales:
    """λ per site from a number, or from diffusers' nested dict (`set_ip_adapter_scale`).

    In the dict, "down", "mid" and "up" take a number or {"block_i": number or list}; a list has one
    entry per transformer of the block, or one for all of them. What is not named is 0.

    Raises:
        RequestError: A section, block or list length that the UNet does not have, or no number.
    """
    scale = plain_scale(scale, "scale")
    if not isinstance(scale, Mapping):
        return (scale,) * len(sites)
    _check_names("scale", scale, {site.section for site in sites})
    counts = Counter((s.section, s.block, s.attention) for s in sites)
    per_block = Counter((section, block) for section, block, _ in counts)
    for section in ("down", "up"):
        if isinstance(scale.get(section), Mapping):
            blocks = {f"block_{b}" for s, b in per_block if s == section}
            _check_names(f"scale[{section!r}]", scale[section], blocks)
    return tuple(_at(scale, site, per_block[site.section, site.block]) for site in sites)


def _at(scale: Mapping[str, Any], site: Site, transformers: int) -> float:
    name, value = f"scale[{site.section!r}]", scale.get(site.section, 0.0)
    if isinstance(value, Mapping):
        block = f"block_{site.block}"
        name, value = f"{name}[{block!r}]", value.get(block, 0.0)
    if isinstance(value, (list, tuple)):
        if len(value) not in {1, transformers}:
            raise RequestError(
                f"{name} has one entry per transformer of the block",
                found=f"{len(value)} entries",
                remedy=f"give {transformers}, or one for all",
            )
        value = value[site.attention if len(value) > 1 else 0]
    return _number(value, name)


def _number(value: Any, name: str) -> float:
    if isinstance(value, (Mapping, list, tuple)):
        raise RequestError(f"{name} must be a number here", found=repr(value)[:80])
    return float(value)


def _check_names(where: str, given: Mapping[str, Any], known: set[Any]) -> None:
    unknown = sorted(str(key) for key in given if key not in known)
    if unknown:
        raise RequestError(
            f"{where} names parts that this UNet does not have",
            found=", ".join(unknown),
            remedy=f"cross-attention is in {', '.join(sorted(known))}",
        )


def is_open(start: float, end: float, step: int, steps: int) -> bool:
    """Whether a window of fractions covers step i of n: start ≤ i/n and (i+1)/n ≤ end.

    The rule of IP-Adapter's own pipeline (custom_pipelines.py).
    """
    return not (step / steps < start or (step + 1) / steps > end)
