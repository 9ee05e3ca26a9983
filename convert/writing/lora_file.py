"""Writing a LoRA: ready for MLX, or the way back in diffusers' names and layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ipa.model.files import container
from ipa.model.ignoring import Ignore

from ..containers.atomic import require_new
from ..containers.checkpoint import CONVERTED
from ..containers.dtypes import NAMES, NUMPY, Array
from ..containers.safetensors_file import Writable
from ..containers.stored import Stored
from ..lora.alpha import METADATA
from ..lora.names import LoraComponent, LoraTargets
from ..lora.pairs import Lora, LoraPair
from ..lora.reading import read_lora
from ..tables.converted import ConvertedTensor
from ..tables.layout import Layout as TensorLayout
from ..tables.layout import Tensor
from .file import Progress, write_file
from .manifest import Source, Sources
from .rows import DType, Layout, Row

KIND = "lora"
"""The "kind" in a converted LoRA's metadata."""


@dataclass(frozen=True, slots=True)
class Alpha:
    """An alpha as it is written: exactly, in float32 where that holds it."""

    name: str
    value: float
    shape: tuple[int, ...] = ()

    @property
    def dtype(self) -> str:
        """ "F32" for every alpha that was stored with at most so many bits."""
        return "F32" if float(np.float32(self.value)) == self.value else "F64"

    def array(self) -> Array:
        """The alpha as a 0-dimensional array."""
        return np.array(self.value, NUMPY[self.dtype])

    def release(self) -> None:
        """Does nothing: no memory is held."""


def convert_lora(
    path: Path,
    target: Path,
    targets: LoraTargets,
    *,
    dtype: DType | None = None,
    layout: Layout = "mlx",
    skip: Collection[LoraComponent] = (),
    ignore: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """Write one safetensors file of a LoRA, whole or not at all.

    Args:
        path: The LoRA, in any public spelling, or converted.
        target: The file to make.
        targets: The networks of the model that it is for.
        dtype: Precision of the matrices; None keeps every tensor's own. Alphas are kept exactly.
        layout: "mlx", or "diffusers" for PEFT's names, which diffusers loads: without the learned
            words of a file, which it does not take.
        skip: Networks whose part of the LoRA is left out.
        ignore: Names of tensors that have no place in the model and that may be left out.
        on_progress: Called after every tensor with the bytes that are written and those in all.

    Returns:
        The target.

    Raises:
        CheckpointError: The target exists, it cannot be written, or the LoRA is not in order: see
            `read_lora` and `delta`.
    """
    require_new(target)
    container(path)  # an error with words if it is not there
    sources = Sources((Source.of(path),), {})
    lora = read_lora(path, targets, skip=skip, ignore=Ignore.of(ignore))
    if layout == "mlx":
        metadata = {**CONVERTED, "kind": KIND, "base": lora.base}
    else:
        metadata = {"format": "pt", **_peft_metadata(lora)}
    metadata |= _left_out(lora, layout)
    write_file(target, tuple(_rows(lora, dtype, layout)), sources, metadata, on_progress)
    return target


def _rows(lora: Lora, dtype: DType | None, layout: Layout) -> Iterator[Writable]:
    for (component, module), pair in lora.items():
        for half in (pair.down, pair.up):
            tag = half.dtype if dtype is None else NAMES[dtype]
            apart = replace(half, stored=half.stored.apart())
            yield Row(tensor=apart, dtype=tag, layout=layout)
        if layout == "mlx" and pair.alpha is not None:
            yield Alpha(f"{component}.{module}.alpha", pair.alpha)
    for stored in lora.bundled.values() if layout == "mlx" else ():
        yield _as_is(stored, dtype, layout)


def _as_is(stored: Stored, dtype: DType | None, layout: Layout) -> Row:
    """The tensor of a learned word, written as it is; it is of no layer."""
    tensor = Tensor(stored.name, stored.shape, TensorLayout.AS_IS)
    whole = ConvertedTensor(
        name=stored.name, tensor=tensor, layout=TensorLayout.AS_IS, stored=stored.apart()
    )
    return Row(tensor=whole, dtype=stored.dtype if dtype is None else NAMES[dtype], layout=layout)


def _left_out(lora: Lora, layout: Layout) -> dict[str, str]:
    """The tensors that are not written, and why, for the file's metadata."""
    left_out = dict(lora.dropped)
    if layout != "mlx":
        left_out |= dict.fromkeys(lora.bundled, "diffusers takes no learned words in a LoRA")
    return {"left_out": json.dumps(left_out, sort_keys=True)} if left_out else {}


def _peft_metadata(lora: Lora) -> Mapping[str, str]:
    """PEFT's configurations, as diffusers keeps them; none where every scale is 1."""
    if all(pair.scale == 1 for pair in lora.values()):
        return {}
    config: dict[str, Any] = {}
    for component in dict.fromkeys(component for component, _ in lora):
        pairs = [pair for (part, _), pair in lora.items() if part == component]
        config |= {f"{component}.{key}": value for key, value in _peft_config(pairs).items()}
    return {METADATA: json.dumps(config, sort_keys=True)}


def _peft_config(pairs: list[LoraPair]) -> dict[str, Any]:
    """LoraConfig's fields for one network: the commonest rank and alpha, and all others by name."""
    # transformers from 5.6 has no level `text_model`; PEFT matches the ends of paths.
    paths = {pair.module.path.removeprefix("text_model."): pair for pair in pairs}
    ranks = {path: pair.rank for path, pair in paths.items()}
    alphas = {
        path: pair.scale * pair.rank if pair.alpha is None else pair.alpha
        for path, pair in paths.items()
    }
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "r": rank,
        "rank_pattern": {path: value for path, value in ranks.items() if value != rank},
        "lora_alpha": alpha,
        "alpha_pattern": {path: value for path, value in alphas.items() if value != alpha},
        "target_modules": sorted(paths),
    }
