"""`ipa-mlx convert`: a model becomes a folder that MLX loads as it is, or goes back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ipa.app.show import bytes_bar
from ipa.contract.errors import RequestError
from ipa.contract.model import ModelFolder
from ipa.prepare.model_folder import open_model_folder

if TYPE_CHECKING:
    from ipa_convert.row import DType, Layout

_DTYPES = ("float32", "float16", "bfloat16")
_LAYOUTS = ("mlx", "diffusers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What was written: the folder, its bytes of weights, and how many tensors were verified."""

    folder: Path
    bytes: int
    verified: int | None


def run_conversion(
    model: ModelFolder,
    target: Path,
    *,
    dtype: str | None,
    layout: str,
    quantize: int | None,
    verify: bool,
) -> Conversion:
    """Convert with a bar, and compare what was written with its source if that is asked for.

    Raises:
        CheckpointError: See `ipa_convert.convert_model` and `verify_model`.
        RequestError: An option has no such value.
    """
    import ipa_convert

    if dtype is not None and dtype not in _DTYPES:
        raise RequestError("unknown dtype", found=repr(dtype), remedy=", ".join(_DTYPES))
    if layout not in _LAYOUTS:
        raise RequestError("unknown layout", found=repr(layout), remedy=", ".join(_LAYOUTS))
    precision, order = cast("DType | None", dtype), cast("Layout", layout)
    with bytes_bar("converting") as report:
        ipa_convert.convert_model(
            model, target, dtype=precision, layout=order, quantize=quantize, on_progress=report
        )
    verified = None
    if verify:
        written = open_model_folder(target, name=str(target))
        with bytes_bar("verifying") as report:
            verified = ipa_convert.verify_model(model, written, dtype=precision, on_progress=report)
    size = sum(path.stat().st_size for path in target.glob("*/*.safetensors"))
    return Conversion(folder=target, bytes=size, verified=verified)
