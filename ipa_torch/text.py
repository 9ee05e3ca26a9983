"""Prompts through one text encoder, or through SDXL's two; and what SDXL's UNet is told beside."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ipa.contract.text import Sizes, TextStates


def encode_text(
    first: CLIPTextModel, second: CLIPTextModelWithProjection | None, ids: torch.Tensor
) -> TextStates:
    """One prompt's ids, (text encoders, L), to its states.

    One encoder gives its last layer, normed. SDXL takes the layer before from both, side by side,
    and the second's pooled text.
    """
    if second is None:
        return TextStates(first(ids).last_hidden_state)
    states = first(ids[:1], output_hidden_states=True).hidden_states[-2]
    other = second(ids[1:], output_hidden_states=True)
    return TextStates(torch.cat([states, other.hidden_states[-2]], dim=-1), other.text_embeds)


def no_text(like: TextStates) -> TextStates:
    """Zeros in the shape of other states."""
    return TextStates(torch.zeros_like(like.states), torch.zeros_like(like.pooled))


def added_conditioning(
    text: Sequence[TextStates], sizes: Sequence[Sizes]
) -> dict[str, torch.Tensor]:
    """diffusers' added_cond_kwargs: pooled text (R, P) and six numbers (R, 6); none without sizes.

    The numbers stay float32 in every precision: float16 has no 2049.
    """
    if not sizes:
        return {}
    pooled = torch.cat([row.pooled for row in text])
    numbers = [row.numbers for row in sizes]
    return {
        "text_embeds": pooled,
        "time_ids": torch.tensor(numbers, dtype=torch.float32, device=pooled.device),
    }
