"""SDXL's text towers on MLX: states, and the pooled row by both conventions of end tokens."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from ipa.model.clip import ClipTextSpec
from ipa_convert import read_component
from ipa_mlx.networks.clip import TextEncoder
from ipa_mlx.networks.weights import arrays, fill
from oracle import models
from oracle.measure import relative

END = 673
# Ids, and where the pooled row must lie by transformers for end tokens 673 and 2.
IDS: dict[str, tuple[list[int], int, int]] = {
    "padded with the end": ([672, 5, 9, END, END, END, END], 3, 3),
    "padded with 0": ([672, 5, 9, 7, END, 0, 0], 4, 4),
    "full": ([672, 5, 9, 7, 8, 11, END], 6, 6),
    "an id beyond the end": ([672, 5, 680, 7, END, 0, 0], 4, 2),  # a token that was added later
}


@pytest.mark.parametrize("end", [END, 2])
@pytest.mark.parametrize("name", IDS)
def test_pooled_row(name: str, end: int, tmp_path: Path) -> None:
    config = models.SECOND_TEXT | {
        "eos_token_id": end,
        "vocab_size": 700,
        "projection_dim": 24,
        "architectures": ["CLIPTextModelWithProjection"],
    }
    reference = CLIPTextModelWithProjection(CLIPTextConfig(**config))
    models.randomize(reference, 4).save_pretrained(tmp_path)
    spec = ClipTextSpec.from_config(config)
    encoder = TextEncoder(spec)
    weights = arrays(read_component("text_encoder_2", tmp_path, spec), mx.float32)
    fill(encoder, weights, "text_encoder_2")
    ids, *rows = IDS[name]
    *_, states, last = encoder.hidden_states(mx.array([ids]))
    pooled = np.array(encoder.pooled(last, mx.array([ids])))
    with torch.no_grad():
        expected = reference(torch.tensor([ids]), output_hidden_states=True)
        # The case is what it says, in transformers' own words.
        row = reference.text_projection(expected.last_hidden_state[0, rows[end == 2]])
    assert torch.allclose(expected.text_embeds[0], row)
    # Relative L2: measured 4e-7.
    assert relative(np.array(states), expected.hidden_states[-2].numpy()) < 2e-6
    assert relative(pooled, expected.text_embeds.numpy()) < 2e-6
