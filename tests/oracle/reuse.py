"""DeepCache's own extension of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from DeepCache import DeepCacheSDHelper

TWICE = ("heun", "kdpm2", "pndm")
"""Samplers that visit a timestep twice, by the beginnings of their names."""


class ByEvaluation(DeepCacheSDHelper):
    """The same with its steps counted as they come: the original looks up where a timestep stands
    first, and so takes two evaluations at one for the same step. Some more may be full."""

    def __init__(self, pipe: Any, more: Sequence[int] = ()) -> None:
        super().__init__(pipe)
        self.more = frozenset(more)

    def wrap_unet_forward(self) -> None:
        forward = self.function_dict["unet_forward"] = self.pipe.unet.forward
        self.cur_timestep = -1

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.cur_timestep += 1
            return forward(*args, **kwargs)

        self.pipe.unet.forward = counted

    def is_skip_step(self, *place: Any, **kind: Any) -> bool:
        skips = super().is_skip_step(*place, **kind)
        return skips and self.cur_timestep not in self.more


@contextmanager
def reused(
    pipe: Any, interval: int, branch: int, scheduler: str | None = None, more: Sequence[int] = ()
) -> Iterator[None]:
    """A context in which a pipeline reuses its deep part.

    The original takes it that a block has two layers; the same branches of others are counted here.
    """
    if interval == 1:
        yield
        return
    counts = more or (scheduler or "").startswith(TWICE)
    helper = ByEvaluation(pipe, more) if counts else DeepCacheSDHelper(pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    layers = pipe.unet.config.layers_per_block
    if layers != 2:
        block, layer = divmod(branch, layers + 1)
        helper.params |= {"cache_block_id": block, "cache_layer_id": layer}
    helper.enable()
    try:
        yield
    finally:
        helper.disable()
