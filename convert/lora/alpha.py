"""The strength of a LoRA's modules: alpha tensors, or PEFT's configuration.

The change of a weight is scale · up @ down, with scale = alpha / rank, or alpha / sqrt(rank) where
PEFT's `use_rslora` says so; a LoRA that states no alpha has scale 1. Sources: kohya-ss/sd-scripts,
PEFT's `LoraConfig` and `get_pattern_key`, diffusers' `lora_adapter_metadata`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from ipa.errors import CheckpointError
from ipa.model.files import read_json

from ..containers.checkpoint import Checkpoint
from ..containers.dtypes import WEIGHTS
from ..containers.stored import Stored
from ..containers.values import cast
from .names import KOHYA, LoraModule

METADATA = "lora_adapter_metadata"
"""The key of PEFT's configuration in a safetensors file's metadata, as diffusers writes it."""

_BESIDE = ("adapter_model", "adapter_config.json")  # stem and configuration of PEFT's own files
_NUMBERS = ("F64", "I64", "I32", "I16", "I8", "U8")  # of alphas, beside those of weights
# Fields that change the computation, with the only value that is implemented.
_FIXED: Mapping[str, object] = {
    "peft_type": "LORA",
    "use_dora": False,
    "use_qalora": False,
    "lora_bias": False,
    "fan_in_fan_out": False,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
}
# PEFT's patterns are regular expressions; those in use are names, maybe from the beginning.
_PATTERN = re.compile(r"(\^?)([A-Za-z0-9_]+(?:\\?\.[A-Za-z0-9_]+)*)\$?")


@dataclass(frozen=True, slots=True)
class Patterns:
    """Values for the modules whose path is, or ends with, a name; the first that fits wins.

    Attributes:
        whole: Place in the file, and value, by the whole path.
        ends: The same by the last components of a path.
    """

    whole: Mapping[str, tuple[int, float]]
    ends: Mapping[str, tuple[int, float]]

    def first(self, path: str, default: float | None) -> float | None:
        """The value for a module; PEFT may know a text encoder by the shorter path."""
        parts = path.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts)))
        found = [self.ends[end] for end in ends if end in self.ends]
        for spelled in (path, path.removeprefix("text_model.")):
            if spelled in self.whole:
                found.append(self.whole[spelled])
        return min(found)[1] if found else default


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftConfig:
    """What PEFT's configuration says of strengths, for one network.

    Attributes:
        alpha: Of modules without a pattern.
        alphas: Of others; the first pattern that matches wins.
        rank: Likewise; None where it says nothing.
        ranks: Likewise.
        rslora: Whether the scale is alpha / sqrt(rank).
    """

    alpha: float
    alphas: Patterns
    rank: float | None
    ranks: Patterns
    rslora: bool

    @classmethod
    def parse(cls, config: Mapping[str, Any], where: str) -> PeftConfig:
        """Parse LoraConfig's fields. Raises CheckpointError for what is not implemented."""
        for key, value in _FIXED.items():
            if config.get(key, value) not in (value, None):
                raise CheckpointError(
                    f"{where}: {key} of this LoRA is not supported",
                    found=str(config[key])[:80],
                    remedy="use a plain LoRA",
                )
        rank = config.get("r")
        return cls(
            alpha=_number(config.get("lora_alpha"), "lora_alpha", where),
            alphas=_patterns(config.get("alpha_pattern"), "alpha_pattern", where),
            rank=None if rank is None else _number(rank, "r", where),
            ranks=_patterns(config.get("rank_pattern"), "rank_pattern", where),
            rslora=bool(config.get("use_rslora")),
        )

    def alpha_of(self, module: LoraModule, rank: int, where: str) -> float:
        """A module's alpha; divided by the rank it is the module's scale.

        Raises:
            CheckpointError: The configuration is of another rank than the weights.
        """
        stated = self.ranks.first(module.path, self.rank)
        if stated not in (None, rank):
            raise CheckpointError(
                f"{where}: the configuration is not that of the weights",
                found=f"rank {stated:g} for {module.path}, whose weights are of rank {rank}",
                remedy="download both again",
            )
        alpha = self.alphas.first(module.path, self.alpha)
        return (alpha or 0.0) * (sqrt(rank) if self.rslora else 1)


def peft_configs(checkpoint: Checkpoint) -> dict[str, PeftConfig]:
    """PEFT's configuration by component; under "" that of a file for one network.

    Raises:
        CheckpointError: It is damaged, or says what is not implemented.
    """
    where = checkpoint.where
    settings = Path(where).with_name(_BESIDE[1])
    if Path(where).stem == _BESIDE[0] and settings.is_file():
        return {"": PeftConfig.parse(read_json(settings), str(settings))}
    groups: dict[str, dict[str, Any]] = {}
    for key, value in _parsed(checkpoint.metadata.get(METADATA, "") or "{}", where).items():
        head, dot, rest = key.partition(".")
        if dot and head not in KOHYA:
            raise CheckpointError(
                f"{where}: this LoRA is not for Stable Diffusion",
                found=f"a configuration of {head[:40]!r}",
                remedy="use a LoRA for SD1.x, SD2.x or SDXL",
            )
        groups.setdefault(head if dot else "", {})[rest if dot else key] = value
    return {name: PeftConfig.parse(group, where) for name, group in groups.items()}


def scalar(stored: Stored) -> float | None:
    """The number in an alpha's tensor; None if it is none, or not finite."""
    if prod(stored.shape) != 1 or stored.dtype not in (*WEIGHTS, *_NUMBERS):
        return None
    values = stored.array().reshape(-1)
    if stored.dtype == "BF16":
        values = cast(values, "BF16", "F32", stored.name)
    value = float(values.astype(np.float64)[0])
    return value if isfinite(value) else None


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: {METADATA} is not valid JSON", found=str(error), remedy="download it again"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{where}: {METADATA} must hold a JSON object", found=type(value).__name__
        )
    return value


def _patterns(value: Any, key: str, where: str) -> Patterns:
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: {key} must be an object", found=type(value).__name__)
    whole: dict[str, tuple[int, float]] = {}
    ends: dict[str, tuple[int, float]] = {}
    for place, (name, number) in enumerate(value.items()):
        match = _PATTERN.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"{where}: {key} holds a regular expression, which is not supported",
                found=name[:80],
                remedy="name the modules by their paths",
            )
        group = whole if match[1] else ends
        group[match[2].replace("\\", "")] = place, _number(number, f"{key}.{name}", where)
    return Patterns(whole, ends)


def _number(value: Any, key: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise CheckpointError(
            f"{where}: {key[:80]} must be a number",
            found=str(value)[:80],
            remedy="download it again",
        )
    return float(value)
