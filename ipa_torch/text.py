"""Prompts through one text encoder, or SDXL's two, and SDXL's pooled text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.func import functional_call
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from ipa.backend.text import PLAIN, Sizes, TextOptions, TextStates
from ipa.prepare.text.weights import weigh


def encode_text(
    first: CLIPTextModel,
    second: CLIPTextModelWithProjection | None,
    ids: torch.Tensor,
    reading: TextOptions = PLAIN,
) -> TextStates:
    """Encode one prompt's ids, (text encoders, L) or (text encoders, chunks, L), to its states.

    One encoder gives its last layer, normed. SDXL takes the layer before from both, side by side,
    and the second's pooled text, that of the first chunk. Chunks are encoded one by one, so that
    each has the bits that it has alone.
    """
    rows, outputs, columns = ids.reshape(len(ids), -1, ids.shape[-1]), [], []
    for rank, tower in enumerate([first] if second is None else [first, second]):
        learned = reading.learned[rank] if reading.learned else None
        normed, skip = second is None, reading.clip_skip
        outputs = [_run(tower, chunk[None], learned) for chunk in rows[rank]]
        states = [_taken(tower, output, skip, normed=normed) for output in outputs]
        empty = None
        if reading.empty is not None:
            none = torch.from_numpy(reading.empty[rank].astype(np.int64)).to(ids.device)
            output = _run(tower, none[None], learned)
            empty = _taken(tower, output, skip, normed=normed)
        weights = [reading.weights_of(rank, number) for number in range(len(states))]
        pairs = zip(states, weights, strict=True)
        columns.append(torch.cat([_weighted(*pair, empty) for pair in pairs], dim=1))
    if second is None:
        return TextStates(columns[0])
    pooled = _pooled(second, outputs[0], rows[1, :1], learned=bool(reading.learned))
    return TextStates(torch.cat(columns, dim=-1), pooled)


def _run(tower: torch.nn.Module, ids: torch.Tensor, learned: npt.NDArray[np.float32] | None) -> Any:
    """Run a text encoder, with learned embeddings behind its own for this call alone."""
    if learned is None:
        return tower(ids, output_hidden_states=True)
    names = [n for n, _ in tower.named_parameters() if n.endswith("token_embedding.weight")]
    table = tower.get_parameter(names[0])
    longer = torch.cat([table, torch.from_numpy(learned).to(table)])
    return functional_call(tower, {names[0]: longer}, (ids,), {"output_hidden_states": True})


def _taken(tower: torch.nn.Module, output: Any, skip: int, *, normed: bool) -> torch.Tensor:
    if not normed:
        return output.hidden_states[-2 - skip]
    if skip == 0:
        return output.last_hidden_state
    (norm,) = (m for n, m in tower.named_modules() if n.endswith("final_layer_norm"))
    return norm(output.hidden_states[-1 - skip])


def _pooled(
    second: CLIPTextModelWithProjection, output: Any, ids: torch.Tensor, *, learned: bool
) -> torch.Tensor:
    """The pooled text; found by ourselves with learned words, whose ids hide the end token."""
    if not learned:
        return output.text_embeds
    config = second.config
    usual = torch.where(ids >= config.vocab_size, 0, ids)
    is_end = usual if config.eos_token_id == 2 else usual == config.eos_token_id
    row = is_end.int().argmax(dim=-1)
    return second.text_projection(output.last_hidden_state[:, row[0]])


def _weighted(
    states: torch.Tensor, weights: npt.NDArray[np.float64] | None, empty: torch.Tensor | None
) -> torch.Tensor:
    if weights is None:
        return states
    rows = [None if row is None else row[0].float().cpu().numpy() for row in (states, empty)]
    return torch.from_numpy(weigh(rows[0], weights, rows[1]))[None].to(states)


def no_text(like: TextStates) -> TextStates:
    """Zeros in the shape of other states: SDXL's empty negative prompt."""
    return TextStates(torch.zeros_like(like.states), torch.zeros_like(like.pooled))


def added_conditioning(
    text: Sequence[TextStates], sizes: Sequence[Sizes]
) -> dict[str, torch.Tensor]:
    """diffusers' added_cond_kwargs: pooled text (R, P) and sizes (R, 6); else empty.

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
