"""From features of pictures and faces to image tokens: the projectors of all adapters."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ipa.model.adapter import HEAD_WIDTH, AdapterSpec

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


class Gathering(nn.Module):
    """The base of both resamplers: latents gather the hidden states, layer by layer."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.proj_in = nn.Linear(spec.feature_width, spec.width)
        self.layers = [ResamplerLayer(spec.width, spec.heads) for _ in range(spec.layers)]
        self.proj_out = nn.Linear(spec.width, spec.context_width)
        self.norm_out = nn.LayerNorm(spec.context_width)

    def gather(self, latents: mx.array, states: mx.array) -> mx.array:
        """Gather: latents (B, T, C) and states (B, S, E) to (B, T, D)."""
        states = self.proj_in(states)
        for layer in self.layers:
            latents = layer(latents, states)
        return self.norm_out(self.proj_out(latents))


class Resampler(Gathering):
    """Plus, plus-face: learned queries gather the hidden states (ip_adapter/resampler.py).

    Portrait-unnorm: they gather the identity of a face, as the one state that there is.
    """

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__(spec)
        self.latents = mx.zeros((1, spec.tokens, spec.width))

    def __call__(self, states: mx.array) -> mx.array:
        """(B, S, E), or (B, E), to (B, T, D)."""
        states = states[:, None] if states.ndim == 2 else states
        return self.gather(
            mx.broadcast_to(self.latents, (states.shape[0], *self.latents.shape[1:])), states
        )


class FaceProjector(nn.Module):
    """FaceID, Portrait: an identity becomes all tokens (ip_adapter_faceid.py, MLPProjModel)."""

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        width = spec.width if spec.projector == "faceid" else 2 * spec.face_width
        self.tokens = spec.tokens
        self.proj_in = nn.Linear(spec.face_width, width)
        self.proj_out = nn.Linear(width, spec.tokens * spec.context_width)
        self.norm = nn.LayerNorm(spec.context_width)

    def __call__(self, faces: mx.array) -> mx.array:
        """(B, 512) to (B, T, D)."""
        tokens = self.proj_out(gelu(self.proj_in(faces)))
        return self.norm(tokens.reshape(faces.shape[0], self.tokens, -1))


class FacePlusProjector(nn.Module):
    """FaceID-Plus: the identity's tokens gather what is seen (ip_adapter_faceid.py, ProjPlusModel).

    Version 1 gives what they gathered, version 2 adds it to what they were.
    """

    def __init__(self, spec: AdapterSpec) -> None:
        super().__init__()
        self.face = FaceProjector(spec)
        self.resampler = Gathering(spec)

    def __call__(self, states: mx.array, faces: mx.array, shortcut_scale: float | None) -> mx.array:
        """(B, S, E) and (B, 512) to (B, T, D)."""
        tokens = self.face(faces)
        seen = self.resampler.gather(tokens, states)
        return seen if shortcut_scale is None else tokens + shortcut_scale * seen


PROJECTORS = {
    "linear": LinearProjector,
    "mlp": MlpProjector,
    "resampler": Resampler,
    "faceid": FaceProjector,
    "faceid_plus": FacePlusProjector,
}
