"""Other spellings of IP-Adapter files: training checkpoints, and projectors named by diffusers.

diffusers names a projector's tensors by its own classes (`ImageProjection`, `IPAdapter…Projection`
of models/embeddings.py) and keeps the keys and values of a resampler apart. Some re-exports do too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..containers.checkpoint import Checkpoint
from ..containers.dtypes import Array
from ..containers.stored import Stored
from .rules import Rename, compile_pattern, rename

# The original training scripts' own checkpoints (tutorial_train.py); ComfyUI reads them as well.
ALIASES = (
    Rename("image_proj_model.**", "image_proj.**"),
    Rename("adapter_modules.**", "ip_adapter.**"),
)


def _resampler(root: str) -> tuple[Rename, ...]:
    source, target = "image_proj.layers.#", f"{root}.layers.#"
    return (
        Rename(f"{source}.ln0.*", f"{target}.0.norm1.*"),
        Rename(f"{source}.ln1.*", f"{target}.0.norm2.*"),
        Rename(f"{source}.attn.to_q.weight", f"{target}.0.to_q.weight"),
        Rename(f"{source}.attn.to_kv.weight", f"{target}.0.to_kv.weight"),
        Rename(f"{source}.attn.to_out.0.weight", f"{target}.0.to_out.weight"),
        Rename(f"{source}.ff.0.*", f"{target}.1.0.*"),
        Rename(f"{source}.ff.1.net.0.proj.weight", f"{target}.1.1.weight"),
        Rename(f"{source}.ff.1.net.2.weight", f"{target}.1.3.weight"),
    )


_PERCEIVER = "image_proj.perceiver_resampler"
_FEED_FORWARD = (
    Rename("image_proj.ff.net.0.proj.*", "image_proj.proj.0.*"),
    Rename("image_proj.ff.net.2.*", "image_proj.proj.2.*"),
)
# A tensor that only this spelling has, and the way to the original's.
_DIFFUSERS: Mapping[str, tuple[Rename, ...]] = {
    "image_proj.image_embeds.weight": (Rename("image_proj.image_embeds.*", "image_proj.proj.*"),),
    "image_proj.proj.net.0.proj.weight": (
        Rename("image_proj.proj.net.0.proj.*", "image_proj.proj.0.*"),
        Rename("image_proj.proj.net.2.*", "image_proj.proj.2.*"),
        *(
            Rename(f"image_proj.{part}.*", f"{_PERCEIVER}.{part}.*")
            for part in ("proj_in", "proj_out", "norm_out")
        ),
        *_resampler(_PERCEIVER),
    ),
    "image_proj.layers.0.attn.to_q.weight": _resampler("image_proj"),
}
_APART = "image_proj.layers.#.attn.to_k.weight"
_MIXED, _MIXED_NORM = "image_proj.ff.net.2.weight", "image_proj.norm.weight"


@dataclass(frozen=True, slots=True)
class Joined:
    """A tensor that a file holds in two parts: the rows of the first, then those of the second."""

    name: str
    first: Stored
    second: Stored

    @property
    def dtype(self) -> str:
        """The type of both parts."""
        return self.first.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole."""
        return (self.first.shape[0] + self.second.shape[0], *self.first.shape[1:])

    @property
    def where(self) -> str:
        """The file that holds the parts."""
        return self.first.where

    def array(self) -> Array:
        """The values of both parts, joined."""
        return np.concatenate([self.first.array(), self.second.array()])

    def plain_file(self) -> None:
        """None: no file has the whole."""

    def apart(self) -> Joined:
        """The same tensor, its parts read as a stream."""
        return Joined(self.name, self.first.apart(), self.second.apart())

    def release(self) -> None:
        """Release both parts."""
        self.first.release()
        self.second.release()


def join_keys_values(checkpoint: Checkpoint) -> Checkpoint:
    """Join a resampler's `to_k` and `to_v` as one `to_kv`, as the original has it.

    Parts that do not fit each other stay, and are left over where the checkpoint is planned.
    """
    tensors = dict(checkpoint)
    matches = compile_pattern(_APART).fullmatch
    for name, keys in checkpoint.items():
        other = name.removesuffix("to_k.weight") + "to_v.weight"
        whole = name.removesuffix("to_k.weight") + "to_kv.weight"
        values = tensors.get(other)
        if not matches(rename(name, ALIASES)) or values is None or whole in tensors:
            continue
        if len(keys.shape) == 2 and (keys.dtype, keys.shape) == (values.dtype, values.shape):
            del tensors[name], tensors[other]
            tensors[whole] = Joined(whole, keys, values)
    return Checkpoint(checkpoint.where, tensors, checkpoint.converted, checkpoint.metadata)


def aliases(checkpoint: Checkpoint) -> tuple[Rename, ...]:
    """The rules from a file's spelling to the original repository's."""
    shapes = {rename(name, ALIASES): tensor.shape for name, tensor in checkpoint.items()}
    rules = next((rules for mark, rules in _DIFFUSERS.items() if mark in shapes), ())
    if _MIXED in shapes:
        rules = _FEED_FORWARD
        # Full-face and FaceID have the same names there; full-face makes one token of a state.
        if shapes[_MIXED][:1] == shapes.get(_MIXED_NORM, ())[:1]:
            rules += (Rename("image_proj.norm.*", "image_proj.proj.3.*"),)
    return ALIASES + rules
