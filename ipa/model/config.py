"""Reading config.json: every value is checked, and none is ignored that could matter.

A key is read here, or has one value that is implemented, or is known to change nothing. One that is
none of these is told in a warning: diffusers and transformers pass over keys that they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ipa.errors import CheckpointError, shown

Config = Mapping[str, Any]

MOST = 1 << 20
"""The largest integer allowed in a config: wide vocabularies have 250 thousand entries."""
MOST_LAYERS = 256
"""The most layers of a network or level (the deepest known has 48), or heads (40)."""


QUANTIZED: Config = {"quantization_config": None}
"""The key in a network's config for weights that another library quantised."""

_TRAINING_AVERAGE = frozenset(
    {
        "decay",
        "inv_gamma",
        "min_decay",
        "optimization_step",
        "power",
        "update_after_step",
        "use_ema_warmup",
    }
)
"""How the weights were averaged in training (EMA): diffusers keeps it in the network's config."""
_SHOWN = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """The known keys of a diffusers or transformers class's config.

    Attributes:
        read: Keys that are parsed.
        fixed: Keys with the only value that is implemented, which is also that of a missing key.
        inert: Keys that do not change what inference computes, beside a training's average.
        families: What to use instead, for messages.
    """

    read: frozenset[str]
    fixed: Config = field(default_factory=dict)
    inert: frozenset[str] = frozenset()
    families: str = "Stable Diffusion 1.x, 2.x or XL"

    def check(self, config: Config, where: str) -> tuple[str, ...]:
        """Raise CheckpointError where a key has another value than the one implemented.

        Returns:
            A warning for every key that is not known; those that begin with "_" are diffusers'
            notes to itself.
        """
        for key, needed in self.fixed.items():
            found = config.get(key, needed)
            if not _is_same(found, needed):
                raise CheckpointError(
                    f"{where}: {key} is not supported with this value",
                    found=shown(found),
                    remedy=f"only {needed!r} is implemented: use a model of {self.families}",
                )
        keys = self.read | self.fixed.keys() | self.inert | _TRAINING_AVERAGE
        return tuple(
            f"{where}: {key} = {repr(value)[:_SHOWN]} is unknown, and ignored as diffusers and "
            "transformers ignore it"
            for key, value in config.items()
            if key not in keys and not key.startswith("_") and value is not None
        )


def _is_same(found: object, needed: object) -> bool:
    """Whether two values agree: null counts as "no", a list as one value for each level."""
    if isinstance(found, (list, tuple)) and found:
        return all(_is_same(entry, needed) for entry in found)
    return found == needed or (found is None and not needed)


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
    """Read an integer, positive by default, small enough for a network of a sane size."""
    value = config.get(key, default)
    if not _is_integer(value, least, most):
        raise CheckpointError(
            f"{where}: {key} must be an integer from {least} to {most}", found=shown(value)
        )
    return int(value)


def number(config: Config, key: str, where: str, default: float) -> float:
    """Read a finite number that is not negative."""
    value = config.get(key, default)
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not 0 <= value <= MOST:
        raise CheckpointError(f"{where}: {key} must be a number from 0", found=shown(value))
    return float(value)


def integers(
    config: Config, key: str, where: str, most: int = MOST, least: int = 1
) -> tuple[int, ...]:
    """Read a list of integers, positive by default."""
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
    """Read one integer per level, from one number for all or a list."""
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
    """Read the width and heads of a CLIP tower, with the defaults of its class."""
    width = integer(config, "hidden_size", where, width)
    heads = integer(config, "num_attention_heads", where, heads, MOST_LAYERS)
    require_divisible((width,), (heads,), "attention heads", where)
    return width, heads


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
