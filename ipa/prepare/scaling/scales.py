"""The λ of cross-attention sites: from a number, from diffusers' blocks, or from a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ipa.errors import RequestError, shown
from ipa.model.sites import SECTIONS, SITES, Site, Transformer, structure_name
from ipa.request.scales import Scale, plain_scale

SiteScales = tuple[float, ...]


def site_scales(scale: Scale, sites: Sequence[Site]) -> SiteScales:
    """The λ of every site, in the order of site numbers; what is not named is 0.

    A dict with any of the keys "down", "mid" and "up" is diffusers' (`set_ip_adapter_scale`): each
    takes a number, a list, or {"block_i": number or list}; a list has one entry per transformer of
    the block, or one for all of them. Any other dict is a table: its keys are site numbers (1, 3,
    …), paths in diffusers of a site or of a transformer, or places as "down.1.attn.0" and
    "mid.attn.0".

    Raises:
        RequestError: A part, number or list length that the UNet does not have, or no number.
    """
    scale = plain_scale(scale, "scale")
    if not isinstance(scale, Mapping):
        return (scale,) * len(sites)
    if scale and not any(section in scale for section in SECTIONS):
        return _from_table(scale, sites)
    return _from_blocks(scale, sites)


def place(transformer: Transformer) -> str:
    """A transformer's short name: "down.1.attn.0", "mid.attn.0"."""
    section, block, attention = transformer
    return (
        f"{section}.attn.{attention}" if section == "mid" else f"{section}.{block}.attn.{attention}"
    )


def _from_table(scale: Mapping[str, Any], sites: Sequence[Site]) -> SiteScales:
    names = _names(sites)
    unknown = [key for key in scale if key not in names]
    if unknown:
        raise RequestError(
            "scale names sites that this UNet does not have",
            found=_elsewhere(unknown, sites, {b: _names(others) for b, others in SITES.items()}),
            remedy="name sections (down, mid, up); or sites by odd numbers from 1 to "
            f"{sites[-1].number}, by paths, or by places such as {place(sites[0].transformer)}",
        )
    ranks = Counter(rank for key in scale for rank in names[key])
    twice = [sites[rank].path for rank, count in ranks.items() if count > 1]
    if twice:
        raise RequestError("scale names a site twice", found=twice[0])
    table = [0.0] * len(sites)
    for key, value in scale.items():
        for rank in names[key]:
            table[rank] = _number(value, f"scale[{key!r}]")
    return tuple(table)


def _names(sites: Sequence[Site]) -> dict[str, list[int]]:
    """Names of sites and transformers, and the ranks of the sites that they mean."""
    names: dict[str, list[int]] = {}
    for rank, site in enumerate(sites):
        whole = site.path.partition(".transformer_blocks.")[0]
        for name in (str(site.number), site.path, whole, place(site.transformer)):
            names.setdefault(name, []).append(rank)
    return names


def _from_blocks(scale: Mapping[str, Any], sites: Sequence[Site]) -> SiteScales:
    _check_parts("scale", scale, {site.section for site in sites}, sites, {})
    per_block = Counter(t[:2] for t in {site.transformer for site in sites})
    for section in ("down", "up"):
        if isinstance(scale.get(section), Mapping):
            blocks = {f"block_{b}" for s, b in per_block if s == section}
            others = {
                base: {f"block_{site.block}" for site in base_sites if site.section == section}
                for base, base_sites in SITES.items()
            }
            _check_parts(f"scale[{section!r}]", scale[section], blocks, sites, others)
    return tuple(_at(scale, site, per_block[site.transformer[:2]]) for site in sites)


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
        raise RequestError(f"{name} must be a number here", found=shown(value))
    return float(value)


def _check_parts(
    where: str,
    given: Iterable[str],
    parts: set[Any],
    sites: Sequence[Site],
    others: Mapping[str, Iterable[str]],
) -> None:
    unknown = sorted(str(key) for key in given if key not in parts)
    if unknown:
        raise RequestError(
            f"{where} names parts that this UNet does not have",
            found=_elsewhere(unknown, sites, others),
            remedy=f"cross-attention is in {', '.join(sorted(parts))}",
        )


def _elsewhere(
    unknown: Sequence[str], sites: Sequence[Site], others: Mapping[str, Iterable[str]]
) -> str:
    """The unknown names; and, if another base has them, which that is."""
    owners = [base for base, names in others.items() if set(unknown) <= set(names)]
    found = ", ".join(unknown)
    if not owners:
        return found
    structure = structure_name(sites) or "neither SD1.5 nor SDXL"
    return f"{found}, which {owners[0]} has; this UNet is built as {structure}"
