"""What is said of networks: UNets, CLIP towers, ControlNets, T2I-Adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ipa.errors import CheckpointError
from ipa.model.config import Config
from ipa.model.controlnet import ControlNetSpec
from ipa.model.left_out import LeftOut
from ipa.model.sites import base_name
from ipa.model.t2i_adapter import Feature, T2IAdapterSpec

from ..containers.checkpoint import Checkpoint
from ..reading import clip_configs
from ..reading.controlnet_config import detect
from ..reading.recognition import base_of, context_width, input_channels, other_kind
from ..reading.single_file import AVERAGES, beside, component_of, has_averages
from ..reading.t2i_adapter_config import detect_t2i_adapter
from ..tables import clip_spellings, controlnet, t2i_adapter
from ..tables.clip_spellings import Spelling
from .description import Facts

_INPUTS: Mapping[int, str] = {
    4: "text to image",
    5: "depth",
    7: "upscaler",
    8: "instruct-pix2pix",
    9: "inpainting",
}


# Cross-attentions of the whole UNet: fewer are of distilled or pruned relatives.
_SITES: Mapping[str, int] = {"SD1.5": 16, "SD2": 16, "SDXL": 70}


_TAKES_CONTROL = (
    "load_controlnet takes the ControlNet of this file, and convert --kind controlnet writes it "
    "alone; otherwise it is the model"
)


_PARTS: Mapping[str, str] = {"vae": "VAE", "text_encoder": "text encoder"}


_SECOND = {"text_encoder_2": "second text encoder"}


_MARKERS: Mapping[str, str] = {
    "v_pred": "marked as predicting v (v_pred)",
    "ztsnr": "marked as trained down to no signal at all (ztsnr)",
}


def unet_facts(checkpoint: Checkpoint) -> Facts:
    """Describe a UNet: base, kind, and what is odd; a converted one's axes are MLX's."""
    inputs = input_channels(checkpoint)
    width = context_width(checkpoint)
    base = base_of(checkpoint)
    other = other_kind(checkpoint)
    remarks = [*([f"it is {other}"] if other else []), *_pruned(checkpoint, base)]
    return Facts(
        variant=_INPUTS.get(inputs, f"{inputs} input channels"),
        base=base or base_name(width),
        remarks=tuple(remarks),
    )


def single_file_facts(checkpoint: Checkpoint) -> Facts:
    """Describe a whole model in one file, with what it lacks and cannot tell."""
    unet = unet_facts(checkpoint)
    remarks = [*unet.remarks, *_missing(checkpoint, unet.base)]
    if has_averages(checkpoint):
        remarks.append("the UNet twice: its last weights, and their averages (convert with --ema)")
    if others := LeftOut.of(checkpoint.where, beside(checkpoint)).listed():
        remarks.append(f"beside its networks: {others}; it is left out")
    marks = [words for name, words in _MARKERS.items() if name in checkpoint]
    remarks += marks or _untold(unet.base)
    return Facts(variant=unet.variant, base=unet.base, remarks=tuple(remarks))


def controlled_facts(checkpoint: Checkpoint) -> Facts:
    """Describe a whole model with a ControlNet in it: it is the model, and may be the other."""
    model, control = single_file_facts(checkpoint), controlnet_facts(checkpoint)
    words = ", ".join(filter(None, (control.base, *control.remarks[:1])))
    return replace(model, remarks=(*model.remarks, f"its ControlNet: {words}", _TAKES_CONTROL))


def _pruned(checkpoint: Checkpoint, base: str) -> Iterator[str]:
    count = sum(
        name.endswith(".attn2.to_k.weight") and not name.startswith(AVERAGES) for name in checkpoint
    )
    whole = _SITES.get(base, count)
    if count != whole:
        yield (
            f"{count} cross-attentions where {base} has {whole}: pruned or distilled, as SSD-1B "
            "and Vega are; not supported"
        )


def _missing(checkpoint: Checkpoint, base: str) -> Iterator[str]:
    present = {component_of(name) for name in checkpoint}
    needed = {**_PARTS, **(_SECOND if base == "SDXL" else {})}
    for component, words in needed.items():
        if component not in present:
            yield f"no {words} inside: it was pruned away, and has to come from elsewhere"


def _untold(base: str) -> list[str]:
    if base == "SD2":
        return ["whether it predicts epsilon or v is guessed from one norm: --prediction-type says"]
    return ["no marker of what it predicts: taken for epsilon, unless --prediction-type says else"]


def text_variant(checkpoint: Checkpoint) -> str:
    """The public text encoder of this width."""
    return _variant(clip_configs.text_sizes(checkpoint), clip_configs.TEXT_TOWERS)


def text_remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Remarks on a text encoder: its spelling."""
    return _clip_spelling(checkpoint, clip_spellings.TEXT)


def vision_variant(checkpoint: Checkpoint) -> str:
    """The public image encoder of this width."""
    return _variant(clip_configs.vision_sizes(checkpoint), clip_configs.VISION_TOWERS)


def vision_remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Remarks on an image encoder: its spelling, and whether it is complete."""
    spelling = _clip_spelling(checkpoint, clip_spellings.VISION)
    if "projection_dim" in clip_configs.vision_sizes(checkpoint):
        return spelling
    return (*spelling, "not supported: it lacks the projection that an image encoder has")


def whole_remarks(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Remarks on a whole CLIP: its spelling, and both towers."""
    return (
        *_clip_spelling(checkpoint, clip_spellings.WHOLE),
        f"image tower: {vision_variant(checkpoint)}",
        f"text tower: {text_variant(checkpoint)}",
    )


def _variant(sizes: Mapping[str, int], towers: Mapping[str, Config]) -> str:
    """The public tower of this width, and of this picture size if there is one."""
    width = sizes.get("hidden_size", 0)
    of_width = {title: row for title, row in towers.items() if row["hidden_size"] == width}
    for title, row in of_width.items():
        if row.get("image_size") == sizes.get("image_size"):
            return title
    return next(iter(of_width), f"width {width}")


def _clip_spelling(checkpoint: Checkpoint, spellings: Sequence[Spelling]) -> tuple[str, ...]:
    if checkpoint.converted:
        return ()
    return tuple(row.words for row in spellings if row.fits(checkpoint))[:1]


_CONTROLNET_BASES: Mapping[int, str] = {768: "SD1.5", 1024: "SD2", 2048: "SDXL"}


# Of SDXL, by the transformers of its two coarser levels (diffusers/controlnet-canny-sdxl-1.0-*).
_SIZES: Mapping[tuple[bool, tuple[int, ...]], str] = {
    (True, (2, 10)): "full",
    (True, (0, 1)): "mid",
    (False, (0, 0)): "small",
}


_KIND_IS_OPEN = "edges, depth, a pose …: which kind of picture it wants is not in the weights"


_POOLING_IS_OPEN = "whether it is shuffle, which needs global_pool_conditions, is not either"


def controlnet_facts(checkpoint: Checkpoint) -> Facts:
    """Describe a ControlNet: base, size, spelling, channels; then what no tensor tells."""
    spelling = _controlnet_spelling(checkpoint)
    try:
        spec = ControlNetSpec.from_config(detect(checkpoint), checkpoint.where)
    except CheckpointError as error:
        return Facts(remarks=(*spelling, f"structure not known: {error.found}"))
    base = _CONTROLNET_BASES[spec.context_width]
    channels = f"{spec.conditioning_channels} channels of the control picture"
    pooling = (_POOLING_IS_OPEN,) if base == "SD1.5" else ()
    return Facts(
        variant=_size(spec),
        base=base,
        remarks=(channels, *spelling, _KIND_IS_OPEN, *pooling),
    )


def _size(spec: ControlNetSpec) -> str:
    """The size of an SDXL ControlNet; other bases come in one size."""
    if spec.addition is None:
        return ""
    counts = spec.transformer_layers[-2:]
    return _SIZES.get((any(spec.down_attention), counts), f"{counts} transformers")


def _controlnet_spelling(checkpoint: Checkpoint) -> tuple[str, ...]:
    if checkpoint.converted:
        return ()
    if any(controlnet.DROPS[0].matches(name) for name in checkpoint):
        return ("original naming, with other networks beside it",)
    if "controlnet_cond_embedding.conv_in.weight" in checkpoint:
        return ("diffusers' naming",)
    return ("original naming",)


_T2I_ADAPTER_BASES: Mapping[tuple[Feature, ...], str] = {
    ((320, 8), (640, 16), (1280, 32), (1280, 64)): "SD1.5",
    ((320, 16), (640, 16), (1280, 32), (1280, 32)): "SDXL",
}


def t2i_adapter_facts(checkpoint: Checkpoint) -> Facts:
    """Describe a T2I-Adapter: base, type, spelling, channels; then what no tensor tells."""
    spelling = _t2i_adapter_spelling(checkpoint)
    try:
        spec = T2IAdapterSpec.from_config(detect_t2i_adapter(checkpoint), checkpoint.where)
    except CheckpointError as error:
        return Facts(remarks=(*spelling, f"structure not known: {error.found}"))
    channels = "1 channel" if spec.in_channels == 1 else f"{spec.in_channels} channels"
    return Facts(
        variant=spec.adapter_type,
        base=_T2I_ADAPTER_BASES.get(spec.features, ""),
        remarks=(f"{channels} of the control picture", *spelling, _KIND_IS_OPEN),
    )


def _t2i_adapter_spelling(checkpoint: Checkpoint) -> tuple[str, ...]:
    if checkpoint.converted:
        return ()
    is_diffusers = any(name.startswith(t2i_adapter.PREFIX) for name in checkpoint)
    return ("diffusers' naming",) if is_diffusers else ("original naming",)
