"""SD1.5's ControlNet at its true size, from a lone file in the original naming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from diffusers import ControlNetModel

from ipa.sources.controls import resolve_controlnet
from oracle import controlnets, models

if TYPE_CHECKING:
    from benchmarks.true_size import Comparison


def compare_controlnet(c: Comparison, side: int) -> None:
    """One evaluation with both rows of guidance; all thirteen results, side by side."""
    import mlx.core as mx

    from ipa_mlx.conditioning import Conditioning
    from ipa_mlx.networks.controlnet import load_controlnet

    draw = np.random.default_rng(6)
    x = draw.standard_normal((2, 4, side, side), dtype=np.float32)
    text = draw.standard_normal((2, 77, 768), dtype=np.float32)
    pixels = draw.uniform(0, 1, (1, 3, 8 * side, 8 * side)).astype(np.float32)
    reference = models.randomize(ControlNetModel(**controlnets.TRUE["SD1.5"]), seed=8)
    path = c.folder / "controlnet.safetensors"
    safetensors.torch.save_file(controlnets.original(dict(reference.state_dict())), path)
    net = load_controlnet(resolve_controlnet(path), mx.float32, None)
    conditioning = Conditioning(
        2, tuple(a.keys_values(mx.array(text)) for a in net.cross_attentions), ()
    )
    x_last, pixels_last = (mx.array(a.transpose(0, 2, 3, 1)) for a in (x, pixels))
    found = net(x_last, 501.0, conditioning.context(()), net.embed(pixels_last), [1.0] * 13)
    ours = np.concatenate([np.array(r).transpose(0, 3, 1, 2).ravel() for r in found])
    del net, conditioning

    def run(dtype: torch.dtype) -> Any:
        cast = [torch.from_numpy(a).to(dtype) for a in (x, text, pixels)]
        down, middle = reference(
            cast[0], torch.tensor(501.0), cast[1], cast[2].expand(2, -1, -1, -1), return_dict=False
        )
        return torch.cat([result.flatten() for result in (*down, middle)])

    c.record("ControlNet", reference, run, ours)
