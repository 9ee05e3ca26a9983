"""From CLIP features to image tokens: the three projectors of the SD1.5 adapters."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ipa.contract.adapter import HEAD_WIDTH, AdapterSpec

from .attention import attend, merge_heads, split_heads
from .layers import gelu


class LinearProjector(nn.Module):
    """Base, light, vit-G: one linear layer makes all tokens (ip_adapter.py, ImageProjModel)."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.tokens = spec.tokens
        self.proj = nn.Linear(spec.feature_width, spec.tokens * spec.context_width)
        self.norm = nn.LayerNorm(spec.context_width)

    def __call__(self, embedding: mx.array) -> mx.array:
        """(B, E) to (B, T, D)."""
        return self.norm(self.proj(embedding).reshape(embedding.shape[0], self.tokens, -1))


class MlpProjector(nn.Module):
    """Full-face: every hidden state becomes a token (ip_adapter.py, MLPProjModel)."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.proj_in = nn.Linear(spec.feature_width, spec.width)
        self.proj_out = nn.Linear(spec.width, spec.context_width)
        self.norm = nn.LayerNorm(spec.context_width)

    def __call__(self, states: mx.array) -> mx.array:
        """(B, T, E) to (B, T, D)."""
        return self.norm(self.proj_out(gelu(self.proj_in(states))))


class ResamplerLayer(nn.Module):
    """Latents attend to the states and to themselves, then a feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        inner = heads * HEAD_WIDTH
        self.heads = heads
        self.norm_states = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.norm_ff = nn.LayerNorm(width)
        self.proj_in = nn.Linear(width, 4 * width, bias=False)
        self.proj_out = nn.Linear(4 * width, width, bias=False)

    def __call__(self, latents: mx.array, states: mx.array) -> mx.array:
        """(B, T, C) latents and (B, S, C) states to new latents."""
        normed = self.norm_latents(latents)
        seen = mx.concatenate([self.norm_states(states), normed], axis=1)
        keys, values = mx.split(self.to_kv(seen), 2, axis=-1)
        q, k, v = (split_heads(x, self.heads) for x in (self.to_q(normed), keys, values))
        latents = latents + self.to_out(merge_heads(attend(q, k, v)))
        return latents + self.proj_out(gelu(self.proj_in(self.norm_ff(latents))))


class Resampler(nn.Module):
    """Plus, plus-face: learned queries gather the hidden states (ip_adapter/resampler.py)."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.latents = mx.zeros((1, spec.tokens, spec.width))
        self.proj_in = nn.Linear(spec.feature_width, spec.width)
        self.layers = [ResamplerLayer(spec.width, spec.heads) for _ in range(spec.layers)]
        self.proj_out = nn.Linear(spec.width, spec.context_width)
        self.norm_out = nn.LayerNorm(spec.context_width)

    def __call__(self, states: mx.array) -> mx.array:
        """(B, S, E) to (B, T, D)."""
        states = self.proj_in(states)
        latents = mx.broadcast_to(self.latents, (states.shape[0], *self.latents.shape[1:]))
        for layer in self.layers:
            latents = layer(latents, states)
        return self.norm_out(self.proj_out(latents))


PROJECTORS = {"linear": LinearProjector, "mlp": MlpProjector, "resampler": Resampler}
