"""`python -m benchmarks.self_attention`: what token merging could save at most.

Merging half of the tokens leaves a quarter of a self-attention's products, with its matching
free. Shares are of all multiply-adds of diffusers' UNets, counted by torch on tensors without data.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import ipa.bases

SIDES = {"sd15": 64, "sdxl": 128}
TEXT = 77


@contextmanager
def counted() -> Iterator[Counter[int]]:
    """A context that counts the operations of self-attentions' products, by number of tokens."""
    found, attend = Counter[int](), functional.scaled_dot_product_attention

    def seen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
        if q.shape == k.shape:
            found[q.shape[-2]] += 4 * q.numel() * k.shape[-2]
        return attend(q, k, v, **options)

    functional.scaled_dot_product_attention = seen
    try:
        yield found
    finally:
        functional.scaled_dot_product_attention = attend


def main() -> None:
    """Print, for each base at its own size, the share of each grid."""
    for name, side in SIDES.items():
        path = Path(ipa.bases.__file__).parent / name / "unet/config.json"
        config = json.loads(path.read_text("utf-8"))
        with torch.device("meta"), torch.no_grad():
            unet = UNet2DConditionModel.from_config(config)
            added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
            text = torch.zeros(1, TEXT, config["cross_attention_dim"])
            with FlopCounterMode(display=False) as all_of_it, counted() as attention:
                unet(
                    torch.zeros(1, 4, side, side), torch.tensor(1.0), text, added_cond_kwargs=added
                )
        total = all_of_it.get_total_flops()
        for tokens, count in sorted(attention.items(), reverse=True):
            print(f"{name}, {tokens} tokens: {count / total:.3f} of {total / 2e9:.0f} GMAC")


if __name__ == "__main__":
    main()
