"""Attention, and the decoupled cross-attention of IP-Adapter (arXiv 2308.06721, eq. 5)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..device import Device, contiguous, device
from .context import Context, KeyValue
from .layers import FeedForward, exp, has_fast_exp
from .low_rank import UNCHANGED, Changes, changed
from .norms import GroupNorm

_FUSED_ON_METAL = (64, 72, 80, 96, 128)  # head widths with a fused kernel (MLX 0.32)
_FEW_QUERIES = 8  # up to which Metal has other kernels
_MAX_SCORES = 1 << 26  # elements of one score matrix where no fused kernel avoids it


def attend(
    q: mx.array, k: mx.array, v: mx.array, mask: str | None = None, *, head: int | None = None
) -> mx.array:
    """softmax(q kᵀ / √d) v, the softmax in float32.

    Args:
        q: (B, heads, L, d).
        k: (B, heads, T, d).
        v: (B, heads, T, d).
        mask: "causal" or None.
        head: d, where zeros that a kernel needs follow it in q, k and v; None is their width.

    Returns:
        (B, heads, L, d).
    """
    head = head or q.shape[-1]
    width, scale = padded_width(head, q.shape[-2]), head**-0.5
    if width > head:
        return attend_padded(q, k, v, width, scale, mask)[..., :head]
    q, k, v = (x if x.shape[-1] == head else x[..., :head] for x in (q, k, v))
    if mask or _has_fused_kernel(q):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    batch, heads, length, _ = q.shape
    rows = max(1, _MAX_SCORES // (batch * heads * k.shape[-2]))
    if length <= rows:
        return _attend_unfused(q, k, v, scale)
    parts = [_attend_unfused(q[:, :, i : i + rows], k, v, scale) for i in range(0, length, rows)]
    return mx.concatenate(parts, axis=2)


def attend_beside(q: mx.array, k: mx.array, v: mx.array, head: int) -> mx.array:
    """As `attend`, with the heads beside each other: (B, L, heads, d), a view.

    Of the views of several branches their sum makes rows, which a copy of each would else.
    """
    return attend(q, k, v, head=head).transpose(0, 2, 1, 3)


def padded_width(head: int, queries: int = _FEW_QUERIES + 1) -> int:
    """The width of heads that Metal has a fused kernel for, where theirs has none; else theirs."""
    is_narrow = queries > _FEW_QUERIES and head < _FUSED_ON_METAL[0]
    return _FUSED_ON_METAL[0] if is_narrow and device() is Device.METAL else head


def widened(x: mx.array, width: int) -> mx.array:
    """(…, d) with zeros up to a width."""
    missing = width - x.shape[-1]
    return mx.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def _has_fused_kernel(q: mx.array) -> bool:
    """Whether MLX attends without writing the score matrix out (0.32, on Metal and on CUDA)."""
    width = q.shape[-1]
    if device() is Device.METAL:
        return width in _FUSED_ON_METAL
    is_half = q.dtype in (mx.float16, mx.bfloat16)
    return device() is Device.CUDA and is_half and width % 8 == 0 and width <= 128


def _attend_unfused(q: mx.array, k: mx.array, v: mx.array, scale: float) -> mx.array:
    if has_fast_exp(q):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
    scores = (scale * q) @ k.transpose(0, 1, 3, 2)
    weights = exp(scores - scores.max(axis=-1, keepdims=True))
    return (weights @ v) / weights.sum(axis=-1, keepdims=True)


def attend_padded(
    q: mx.array, k: mx.array, v: mx.array, width: int, scale: float, mask: str | None = None
) -> mx.array:
    """Attention with heads padded by zeros to a width that has a fused kernel; the output too.

    Exact: zeros add nothing to q kᵀ, and the padded columns of v give zeros. SD1.5's outer blocks
    have heads of 40, for which Metal would write out the whole score matrix.
    """
    q, k, v = (widened(x, width) for x in (q, k, v))
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)


def split_heads(x: mx.array, heads: int) -> mx.array:
    """(B, L, C) to (B, heads, L, C / heads)."""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def merge_heads(x: mx.array) -> mx.array:
    """The inverse of `split_heads`."""
    batch, _, length, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, -1)


class SelfAttention(nn.Module):
    """Self-attention; CLIP's and the VAE's projections have biases, the UNet's have none."""

    def __init__(self, width: int, heads: int, *, bias: bool = False, upcast: bool = False) -> None:
        super().__init__()
        self.heads, self.upcast = heads, upcast
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(width, width, bias=bias)
        self.to_v = nn.Linear(width, width, bias=bias)
        self.to_out = nn.Linear(width, width)

    def __call__(
        self, x: mx.array, mask: str | None = None, changes: Changes = UNCHANGED
    ) -> mx.array:
        """(B, L, C) to the same."""
        layers = {"to_q": self.to_q, "to_k": self.to_k, "to_v": self.to_v}
        q, k, v = (
            split_heads(changed(layer, x, changes.get(part)), self.heads)
            for part, layer in layers.items()
        )
        if self.upcast:
            q, k, v = (a.astype(mx.float32) for a in (q, k, v))
        out = merge_heads(attend(q, k, v, mask)).astype(x.dtype)
        return changed(self.to_out, out, changes.get("to_out"))


class CrossAttention(nn.Module):
    """Text cross-attention plus one branch per image prompt, with the same queries.

    `site` is its rank among the UNet's sites; the UNet sets it.
    """

    def __init__(self, width: int, context_width: int, heads: int, *, upcast: bool = False) -> None:
        super().__init__()
        self.heads, self.upcast, self.site = heads, upcast, -1
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    @property
    def width(self) -> int:
        """The width of a head."""
        return int(self.to_q.weight.shape[0]) // self.heads

    def keys_values(self, text: mx.array, changes: Changes = UNCHANGED) -> KeyValue:
        """Text states (R, T, D) to keys and values."""
        return self.split(
            changed(self.to_k, text, changes.get("to_k")),
            changed(self.to_v, text, changes.get("to_v")),
        )

    def split(self, keys: mx.array, values: mx.array) -> KeyValue:
        """(R, T, C) keys and values by head, in the precision and width in which they are used.

        Zeros that a kernel needs are added here, once for all steps.
        """
        width = padded_width(keys.shape[-1] // self.heads)
        pair = [widened(split_heads(x, self.heads), width) for x in (keys, values)]
        pair = [contiguous(x.astype(mx.float32) if self.upcast else x) for x in pair]
        return KeyValue(*pair, width=keys.shape[-1] // self.heads)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        """(B, L, C) to the same; B is a multiple of the conditioning's rows.

        All pictures of a row share its keys and values, so their queries are put side by side:
        nothing is repeated.
        """
        shape, rows = x.shape, context.rows
        changes = context.changes_at(self.site).attn2
        x = x.reshape(rows, -1, shape[-1])
        q = split_heads(changed(self.to_q, x, changes.get("to_q")), self.heads)
        text, head = context.text_at(self.site), q.shape[-1]
        q = widened(q, text.keys.shape[-1])  # once for all branches
        if self.upcast:
            q = q.astype(mx.float32)
        out = context.observe("text", attend_beside(q, text.keys, text.values, head))
        if context.recorder is not None:
            context.recorder.take(self.site, q[..., :head], out, context)
        for number, weight, image in context.images_at(self.site, q.shape[2]):
            branch = weight * attend_beside(q, image.keys, image.values, head)
            out = out + context.observe(f"image.{number}", branch)
        out = out.reshape(x.shape).astype(x.dtype)
        return changed(self.to_out, out, changes.get("to_out")).reshape(shape)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward; each with a norm before and a residual."""

    def __init__(self, width: int, context_width: int, heads: int, *, upcast: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = SelfAttention(width, heads, upcast=upcast)
        self.norm2 = nn.LayerNorm(width)
        self.attn2 = CrossAttention(width, context_width, heads, upcast=upcast)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        """(B, L, C) to the same."""
        x = x + self.attn1(self.norm1(x), changes=context.changes_at(self.attn2.site).attn1)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer2D(nn.Module):
    """Transformer blocks over the pixels of a picture, with a residual around the whole."""

    def __init__(
        self, width: int, context_width: int, heads: int, layers: int, groups: int, *, upcast: bool
    ) -> None:
        super().__init__()
        self.norm = GroupNorm(groups, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width)
        self.transformer_blocks = [
            TransformerBlock(width, context_width, heads, upcast=upcast) for _ in range(layers)
        ]
        self.proj_out = nn.Linear(width, width)

    def __call__(self, x: mx.array, context: Context) -> mx.array:
        """(B, H, W, C) to the same."""
        batch, height, width, channels = x.shape
        y = self.proj_in(self.norm(x)).reshape(batch, height * width, channels)
        for block in self.transformer_blocks:
            y = block(y, context)
        return x + self.proj_out(y).reshape(x.shape)
