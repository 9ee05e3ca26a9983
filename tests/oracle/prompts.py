"""Texts in chunks with weights: transformers' text encoders, and the formulas in float64.

Nothing here reads a syntax: a test says by hand which words stand in which chunk with what weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

Chunk = Sequence[tuple[str, float]]
"""Words with weights, of one chunk or, without end, of all that it takes."""

ROOM = 75


def text_model(pipe: DiffusionPipeline) -> None:
    """diffusers asks a text encoder for `text_model`, which transformers 5 no longer has."""
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)


def prompt_embeds(
    pipe: DiffusionPipeline,
    groups: Sequence[Chunk],
    *,
    second: Sequence[Chunk] | None = None,
    count: int,
    rule: str,
    skip: int = 0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the pipeline takes as prompt_embeds and pooled_prompt_embeds.

    Args:
        pipe: Whose text encoders.
        groups: Each begins a chunk, and goes on in more if it is too long.
        second: The same for SDXL's second encoder; None is `groups`.
        count: Chunks in all.
        rule: "a1111" or "comfyui".
        skip: clip_skip.
    """
    towers = [(pipe.tokenizer, pipe.text_encoder, groups)]
    if hasattr(pipe, "text_encoder_2"):
        towers.append((pipe.tokenizer_2, pipe.text_encoder_2, second or groups))
    is_xl, columns, pooled = len(towers) == 2, [], None
    for tokenizer, encoder, own in towers:
        rows = split(tokenizer, own)
        rows += [[]] * (count - len(rows))
        none, _ = run(tokenizer, encoder, [], is_xl, skip)
        states = []
        for number, row in enumerate(rows):
            z, vector = run(tokenizer, encoder, [n for n, _ in row], is_xl, skip)
            weights = np.ones(77)
            weights[1 : len(row) + 1] = [weight for _, weight in row]
            states.append(weigh(z, none, weights, rule))
            pooled = vector if number == 0 else pooled
        columns.append(np.concatenate(states))
    embeds = torch.from_numpy(np.concatenate(columns, axis=-1)[None].astype(np.float32))
    return embeds, pooled


def split(tokenizer: Any, groups: Sequence[Chunk]) -> list[list[tuple[int, float]]]:
    rows = []
    for group in groups:
        pairs = [
            (number, weight)
            for words, weight in group
            for number in tokenizer(words, add_special_tokens=False, verbose=False).input_ids
        ]
        rows += [pairs[n : n + ROOM] for n in range(0, max(len(pairs), 1), ROOM)]
    return rows


def run(
    tokenizer: Any, encoder: Any, ids: list[int], is_xl: bool, skip: int
) -> tuple[np.ndarray, torch.Tensor | None]:
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    row += [tokenizer.pad_token_id] * (77 - len(row))
    with torch.no_grad():
        out = encoder(torch.tensor([row]), output_hidden_states=True)
        if is_xl:
            z = out.hidden_states[-2 - skip]
        else:
            z = encoder.final_layer_norm(out.hidden_states[-1 - skip])
    return z[0].double().numpy(), out.get("text_embeds")


def weigh(z: np.ndarray, none: np.ndarray, weights: np.ndarray, rule: str) -> np.ndarray:
    if rule == "comfyui":
        return np.stack([(a - b) * w + b for a, b, w in zip(z, none, weights, strict=True)])
    before = z.mean()
    z = np.stack([a * w for a, w in zip(z, weights, strict=True)])
    return z * (before / z.mean())
