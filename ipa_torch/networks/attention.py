"""The decoupled cross-attention of IP-Adapter (arXiv 2308.06721, eq. 5) in diffusers' modules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch.nn.functional import scaled_dot_product_attention as attend

from ipa.model.sites import Site

from .context import NOTHING, Context, KeyValue
from .low_rank import Changes, changed


class DecoupledAttention:
    """An attention processor: text cross-attention plus one branch per image prompt.

    Image keys and values are an argument of the call (`ip_hidden_states`, the name that diffusers
    lets pass), never state. Without any it computes what diffusers' AttnProcessor2_0 does, to the
    bit.
    """

    def __init__(self, site: int) -> None:
        self.site = site

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        ip_hidden_states: Context = NOTHING,
    ) -> torch.Tensor:
        """(B, L, C) queries and (B, T, D) text to (B, L, C); no mask is used in these models."""
        changes = ip_hidden_states.changes_at(self.site).attn2
        q, k, v = queries_keys_values(attn, hidden_states, encoder_hidden_states, changes)
        out = ip_hidden_states.observe("text", attend(q, k, v, attn_mask=attention_mask))
        if ip_hidden_states.recorder is not None:
            ip_hidden_states.recorder.take(self.site, q, out, ip_hidden_states)
        for number, weight, image in ip_hidden_states.images_at(self.site):
            branch = weight * attend(q, image.keys, image.values)
            out = out + ip_hidden_states.observe(f"image.{number}", branch)
        return changed(attn.to_out[0], out.transpose(1, 2).flatten(2), changes.get("to_out", ()))


class ChangedSelfAttention:
    """An attention processor: self-attention, with what a LoRA changes of it."""

    def __init__(self, site: int = 0) -> None:  # diffusers' loader makes one, and drops it
        self.site = site

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        ip_hidden_states: Context = NOTHING,
    ) -> torch.Tensor:
        """(B, L, C) to (B, L, C)."""
        changes = ip_hidden_states.changes_at(self.site).attn1
        q, k, v = queries_keys_values(attn, hidden_states, hidden_states, changes)
        out = attend(q, k, v, attn_mask=attention_mask)
        return changed(attn.to_out[0], out.transpose(1, 2).flatten(2), changes.get("to_out", ()))


def queries_keys_values(
    attn: Attention, x: torch.Tensor, context: torch.Tensor, changes: Changes
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries of (B, L, C), and keys and values of what they attend to, by head."""
    q = changed(attn.to_q, x, changes.get("to_q", ()))
    k = changed(attn.to_k, context, changes.get("to_k", ()))
    v = changed(attn.to_v, context, changes.get("to_v", ()))
    return split_heads(q, attn.heads), split_heads(k, attn.heads), split_heads(v, attn.heads)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Split heads: (B, L, C) to (B, heads, L, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def install(unet: UNet2DConditionModel, sites: Sequence[Site]) -> list[Attention]:
    """Install our processors at every site and the self-attention before it, once, at load.

    Adapters change nothing after that.

    Returns:
        The sites' attention modules, in the order of their numbers.
    """
    modules = [unet.get_submodule(site.path) for site in sites]
    for rank, (module, site) in enumerate(zip(modules, sites, strict=True)):
        module.set_processor(DecoupledAttention(rank))
        unet.get_submodule(site.self_attention[1]).set_processor(ChangedSelfAttention(rank))
    return modules


def keys_values(
    tokens: torch.Tensor, weights: tuple[torch.Tensor, torch.Tensor], heads: int
) -> KeyValue:
    """Keys and values of one site, from image tokens (R, T, D)."""
    to_k, to_v = weights
    return KeyValue(split_heads(tokens @ to_k.T, heads), split_heads(tokens @ to_v.T, heads))
