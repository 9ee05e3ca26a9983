"""Reading config.json: every value is checked, and none is ignored that could matter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import CheckpointError

Config = Mapping[str, Any]


def require_fixed(config: Config, fixed: Config, where: str) -> None:
    """Raise CheckpointError where a key has another value than the one implemented."""
    for key, needed in fixed.items():
        found = config.get(key, needed)
        if found != needed and not (found is None and not needed):
            raise CheckpointError(
                f"{where}: {key} is not supported with this value",
                found=repr(found),
                remedy=f"only {needed!r} is implemented: use a Stable Diffusion 1.x model",
            )


def require_known(config: Config, known: frozenset[str], where: str) -> None:
    """Raise CheckpointError for a key that says something and that nobody reads."""
    unknown = [k for k, v in config.items() if k not in known and not k.startswith("_") and v]
    if unknown:
        raise CheckpointError(
            f"{where}: keys that this version does not know",
            found=", ".join(f"{key}={config[key]!r}" for key in unknown),
            remedy="they may change the computation; use a plain Stable Diffusion UNet",
        )


def block_kinds(
    config: Config, key: str, kinds: Mapping[str, bool], levels: int, where: str
) -> tuple[bool, ...]:
    """A list of block class names, one per level, as what each class stands for."""
    names = config.get(key)
    if (
        not isinstance(names, (list, tuple))
        or len(names) != levels
        or any(n not in kinds for n in names)
    ):
        raise CheckpointError(
            f"{where}: {key} is not supported",
            found=repr(names),
            remedy=f"{levels} entries out of {sorted(kinds)} are needed",
        )
    return tuple(kinds[name] for name in names)


def integer(config: Config, key: str, where: str, default: int) -> int:
    """A positive integer."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{where}: {key} must be a positive integer", found=repr(value))
    return value


def integers(config: Config, key: str, where: str) -> tuple[int, ...]:
    """A list of positive integers."""
    values = config.get(key)
    good = isinstance(values, (list, tuple)) and len(values) > 0
    if not good or not all(type(v) is int and v > 0 for v in values or ()):
        raise CheckpointError(
            f"{where}: {key} must be a list of positive integers", found=repr(values)
        )
    return tuple(values or ())


def per_level(config: Config, key: str, levels: int, where: str, default: int) -> tuple[int, ...]:
    """One positive integer per level, from one number for all or a list."""
    if not isinstance(config.get(key, default), (list, tuple)):
        return (integer(config, key, where, default),) * levels
    values = integers(config, key, where)
    if len(values) != levels:
        raise CheckpointError(
            f"{where}: {key} must have one entry per level", found=f"{values} for {levels} levels"
        )
    return values
