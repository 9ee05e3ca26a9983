"""ControlNets by diffusers' own module, from a folder or from a file that lies alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ControlNetModel

from ipa.errors import CheckpointError
from ipa.model.control_files import ControlNetFiles
from ipa.model.ignoring import REMEDY

from ..files.spellings import controlnet_spelling
from ..files.weights import (
    MALFORMED,
    Account,
    check_finite,
    load_component,
    quiet,
    read_tensors,
    reason,
)

_PREFIX = "control_model."  # of a ControlNet beside its base model


def load_controlnet(files: ControlNetFiles, dtype: torch.dtype) -> ControlNetModel:
    """Load a ControlNet with its weights.

    Raises:
        CheckpointError: Weights are missing, left over, misshapen or not finite, or were converted
            for MLX.
    """
    account = Account(files.ignore)
    if files.path.is_dir():
        how = (dtype, files.variant, account)
        net = _pooling(load_component(ControlNetModel, "controlnet", files.path, *how), files)
        account.left_out(str(files.path))
        return net
    tensors = read_tensors(files.path, dtype)
    prefix = _PREFIX if any(name.startswith(_PREFIX) for name in tensors) else ""
    given = [name for name in tensors if name.startswith(prefix)]
    try:
        with quiet(), torch.device("meta"):
            net = ControlNetModel.from_config(dict(files.config))
        spelling = controlnet_spelling(given, prefix, net.state_dict().keys(), net.config)
        account.leave_out(spelling.surplus)
        weights = {key: tensors[name] for key, name in spelling.names.items()}
        net.load_state_dict(weights, strict=True, assign=True)
    except MALFORMED as error:
        raise CheckpointError(
            f"{files.path} cannot be loaded as {ControlNetModel.__name__}",
            found=reason(error),
            remedy="it is damaged, or of a structure that its tensors do not tell: use a folder "
            f"with its config.json; {REMEDY}",
        ) from error
    account.names += given
    account.left_out(str(files.path))
    check_finite(net.state_dict(), str(files.path))
    return net.eval().requires_grad_(requires_grad=False)


def _pooling(net: Any, files: ControlNetFiles) -> ControlNetModel:
    """A ControlNet with its pooling set in its config."""
    net.register_to_config(global_pool_conditions=files.spec.global_pool_conditions)
    return net


def embed(net: ControlNetModel, picture: torch.Tensor) -> torch.Tensor:
    """Embed a control picture (1, 3, H, W) as the net's own forward does, (1, C, h, w)."""
    is_turned = net.config.controlnet_conditioning_channel_order == "bgr"
    embedding: torch.Tensor = net.controlnet_cond_embedding(
        picture.flip(1) if is_turned else picture
    )
    return embedding


class _Known(torch.nn.Module):
    def __init__(self, embedding: torch.Tensor) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.embedding


@contextmanager
def embedded(net: ControlNetModel, embedding: torch.Tensor) -> Iterator[None]:
    """A context in which a net's forward takes this embedding, and not that of its picture.

    diffusers embeds the picture anew in every evaluation, for every row.
    """
    module = net.controlnet_cond_embedding
    net.controlnet_cond_embedding = _Known(embedding)
    try:
        yield
    finally:
        net.controlnet_cond_embedding = module
