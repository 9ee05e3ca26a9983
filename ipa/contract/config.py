"""Reading config.json: every value is checked, and none is ignored that could matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import CheckpointError, shown

Config = Mapping[str, Any]

MOST = 1 << 20
"""Largest integer of a config: wide vocabularies have 250 thousand entries."""
MOST_LAYERS = 256
"""Most layers of a network or level (48 in the deepest known), and most attention heads (40)."""


def require_fixed(config: Config, fixed: Config, where: str) -> None:
    """Raise CheckpointError where a key has another value than the one implemented."""
    for key, needed in fixed.items():
        found = config.get(key, needed)
        if found != needed and not (found is None and not needed):
            raise CheckpointError(
                f"{where}: {key} is not supported with this value",
                found=shown(found),
                remedy=f"only {needed!r} is implemented: use a Stable Diffusion 1.x model",
            )


def require_known(config: Config, known: frozenset[str], where: str, network: str = "UNet") -> None:
    """Raise CheckpointError for a key that says something and that nobody reads."""
    unknown = [k for k, v in config.items() if k not in known and not k.startswith("_") and v]
    if unknown:
        raise CheckpointError(
            f"{where}: keys that this version does not know",
            found=", ".join(f"{key}={config[key]!r}" for key in unknown),
            remedy=f"they may change the computation; use a plain Stable Diffusion {network}",
        )


def block_kinds(
    config: Config, key: str, kinds: Mapping[str, bool], levels: int, where: str
) -> tuple[bool, ...]:
    """A list of block class names, one per level, as what each class stands for."""
    names = config.get(key)
    if (
        not isinstance(names, (list, tuple))
        or len(names) != levels
        or any(not isinstance(n, str) or n not in kinds for n in names)
    ):
        raise CheckpointError(
            f"{where}: {key} is not supported",
            found=shown(names),
            remedy=f"{levels} entries out of {sorted(kinds)} are needed",
        )
    return tuple(kinds[name] for name in names)


def integer(
    config: Config, key: str, where: str, default: int, most: int = MOST, least: int = 1
) -> int:
    """An integer, positive by default, so small that no network is built of an absurd size."""
    value = config.get(key, default)
    if not _is_integer(value, least, most):
        raise CheckpointError(
            f"{where}: {key} must be an integer from {least} to {most}", found=shown(value)
        )
    return int(value)


def number(config: Config, key: str, where: str, default: float) -> float:
    """A finite number that is not negative."""
    value = config.get(key, default)
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not 0 <= value <= MOST:
        raise CheckpointError(f"{where}: {key} must be a number from 0", found=shown(value))
    return float(value)


def integers(
    config: Config, key: str, where: str, most: int = MOST, least: int = 1
) -> tuple[int, ...]:
    """A list of integers, positive by default."""
    values = config.get(key)
    good = isinstance(values, (list, tuple)) and len(values) > 0
    if not good or not all(_is_integer(value, least, most) for value in values or ()):
        raise CheckpointError(
            f"{where}: {key} must be a list of integers from {least} to {most}",
            found=shown(values),
        )
    return tuple(values or ())


def per_level(
    config: Config, key: str, levels: int, where: str, default: int, least: int = 1
) -> tuple[int, ...]:
    """One integer per level, from one number for all or a list."""
    if not isinstance(config.get(key, default), (list, tuple)):
        return (integer(config, key, where, default, MOST_LAYERS, least),) * levels
    values = integers(config, key, where, MOST_LAYERS, least)
    if len(values) != levels:
        raise CheckpointError(
            f"{where}: {key} must have one entry per level", found=f"{values} for {levels} levels"
        )
    return values


def require_divisible(widths: Sequence[int], parts: Sequence[int], what: str, where: str) -> None:
    """Raise CheckpointError unless every width divides into its number of parts."""
    for width, count in zip(widths, parts, strict=True):
        if width % count:
            raise CheckpointError(
                f"{where}: {width} channels do not divide into {what}", found=str(count)
            )


def width_and_heads(config: Config, where: str, width: int, heads: int) -> tuple[int, int]:
    """Hidden size and attention heads of a CLIP tower, with the defaults of its class."""
    width = integer(config, "hidden_size", where, width)
    heads = integer(config, "num_attention_heads", where, heads, MOST_LAYERS)
    require_divisible((width,), (heads,), "attention heads", where)
    return width, heads


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
