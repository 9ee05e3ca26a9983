"""ControlNets by diffusers' own module, from a folder or from a file that lies alone."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint

from ipa.contract.controlnet import ControlNetFiles
from ipa.contract.errors import CheckpointError

from .loading import MALFORMED, check_finite, load_component, quiet, read_tensors, reason

_PREFIX = "control_model."  # of a ControlNet beside its base model


def load_controlnet(files: ControlNetFiles, dtype: torch.dtype) -> ControlNetModel:
    """A ControlNet with its weights.

    Raises:
        CheckpointError: Weights are missing, left over, misshapen or not finite, or were converted
            for MLX.
    """
    if files.path.is_dir():
        return _pooling(
            load_component(ControlNetModel, "controlnet", files.path, dtype, files.variant), files
        )
    own = _own(read_tensors(files.path, dtype))
    try:
        with quiet(), torch.device("meta"):
            net = ControlNetModel.from_config(dict(files.config))
        weights = convert_controlnet_checkpoint(dict(own), net.config)
        if len(weights) != len(own):
            raise ValueError(f"{len(own)} tensors, {len(weights)} needed")
        net.load_state_dict(weights, strict=True, assign=True)
    except MALFORMED as error:
        raise CheckpointError(
            f"{files.path} cannot be loaded as {ControlNetModel.__name__}",
            found=reason(error),
            remedy="it is damaged, or of a structure that its tensors do not tell: use a folder "
            "with its config.json",
        ) from error
    check_finite(net.state_dict(), str(files.path))
    return net.eval().requires_grad_(requires_grad=False)


def _own(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A ControlNet's tensors without its base model's."""
    own = {n.removeprefix(_PREFIX): t for n, t in tensors.items() if n.startswith(_PREFIX)}
    return own or tensors


def _pooling(net: Any, files: ControlNetFiles) -> ControlNetModel:
    """What was told of a folder's ControlNet beside its config."""
    net.register_to_config(global_pool_conditions=files.spec.global_pool_conditions)
    return net
