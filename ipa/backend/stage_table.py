"""The table of stages: one row for every kind of stage, with all that is known of it.

Whoever names, explains, orders, replaces or draws stages reads it here, by `ipa.backend.stages`.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["result", "block", "layer", "operation"]

Component: TypeAlias = Literal[
    "text encoders",
    "preprocessing of pictures",
    "image encoder",
    "projector",
    "adapter's keys and values",
    "everything before the UNet",
    "everything before the VAE",
]
"""What of a run can be taken from another run."""

BLOCK = r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)"
"""A pattern for the name of a block of a UNet, a ControlNet or a VAE."""

LISTS = ("resnets", "attentions", "transformer_blocks", "downsamplers", "upsamplers", "layers")
"""The names under which a network has modules by number."""

_TRANSFORMER = rf"{BLOCK}\.attentions\.\d+"
_SITE = rf"{_TRANSFORMER}\.transformer_blocks\.\d+"
_RESNET = rf"{BLOCK}\.resnets\.\d+"
_LAYER = r"layers\.\d+"


@dataclass(frozen=True, slots=True)
class Network:
    """A network, or what else has stages with places in it.

    Attributes:
        pattern: Of its name.
        words: Where a stage of it is, with {0} for the pattern's first group.
        block: A pattern for what follows in the name of a block, of which reports make a group; ""
            where the whole network is a block, None where it has none.
        layer: A pattern for the part after the block in the name of a layer, likewise.
    """

    pattern: str
    words: str
    block: str | None = None
    layer: str = "(?!)"

    @property
    def groups(self) -> int:
        """The number of groups in the pattern."""
        return re.compile(self.pattern).groups


_BLOCK = rf"\.{BLOCK}"
_OF_BLOCK = r"(?:resnets|attentions|downsamplers|upsamplers)\.\d+"
_OF_TOWER = rf"{_LAYER}|embeddings"

UNET = Network("unet", "in the UNet", _BLOCK, _OF_BLOCK)
CONTROLNET = Network(r"controlnet\.(\w+)", "in the ControlNet “{0}”", _BLOCK, _OF_BLOCK)
VAE = Network(r"vae\.(encoder|decoder)", "in the VAE's {0}", _BLOCK, _OF_BLOCK)
BESIDE_VAE = Network("vae", "in the VAE")
TEXT = Network("text_encoder", "in the text encoder", "", _OF_TOWER)
TEXT_2 = Network("text_encoder_2", "in the second text encoder", "", _OF_TOWER)
IMAGE_ENCODER = Network("image_encoder", "in the image encoder", "", _OF_TOWER)
PROJECTOR = Network("projector", "in the adapter's projector", "", _OF_TOWER)
PROMPT = Network(r"image\.(\d+)", "", "", rf"{BLOCK}(?:\.attentions\.\d+)?")

NETWORKS = (
    *(UNET, CONTROLNET, VAE, BESIDE_VAE),
    *(TEXT, TEXT_2, IMAGE_ENCODER, PROJECTOR, PROMPT),
)

_DIFFUSERS = (UNET, CONTROLNET)
_RESIDUAL = (UNET, CONTROLNET, VAE)
_WITH_ENDS = (UNET, VAE)
_CLIP = (TEXT, TEXT_2, IMAGE_ENCODER)

_START = (
    "The two did not start alike: compare the seed, the sampler's first noise level and the "
    "picture to start from in the request."
)
_PIXELS = (
    "Compare how the reference picture is resized (bicubic, with antialiasing), cropped and "
    "normalised."
)
_MASK = "Compare the rule by which the mask is resized to the site, and its threshold."
_IMAGE_KEYS = (
    "Compare this site's image keys and values: exchanged with each other or with another "
    "site's of the same shape, kept from before a change, or of another adapter. Then the "
    "scale, the mask and the attention's own scale where heads are padded."
)
_NO_PICTURE = "Compare what stands against the picture: zeros, a black picture or a grey one."
_PROJECTOR = "Compare the projector's weights: square matrices transposed, norms before or after."
_FEATURES = "Compare which layer's states are taken: the last or the one before."
_TEXT = "Compare which layer of the text encoder is taken, and the last norm."
_ACTIVATION = "Compare the activation: gelu, quick gelu, SiLU."
_TIMESTEP = "Compare the timestep itself, by one step too, and sine with cosine."
_SIZES = "Compare the six numbers and their order, the pooled text, and sine with cosine."
_NORM = "Compare the norm's epsilon, its number of groups and what it is computed over."
_ATTENTION = "Compare the attention's scale, heads and masks."
_GUIDANCE = "Compare the guidance scale, and which half of the batch is the unconditional one."
_SAMPLER = "Compare the sampler's row for this step: its coefficients, its timestep, its noise."
_LATENTS = (
    "Compare the VAE's scale and shift factors; of a starting picture, the range of its pixels."
)
_WEIGHT = "Compare the layer's weight, its bias, padding and stride."


@dataclass(frozen=True)
class StageKind:
    """A row of the table: the stages whose name matches a pattern.

    Attributes:
        networks: The networks that have such stages; `RESULT` of what a backend's method gives.
        pattern: Of what follows the network's name; of a result of its name with the phase.
        words: What it is, for those who have not read the code. {0} and so on are the pattern's
            groups, then the network's.
        advice: What to compare first where two runs part at it.
        level: How deep it is.
        is_shared: It is the same in every step, and told in the phase "condition" alone.
        input_of: Where it is what a module is given: the ends of the module's name and its own.
        is_sequence: Whether a map is told as a sequence (B, H·W, C): diffusers' modules differ in
            that.
        swaps: The components of a run that are exchanged where another run's stage is put in.
        is_end: Whether a run may end with it.
        is_sampled: Whether guidance and the sampler go on from it.
        curve: The title of its curve over the steps; "" for none.
        wave_of: Where it holds sinusoids: the path of the result that tells their numbers.
    """

    networks: tuple[Network, ...]
    pattern: str
    words: str
    advice: str = ""
    level: Level = "operation"
    _: KW_ONLY
    is_shared: bool = False
    input_of: tuple[str, str] | None = None
    is_sequence: bool = False
    swaps: tuple[Component, ...] = ()
    is_end: bool = False
    is_sampled: bool = False
    curve: str = ""
    wave_of: str = ""

    def explain(self, stage: str) -> str | None:
        """A stage in words; None if it is not of this kind.

        Args:
            stage: Its name less the "@2"; a module's also without the phase.
        """
        if not self.networks:
            found = self._whole.fullmatch(stage)
            return None if found is None else self.words.format(*found.groups())
        path = stage.rpartition("/")[2]
        for network, whole in self._in_networks:
            found = whole.fullmatch(path)
            if found is not None:
                count = network.groups
                groups = found.groups()
                words = self.words.format(*groups[count:], *groups[:count])
                where = network.words.format(*groups[:count])
                return f"{words}, {where}" if where else words
        return None

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        return re.compile(self.pattern)

    @cached_property
    def _in_networks(self) -> tuple[tuple[Network, re.Pattern[str]], ...]:
        return tuple(
            (one, re.compile(rf"{one.pattern}\.(?:{self.pattern})")) for one in self.networks
        )


RESULT: tuple[Network, ...] = ()

_KEYS: tuple[Component, ...] = ("adapter's keys and values", "everything before the UNet")
_ATTENDED = ("to_out.0", "attended")

RESULTS = (
    StageKind(RESULT, "encode/mean", "the starting picture in the VAE's space", "", "result"),
    StageKind(RESULT, "encode/deviation", "how sure the VAE is of the starting picture", "",
              "result"),
    StageKind(RESULT, "start/latents", "the latents that the run starts from", _START, "result",
              is_sampled=True),
    StageKind(RESULT, r"text\.(\w+)/states", "the {0} text as the UNet attends to it", _TEXT,
              "result", swaps=("text encoders", "everything before the UNet")),
    StageKind(RESULT, r"text\.(\w+)/pooled", "the {0} text, pooled", _TEXT, "result",
              swaps=("text encoders", "everything before the UNet")),
    StageKind(RESULT, r"image\.(\d+)/pixels", "image prompt {0}'s pixels as its encoder takes them",
              _PIXELS, "result", swaps=("preprocessing of pictures",)),
    StageKind(RESULT, r"image\.(\d+)/features\.conditional",
              "what the encoder says of image prompt {0}", _FEATURES, "result",
              swaps=("image encoder",)),
    StageKind(RESULT, r"image\.\d+/features\.unconditional",
              "what the encoder says of the picture against it", _NO_PICTURE, "result",
              swaps=("image encoder",)),
    StageKind(RESULT, r"image\.(\d+)/tokens\.conditional",
              "image prompt {0}'s tokens, made by the projector", _PROJECTOR, "result",
              swaps=("projector",)),
    StageKind(RESULT, r"image\.\d+/tokens\.unconditional",
              "the tokens that stand against the image prompt", _NO_PICTURE, "result",
              swaps=("projector",)),
    StageKind(RESULT, "condition/sizes", "SDXL's six numbers of every text", "", "result"),
    StageKind(RESULT, r"step\.\d+/timestep", "the timestep that the networks are given", "",
              "result"),
    StageKind(RESULT, r"step\.\d+/latents", "the latents after the step", _SAMPLER, "result",
              swaps=("everything before the VAE",), is_end=True, is_sampled=True,
              curve="latents after the step"),
    StageKind(RESULT, r"step\.\d+/prediction", "what the UNet predicts", "", "result",
              is_sampled=True, curve="what the UNet predicts"),
    StageKind(RESULT, r"step\.\d+/guided", "the prediction after guidance", _GUIDANCE, "result",
              is_sampled=True, curve="prediction after guidance"),
    StageKind(RESULT, r"step\.\d+/denoised", "the estimate of the finished latents", _SAMPLER,
              "result", curve="estimate of the finished latents"),
    StageKind(RESULT, "decode/image", "the finished picture", "", "result", is_end=True),
)  # fmt: skip
"""What the backend's methods give, in the order of a run but for a step's latents."""

MODULES = (
    StageKind((PROMPT,), rf"{_SITE}\.attn2\.to_k", "image prompt {0}'s keys at one cross-attention",
              _IMAGE_KEYS, swaps=_KEYS),
    StageKind((PROMPT,), rf"{_SITE}\.attn2\.to_v",
              "image prompt {0}'s values at one cross-attention", _IMAGE_KEYS, swaps=_KEYS),
    StageKind((PROMPT,), rf"{_SITE}\.attn2\.mask", "image prompt {0}'s mask at one cross-attention",
              _MASK, swaps=_KEYS),
    StageKind(_DIFFUSERS, "time_proj", "the timestep as sines and cosines", _TIMESTEP,
              wave_of="timestep"),
    StageKind(_DIFFUSERS, r"time_embedding\.linear_(\d)", "the timestep's embedding, layer {0}",
              _TIMESTEP),
    StageKind(_DIFFUSERS, "time_embedding", "the timestep, embedded", _TIMESTEP),
    StageKind(_DIFFUSERS, r"add_embedding\.input",
              "SDXL's pooled text, and its sizes as sines and cosines", _SIZES, is_shared=True,
              input_of=("add_embedding.linear_1", "add_embedding.input"), wave_of="sizes"),
    StageKind(_DIFFUSERS, r"add_embedding\.linear_(\d)",
              "the embedding of SDXL's sizes and pooled text, layer {0}", _WEIGHT, is_shared=True),
    StageKind(_DIFFUSERS, "add_embedding", "SDXL's sizes and pooled text, embedded",
              is_shared=True),
    StageKind((CONTROLNET,), "controlnet_cond_embedding", "the control picture, embedded",
              level="layer", is_shared=True),
    StageKind((CONTROLNET,), r"controlnet_down_blocks\.(\d+)", "result {0} for the UNet",
              level="layer"),
    StageKind((CONTROLNET,), "controlnet_mid_block", "the middle's result for the UNet",
              level="layer"),
    StageKind(_RESIDUAL, r"down_blocks\.(\d+)", "all of down block {0}", level="block"),
    StageKind(_RESIDUAL, "mid_block", "all of the middle block", level="block"),
    StageKind((UNET,), r"up_blocks\.(\d+)", "all of up block {0}", level="block"),
    StageKind(_RESIDUAL, "conv_in", "the first convolution", _WEIGHT),
    StageKind((VAE,), r"conv_in\.input", "what enters", _LATENTS,
              input_of=("conv_in", "conv_in.input")),
    StageKind(_WITH_ENDS, "conv_norm_out", "the last norm", _NORM),
    StageKind(_WITH_ENDS, r"conv_out\.input", "the last norm, activated", _ACTIVATION,
              input_of=("conv_out", "conv_out.input")),
    StageKind(_WITH_ENDS, "conv_out", "the last convolution", _WEIGHT),
    StageKind((BESIDE_VAE,), r"quant_conv\.input",
              "what the encoder gives to the convolution beside the latents",
              input_of=("quant_conv", "quant_conv.input")),
    StageKind((BESIDE_VAE,), "quant_conv", "the convolution beside the latents", _WEIGHT),
    StageKind((BESIDE_VAE,), r"post_quant_conv\.input", "the latents as the VAE takes them",
              _LATENTS, input_of=("post_quant_conv", "post_quant_conv.input")),
    StageKind((BESIDE_VAE,), "post_quant_conv", "the convolution beside the latents", _WEIGHT),
    StageKind(_RESIDUAL, rf"{BLOCK}\.resnets\.(\d+)", "resnet {0} of its block", level="layer"),
    StageKind(_RESIDUAL, rf"{_RESNET}\.norm1", "a resnet's first group norm", _NORM),
    StageKind(_RESIDUAL, rf"{_RESNET}\.norm2", "a resnet's second group norm", _NORM),
    StageKind(_RESIDUAL, rf"{_RESNET}\.conv1\.input", "a resnet's first norm, activated",
              _ACTIVATION, input_of=("conv1", "conv1.input")),
    StageKind(_RESIDUAL, rf"{_RESNET}\.conv2\.input", "a resnet's second norm, activated",
              _ACTIVATION, input_of=("conv2", "conv2.input")),
    StageKind(_RESIDUAL, rf"{_RESNET}\.conv1", "a resnet's first convolution", _WEIGHT),
    StageKind(_RESIDUAL, rf"{_RESNET}\.conv2", "a resnet's second convolution", _WEIGHT),
    StageKind(_DIFFUSERS, rf"{_RESNET}\.time_emb_proj", "the timestep as a resnet takes it",
              _WEIGHT),
    StageKind(_RESIDUAL, rf"{_RESNET}\.conv_shortcut", "a resnet's shortcut convolution", _WEIGHT),
    StageKind(_RESIDUAL, rf"{BLOCK}\.downsamplers\.0\.conv", "the halving of the size", _WEIGHT),
    StageKind(_WITH_ENDS, rf"{BLOCK}\.upsamplers\.0\.conv", "the doubling of the size", _WEIGHT),
    StageKind((VAE,), r"mid_block\.attentions\.0", "self-attention", _ATTENTION),
    StageKind((VAE,), r"mid_block\.attentions\.0\.group_norm", "the norm before self-attention",
              _NORM, is_sequence=True),
    StageKind((VAE,), r"mid_block\.attentions\.0\.to_q", "self-attention's queries", _ATTENTION),
    StageKind((VAE,), r"mid_block\.attentions\.0\.to_k", "self-attention's keys", _ATTENTION),
    StageKind((VAE,), r"mid_block\.attentions\.0\.to_v", "self-attention's values", _ATTENTION),
    StageKind((VAE,), r"mid_block\.attentions\.0\.attended",
              "self-attention before its output projection", _ATTENTION, input_of=_ATTENDED),
    StageKind((VAE,), r"mid_block\.attentions\.0\.to_out\.0", "self-attention's output projection",
              _ATTENTION),
    StageKind(_DIFFUSERS, rf"{BLOCK}\.attentions\.(\d+)", "transformer {0} of its block",
              level="layer"),
    StageKind(_DIFFUSERS, rf"{_TRANSFORMER}\.norm", "a transformer's group norm", _NORM),
    StageKind(_DIFFUSERS, rf"{_TRANSFORMER}\.proj_in", "a transformer's input projection", _WEIGHT,
              is_sequence=True),
    StageKind(_DIFFUSERS, rf"{_TRANSFORMER}\.proj_out", "a transformer's output projection",
              _WEIGHT, is_sequence=True),
    StageKind(_DIFFUSERS, _SITE, "a transformer block", level="layer"),
    StageKind(_DIFFUSERS, rf"{_SITE}\.norm1", "the norm before self-attention", _NORM),
    StageKind(_DIFFUSERS, rf"{_SITE}\.norm2", "the norm before cross-attention", _NORM),
    StageKind(_DIFFUSERS, rf"{_SITE}\.norm3", "the norm before the feed-forward", _NORM),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn1", "self-attention", _ATTENTION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn1\.to_q", "self-attention's queries", _ATTENTION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn1\.to_k", "self-attention's keys", _ATTENTION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn1\.to_v", "self-attention's values", _ATTENTION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn1\.attended",
              "self-attention before its output projection", _ATTENTION, input_of=_ATTENDED),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn1\.to_out\.0", "self-attention's output projection",
              _ATTENTION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn2", "cross-attention", _ATTENTION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn2\.to_q", "cross-attention's queries", _ATTENTION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn2\.to_k", "the text's keys in cross-attention",
              _ATTENTION, is_shared=True),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn2\.to_v", "the text's values in cross-attention",
              _ATTENTION, is_shared=True),
    StageKind((UNET,), rf"{_SITE}\.attn2\.text", "the text's branch of cross-attention",
              _ATTENTION),
    StageKind((UNET,), rf"{_SITE}\.attn2\.image\.(\d+)",
              "image prompt {0}'s branch of cross-attention", _IMAGE_KEYS),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn2\.attended", "the branches of cross-attention, added up",
              _ATTENTION, input_of=_ATTENDED),
    StageKind(_DIFFUSERS, rf"{_SITE}\.attn2\.to_out\.0", "cross-attention's output projection",
              _ATTENTION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.ff", "the feed-forward"),
    StageKind(_DIFFUSERS, rf"{_SITE}\.ff\.net\.0\.proj", "the feed-forward's first projection",
              _WEIGHT),
    StageKind(_DIFFUSERS, rf"{_SITE}\.ff\.net\.0", "the feed-forward's activation", _ACTIVATION),
    StageKind(_DIFFUSERS, rf"{_SITE}\.ff\.net\.2", "the feed-forward's second projection", _WEIGHT),
    StageKind((IMAGE_ENCODER,), "pixels", "the pixels as the tower takes them", _PIXELS,
              input_of=("embeddings.patch_embedding", "pixels")),
    StageKind((IMAGE_ENCODER,), r"embeddings\.patch_embedding", "the picture's patches, embedded",
              _WEIGHT),
    StageKind(_CLIP, "embeddings", "words or patches with their positions"),
    StageKind((IMAGE_ENCODER,), "pre_layrnorm", "the norm before the first layer", _NORM),
    StageKind(_CLIP, r"layers\.(\d+)", "layer {0}", level="layer"),
    StageKind(_CLIP, rf"{_LAYER}\.layer_norm1", "the norm before self-attention", _NORM),
    StageKind(_CLIP, rf"{_LAYER}\.self_attn", "self-attention", _ATTENTION),
    StageKind(_CLIP, rf"{_LAYER}\.self_attn\.q_proj", "self-attention's queries", _ATTENTION),
    StageKind(_CLIP, rf"{_LAYER}\.self_attn\.k_proj", "self-attention's keys", _ATTENTION),
    StageKind(_CLIP, rf"{_LAYER}\.self_attn\.v_proj", "self-attention's values", _ATTENTION),
    StageKind(_CLIP, rf"{_LAYER}\.self_attn\.attended",
              "self-attention before its output projection", _ATTENTION,
              input_of=("self_attn.out_proj", "self_attn.attended")),
    StageKind(_CLIP, rf"{_LAYER}\.self_attn\.out_proj", "self-attention's output projection",
              _ATTENTION),
    StageKind(_CLIP, rf"{_LAYER}\.layer_norm2", "the norm before the feed-forward", _NORM),
    StageKind(_CLIP, rf"{_LAYER}\.mlp", "the feed-forward"),
    StageKind(_CLIP, rf"{_LAYER}\.mlp\.fc1", "the feed-forward's first projection", _WEIGHT),
    StageKind(_CLIP, rf"{_LAYER}\.mlp\.activation_fn", "the feed-forward's activation",
              _ACTIVATION),
    StageKind(_CLIP, rf"{_LAYER}\.mlp\.fc2", "the feed-forward's second projection", _WEIGHT),
    StageKind((IMAGE_ENCODER,), "post_layernorm", "the norm after the last layer", _NORM),
    StageKind((TEXT_2,), "text_projection", "the projection into CLIP's shared space", _WEIGHT),
    StageKind((IMAGE_ENCODER,), "visual_projection", "the projection into CLIP's shared space",
              _WEIGHT),
    StageKind((PROJECTOR,), "proj_in", "the input projection", _PROJECTOR),
    StageKind((PROJECTOR,), r"layers\.(\d+)", "layer {0}", _PROJECTOR, "layer"),
    StageKind((PROJECTOR,), rf"{_LAYER}\.ln0", "the norm of the image states", _PROJECTOR),
    StageKind((PROJECTOR,), rf"{_LAYER}\.ln1", "the norm of the queries", _PROJECTOR),
    StageKind((PROJECTOR,), rf"{_LAYER}\.attn\.to_q", "the queries", _PROJECTOR),
    StageKind((PROJECTOR,), rf"{_LAYER}\.attn\.attended", "attention before its output projection",
              _PROJECTOR, input_of=_ATTENDED),
    StageKind((PROJECTOR,), rf"{_LAYER}\.attn\.to_out\.0", "attention's output projection",
              _PROJECTOR),
    StageKind((PROJECTOR,), rf"{_LAYER}\.ff\.0", "the norm before the feed-forward", _PROJECTOR),
    StageKind((PROJECTOR,), rf"{_LAYER}\.ff\.1\.net\.0", "the feed-forward's activation",
              _PROJECTOR),
    StageKind((PROJECTOR,), rf"{_LAYER}\.ff\.1\.net\.2", "the feed-forward's second projection",
              _PROJECTOR),
    StageKind((PROJECTOR,), "image_embeds", "a projection", _PROJECTOR),
    StageKind((PROJECTOR,), r"(?:ff|proj)\.net\.0\.proj", "the feed-forward's first projection",
              _PROJECTOR),
    StageKind((PROJECTOR,), r"(?:ff|proj)\.net\.0", "the feed-forward's activation", _PROJECTOR),
    StageKind((PROJECTOR,), r"(?:ff|proj)\.net\.2", "the feed-forward's second projection",
              _PROJECTOR),
    StageKind((PROJECTOR,), "proj_out", "the output projection", _PROJECTOR),
    StageKind((PROJECTOR,), "norm|norm_out", "the last norm", _PROJECTOR),
)  # fmt: skip
"""What the modules of networks give, and what they are given, by network."""

STAGES = (*RESULTS, *MODULES)
