"""Reading original weights with the loaders of diffusers and transformers; and devices."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ipa.errors import BackendError, CheckpointError
from ipa.model.config import Config
from ipa.model.files import STEMS, container, find_weights, not_finite
from ipa.model.ignoring import NOTHING, REMEDY, Ignore
from ipa.model.left_out import LeftOut
from ipa.model.unet import NO_ADAPTER

from .torch_file import read_state

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
_STORED = {"F32", "F16", "BF16"}  # safetensors' tags of what weights may be
_TAGS = dict(zip(DTYPES.values(), ("F64", "F32", "F16", "BF16"), strict=True))
_IGNORED = "position_ids"  # a table 0, 1, 2, … that old transformers saved with CLIP's weights
_TOWER = r"logit_scale|attn_mask|text_projection\.weight|visual_projection\.weight"
# What files of a component hold beside it, where its class has no place for it.
_IDLE: Mapping[str, re.Pattern[str]] = {
    "unet": re.compile(r"encoder_hid_proj\..+|.+\.processor\.to_[kv]_ip\..+"),
    "vae": re.compile(r"(?:loss|model_ema)\..+"),
    "text_encoder": re.compile(rf"{_TOWER}|vision_model\..+"),
    "text_encoder_2": re.compile(rf"{_TOWER}|vision_model\..+"),
    "image_encoder": re.compile(rf"{_TOWER}|text_model\..+"),
}
# What is read in place of values of a component's config: a saved IP-Adapter is not loaded.
_CHANGES: Mapping[str, Config] = {"unet": NO_ADAPTER}
_MAX_REASON = 300
_DEVICES = ("cpu", "cuda", "mps")
# What libraries raise for contents that they did not expect.
MALFORMED = (
    AttributeError,
    IndexError,
    KeyError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


def best_device() -> str:
    """The fastest device that torch finds here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def find_device(device: str | None) -> str:
    """Check a device; None takes the fastest. Raises BackendError for one that does not work."""
    if device is None:
        return best_device()
    remedy = f"leave device= out, or pass one of {', '.join(_DEVICES)}"
    try:
        kind = torch.zeros(1, device=device).device.type
    except (RuntimeError, AssertionError) as error:
        raise BackendError(
            f"torch cannot use the device {device!r}", found=reason(error), remedy=remedy
        ) from error
    if kind not in _DEVICES:
        raise BackendError(f"the device {device!r} is not supported", remedy=remedy)
    return device


@dataclass
class Account:
    """The tensors of a model's files that were taken, and left out.

    Attributes:
        ignore: What may be left out of a network.
        names: Those that there were.
        gone: Those that were left out.
    """

    ignore: Ignore = NOTHING
    names: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def take(
        self, component: str, module: torch.nn.Module, report: Mapping[str, Any], path: Path
    ) -> None:
        """Note what a library loaded. Raises CheckpointError unless its report is in order."""
        idle, given = _IDLE.get(component), [str(key) for key in report.get("unexpected_keys", ())]
        gone = [key for key in given if self.ignore.matches(key) or (idle and idle.fullmatch(key))]
        _refuse({**report, "unexpected_keys": [key for key in given if key not in gone]}, path)
        self.gone += gone
        self.names += [*module.state_dict(), *given]

    def leave_out(self, surplus: Collection[str]) -> None:
        """Note what has no place. Raises ValueError for what may not be ignored."""
        left = [name for name in surplus if not self.ignore.matches(name)]
        if left:
            raise ValueError(f"{len(left)} left over: {', '.join(left[:3])}")
        self.gone += surplus

    def left_out(self, where: str) -> LeftOut:
        """All that was left out. Raises RequestError for a pattern that matches nothing."""
        self.ignore.check(self.gone, self.names, where)
        return LeftOut.of(where, self.gone)


def load_component(
    kind: Any,
    component: str,
    folder: Path,
    dtype: torch.dtype,
    variant: str | None,
    account: Account | None = None,
) -> torch.nn.Module:
    """Load one module from its folder: safetensors or files of torch.save.

    What its class never has, or may be ignored, is left out and noted in the account.

    Raises:
        CheckpointError: Tensors are missing, left over, misshapen or not finite, or the folder was
            converted for MLX.
    """
    files = find_weights(folder, STEMS[component], variant).files
    safe = files[0].suffix == ".safetensors"
    for file in files:
        _require_ending(file)
        read_shapes(file)
    options: dict[str, Any] = {"variant": variant, "dtype": dtype, **_CHANGES.get(component, {})}
    if kind.__module__.startswith("transformers."):
        # It names misshapen tensors only in its report, and only if it may go on.
        options["ignore_mismatched_sizes"] = True
    try:
        with quiet():
            module, report = kind.from_pretrained(
                folder,
                use_safetensors=safe,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (OSError, *MALFORMED, SafetensorError, UnpicklingError) as error:
        raise CheckpointError(
            f"{folder} cannot be loaded as {kind.__name__}",
            found=reason(error),
            remedy="check that config.json belongs to these weights",
        ) from error
    account = account or Account()
    account.take(component, module, report, folder)
    check_finite(module.state_dict(), str(folder))
    return module.eval().requires_grad_(requires_grad=False)


def load_encoder_file(
    path: Path, config: Mapping[str, Any], dtype: torch.dtype, account: Account
) -> torch.nn.Module:
    """Load an image encoder from one file, under transformers' names.

    What its class never has, or may be ignored, is left out and noted in the account.

    Raises:
        CheckpointError: Its names are another tool's, or its tensors are not those of the config.
    """
    tensors = read_tensors(path, dtype, [n for n in read_shapes(path) if _IGNORED not in n])
    if not any(name.startswith("vision_model.") for name in tensors):
        raise CheckpointError(
            f"{path.name}: the reference reads image encoders under transformers' names",
            found=", ".join(sorted(tensors)[:3]),
            remedy="use the mlx backend, which reads every spelling, or a file of transformers",
        )
    try:
        with quiet():
            module, report = CLIPVisionModelWithProjection.from_pretrained(
                None,
                config=CLIPVisionConfig(**config),
                state_dict=tensors,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except (OSError, *MALFORMED) as error:
        raise CheckpointError(
            f"{path} cannot be loaded as an image encoder",
            found=reason(error),
            remedy="check that config.json belongs to these weights",
        ) from error
    account.take("image_encoder", module, report, path)
    loaded: torch.nn.Module = module.eval().requires_grad_(requires_grad=False)
    return loaded


def read_tensors(
    path: Path, dtype: torch.dtype, names: Collection[str] | None = None
) -> dict[str, torch.Tensor]:
    """Read tensors of one file in one precision, finite in it: all, or those of these names."""
    if container(path) == "safetensors":
        _shapes(path)
        with safe_open(path, framework="pt") as file:
            stored = list(file.keys())
            wanted = stored if names is None else [name for name in stored if name in names]
            tensors = {name: file.get_tensor(name).to(dtype) for name in wanted}
    else:
        values = _unpickle(path, "cpu")
        tensors = {n: t.to(dtype) for n, t in values.items() if names is None or n in names}
    check_finite(tensors, str(path))
    return tensors


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes of one file, without its values."""
    if container(path) == "safetensors":
        return _shapes(path)
    return {name: tuple(tensor.shape) for name, tensor in _unpickle(path, "meta").items()}


def require_weights(path: Path) -> None:
    """Raise CheckpointError for a file that was converted, or is damaged."""
    if container(path) == "safetensors":
        _shapes(path, strict=False)


def _require_ending(path: Path) -> None:
    """Raise unless a file's ending agrees with its content: the libraries go by it."""
    kind = container(path)
    if (kind == "safetensors") != (path.suffix == ".safetensors"):
        raise CheckpointError(
            f"{path} is not what its ending says",
            found=f"a {kind} file",
            remedy="call it .safetensors, or .bin where it is a file of torch",
        )


def read_file(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of one file as they are, whatever their types."""
    return load_file(path) if container(path) == "safetensors" else _tensors(path, "cpu")


def _unpickle(path: Path, device: str) -> dict[str, torch.Tensor]:
    """Read the weights of a file of torch.save, which is never run."""
    tensors = _tensors(path, device)
    for name, value in tensors.items():
        _require_float(path, name, _TAGS.get(value.dtype, str(value.dtype)))
    return tensors


def _tensors(path: Path, device: str) -> dict[str, torch.Tensor]:
    state = read_state(path, device=device)
    tensors: dict[str, torch.Tensor] = {}
    for name, value in _flat(state):
        if not isinstance(value, torch.Tensor) or name in tensors:
            raise CheckpointError(
                f"{path} holds more than weights",
                found=f"{name[:80] or 'the whole'}: {type(value).__name__}",
                remedy="use the .safetensors file of the same model",
            )
        tensors[name] = value
    return tensors


def _flat(state: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a dict, and of the dicts in it: image_proj and ip_adapter."""
    for key, value in state.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", entry) for inner, entry in value.items())
        else:
            yield str(key), value


def _shapes(path: Path, *, strict: bool = True) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            if "ipa_layout" in (file.metadata() or {}):
                raise CheckpointError(
                    f"{path} was converted for MLX",
                    remedy="the reference reads originals: give it the folder it was made from",
                )
            slices = {name: file.get_slice(name) for name in list(file.keys())}
            for name, part in slices.items() if strict else ():
                _require_float(path, name, part.get_dtype())
            return {name: tuple(part.get_shape()) for name, part in slices.items()}
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged", found=str(error), remedy="download it again"
        ) from error


def _require_float(path: Path, name: str, stored: str) -> None:
    if stored not in _STORED and _IGNORED not in name:
        raise CheckpointError(
            f"{path}: {name} is no floating-point weight",
            found=stored,
            remedy=f"use a checkpoint in {', '.join(sorted(_STORED))}",
        )


def check_finite(tensors: dict[str, torch.Tensor], where: str) -> None:
    """Raise CheckpointError for a NaN or infinite weight."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            position = int(torch.isfinite(tensor).reshape(-1).logical_not().nonzero()[0])
            precision = str(tensor.dtype).removeprefix("torch.")
            raise not_finite(where, name, position, tensor.numel(), precision)


def reason(error: Exception) -> str:
    """A library's error in a line."""
    first = " ".join(str(error).split()).split(". ")[0]
    return first[:_MAX_REASON] or type(error).__name__


def _refuse(report: dict[str, Any], folder: Path) -> None:
    wrong = {
        kind: sorted(_spell(k) for k in report.get(f"{kind}_keys", ()) if _IGNORED not in str(k))
        for kind in ("missing", "unexpected", "mismatched")
    }
    found = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in wrong.items() if keys]
    if found:
        raise CheckpointError(
            f"{folder}: the weights are not those of its config.json",
            found="; ".join(found),
            remedy="take config and weights from one model"
            + (f"; {REMEDY}" if wrong["unexpected"] else ""),
        )


def _spell(key: str | tuple[str, torch.Size, torch.Size]) -> str:
    """A name in words, from a name or transformers' (name, found shape, needed shape)."""
    return key if isinstance(key, str) else f"{key[0]}: {tuple(key[1])}, needed {tuple(key[2])}"


@contextmanager
def quiet() -> Iterator[None]:
    """A context that keeps the libraries' bars and warnings off the terminal.

    They also draw from torch's generator for weights that are then overwritten; it is put back.
    """
    libraries = (diffusers.utils.logging, transformers.utils.logging)
    before = [(lib.get_verbosity(), lib.is_progress_bar_enabled()) for lib in libraries]
    for library in libraries:
        library.set_verbosity(50)
        library.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for library, (level, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()
