"""CLIP's two towers (transformers' CLIPTextModel and CLIPVisionModelWithProjection)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ipa.model.clip import ClipTextSpec, ClipVisionSpec

from .attention import SelfAttention
from .layers import ACTIVATIONS


class ClipFeedForward(nn.Module):
    """Two linear layers with CLIP's activation between them."""

    def __init__(self, spec: ClipTextSpec | ClipVisionSpec) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        self.proj_in = nn.Linear(spec.width, spec.intermediate)
        self.proj_out = nn.Linear(spec.intermediate, spec.width)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, L, C) to the same."""
        return self.proj_out(self.activation(self.proj_in(x)))


class ClipLayer(nn.Module):
    """A transformer layer with its norms before attention and feed-forward."""

    def __init__(self, spec: ClipTextSpec | ClipVisionSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.attention = SelfAttention(spec.width, spec.heads, bias=True)
        self.norm2 = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.feed_forward = ClipFeedForward(spec)

    def __call__(self, x: mx.array, mask: str | None = None) -> mx.array:
        """(B, L, C) to the same."""
        x = x + self.attention(self.norm1(x), mask)
        return x + self.feed_forward(self.norm2(x))


class TextEncoder(nn.Module):
    """Token ids to the text states that the UNet attends to."""

    def __init__(self, spec: ClipTextSpec) -> None:
        super().__init__()
        self.end_token = spec.end_token
        self.token_embedding = nn.Embedding(spec.vocabulary, spec.width)
        self.position_embedding = nn.Embedding(spec.positions, spec.width)
        self.layers = [ClipLayer(spec) for _ in range(spec.layers)]
        self.final_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        if spec.projection is not None:
            self.projection = nn.Linear(spec.width, spec.projection, bias=False)

    def __call__(self, token_ids: mx.array) -> mx.array:
        """(B, L) ids to the last layer's states after the final norm, (B, L, C)."""
        return self.final_norm(self.hidden_states(token_ids)[-1])

    def states(self, token_ids: mx.array) -> mx.array:
        """(B, L) ids to the states that enter the last layer, (B, L, C).

        These are transformers' `hidden_states[-2]`: no final norm.
        """
        return self.hidden_states(token_ids)[-2]

    def hidden_states(self, token_ids: mx.array, learned: mx.array | None = None) -> list[mx.array]:
        """(B, L) ids to what enters each layer and what leaves the last, (B, L, C) each.

        These are transformers' `hidden_states`. What is not used is never computed.

        Args:
            token_ids: The ids.
            learned: Embeddings (V, C) of the ids from the vocabulary's size on.
        """
        x = self._embedded(token_ids, learned)
        x = x + self.position_embedding.weight[: token_ids.shape[1]]
        found = [x]
        for layer in self.layers:
            found.append(layer(found[-1], mask="causal"))
        return found

    def _embedded(self, token_ids: mx.array, learned: mx.array | None) -> mx.array:
        if learned is None:
            return self.token_embedding(token_ids)
        size = self.token_embedding.weight.shape[0]
        rows = learned.astype(self.token_embedding.weight.dtype)
        of_words = rows[mx.clip(token_ids - size, 0, len(rows) - 1)]
        usual = self.token_embedding(mx.minimum(token_ids, size - 1))
        return mx.where((token_ids >= size)[..., None], of_words, usual)

    def pooled(self, last: mx.array, token_ids: mx.array) -> mx.array:
        """What leaves the last layer, (B, L, C), to the first end token's projected row, (B, P)."""
        # As in transformers: configs that say 2 are wrong, and the end is the largest id, but for
        # those of learned words, of which transformers would take one.
        token_ids = mx.where(token_ids >= self.token_embedding.weight.shape[0], 0, token_ids)
        is_end = token_ids if self.end_token == 2 else token_ids == self.end_token
        row = mx.argmax(is_end.astype(mx.int32), axis=1)
        x = mx.take_along_axis(self.final_norm(last), row[:, None, None], axis=1)
        return self.projection(x[:, 0])


class VisionEncoder(nn.Module):
    """Pictures to the features that IP-Adapter's projectors take."""

    def __init__(self, spec: ClipVisionSpec) -> None:
        super().__init__()
        self.class_embedding = mx.zeros((spec.width,))
        self.patch_embedding = nn.Conv2d(
            spec.channels, spec.width, spec.patch_size, stride=spec.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(spec.tokens, spec.width)
        self.pre_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.layers = [ClipLayer(spec) for _ in range(spec.layers)]
        self.post_norm = nn.LayerNorm(spec.width, eps=spec.norm_eps)
        self.projection = nn.Linear(spec.width, spec.projection, bias=False)

    def states(self, pixels: mx.array) -> mx.array:
        """(B, S, S, 3) normalised pixels to the states that enter the last layer, (B, T, C).

        These are transformers' `hidden_states[-2]`: no final norm, the class token first.
        """
        batch = pixels.shape[0]
        patches = self.patch_embedding(pixels).reshape(batch, -1, self.class_embedding.size)
        first = mx.broadcast_to(self.class_embedding, (batch, 1, self.class_embedding.size))
        x = mx.concatenate([first, patches], axis=1) + self.position_embedding.weight
        x = self.pre_norm(x)
        for layer in self.layers[:-1]:
            x = layer(x)
        return x

    def embedding(self, pixels: mx.array) -> mx.array:
        """(B, S, S, 3) normalised pixels to the projected class token, (B, P), not normalised."""
        x = self.layers[-1](self.states(pixels))
        return self.projection(self.post_norm(x[:, 0]))
