"""T2I-Adapters by diffusers' own module, from a folder or from a file that lies alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from diffusers import T2IAdapter

from ipa.errors import CheckpointError
from ipa.model.control_files import T2IAdapterFiles
from ipa.model.ignoring import REMEDY
from ipa.model.t2i_adapter import T2IAdapterSpec

from ..files.weights import (
    MALFORMED,
    Account,
    check_finite,
    load_component,
    quiet,
    read_tensors,
    reason,
)

_PREFIX = "adapter."  # of diffusers' names alone
_LIGHT = re.compile(r"body\.(\d+)\.body\.(\d+)\.(.+)")
_FULL = re.compile(r"body\.(\d+)\.(block[12])\.(.+)")
_FULL_FIRST = re.compile(r"body\.(\d+)\.in_conv\.(.+)")


def load_t2i_adapter(files: T2IAdapterFiles, dtype: torch.dtype) -> T2IAdapter:
    """Load a T2I-Adapter with its weights.

    Raises:
        CheckpointError: Weights are missing, left over, misshapen or not finite, or were converted
            for MLX.
    """
    account = Account(files.ignore)
    if files.path.is_dir():
        how = (dtype, files.variant, account)
        module = load_component(T2IAdapter, "t2i_adapter", files.path, *how)
        account.left_out(str(files.path))
        return module
    tensors = read_tensors(files.path, dtype)
    try:
        with quiet(), torch.device("meta"):
            net = T2IAdapter.from_config(dict(files.config))
        names = {spelled: name for name, spelled in _renamed(tensors, files.spec).items()}
        surplus = [name for key, name in names.items() if key not in net.state_dict()]
        account.leave_out(surplus)
        weights = {key: tensors[name] for key, name in names.items() if name not in surplus}
        net.load_state_dict(weights, strict=True, assign=True)
    except MALFORMED as error:
        raise CheckpointError(
            f"{files.path} cannot be loaded as {T2IAdapter.__name__}",
            found=reason(error),
            remedy="it is damaged, or of a structure that its tensors do not tell: use a folder "
            f"with its config.json; {REMEDY}",
        ) from error
    account.names += tensors
    account.left_out(str(files.path))
    check_finite(net.state_dict(), str(files.path))
    return net.eval().requires_grad_(requires_grad=False)


def _renamed(names: Iterable[str], spec: T2IAdapterSpec) -> dict[str, str]:
    """Names in diffusers' spelling, by those of a file; one in the original has none of them."""
    given = list(names)
    if any(name.startswith(_PREFIX) for name in given):
        return {name: name for name in given}
    return {name: _PREFIX + _name(name, spec) for name in given}


def _name(name: str, spec: T2IAdapterSpec) -> str:
    """A name in diffusers' spelling; the original numbers all residual blocks through."""
    if match := _LIGHT.fullmatch(name):
        return f"body.{match[1]}.resnets.{match[2]}.{match[3]}"
    if spec.is_light:
        return name
    if match := _FULL.fullmatch(name):
        block, number = divmod(int(match[1]), spec.resnets)
        return f"body.{block}.resnets.{number}.{match[2]}.{match[3]}"
    if (match := _FULL_FIRST.fullmatch(name)) and int(match[1]) % spec.resnets == 0:
        return f"body.{int(match[1]) // spec.resnets}.in_conv.{match[2]}"
    return name
