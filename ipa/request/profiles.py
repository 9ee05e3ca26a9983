"""Profiles: how another program would read the same request.

Implementations of IP-Adapter disagree in some thirty places, D1 to D30. A profile decides, at once,
every one of them that a request can decide; `NOT_DECIDED` says why the others are the same under
all profiles, `NOT_FOLLOWED` what of a program no profile does. Where a program has no such feature
(masks in tencent's, scales in a list without masks in diffusers'), the house's own choice stands.

Sources: tencent-ailab/IP-Adapter (ip_adapter.py, ip_adapter_faceid.py and _separate.py, utils.py,
custom_pipelines.py); diffusers (loaders, image_processor.py, callbacks.py); ComfyUI
(clip_vision.py, model_sampling.py, conds.py, sample.py, attention.py) with ComfyUI_IPAdapter_plus
(IPAdapterPlus.py, CrossAttentionPatch.py, utils.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ipa.errors import RequestError, shown

PREPARED = "prepared floats"
AS_MEANT = "comfyui-as-meant"


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """The choices of one program.

    Attributes:
        name: What a request calls it.
        unconditional: D1. What the encoder of an adapter of states is shown for no picture: "zeros"
            are pixels after normalisation, a mean grey, as in the training; "black" is a black
            picture, normalised. Adapters of pooled embeddings take zeros everywhere.
        clip_resize: D2. "bytes" is transformers' PIL path, the longer side cut off to whole pixels;
            "floats" is ComfyUI's (`comfyui_pixels`).
        image_list: D3. A list of pictures, or of faces, is one "joint" prompt, or a "batch", whose
            every picture or face makes pictures of its own; several faces are one prompt to
            Portrait adapters always.
        masked_pictures: D4. Several pictures under masks: "as listed", a list of masks makes a
            softmax per picture and one mask none; "separate", a softmax per picture always;
            "joint", one softmax always, so that a list of masks is refused.
        mask_rule: D5. A name of `masks.MASK_RULES`: "soft", "binary" or "latent grid".
        window: D6. What start and end mean; a name of `windows.WINDOWS`: "fraction" of the steps,
            "cutoff" after a step, or "sigma" of a training timestep.
        face_lora_scale: D7. Factor on the LoRA that FaceID files bring.
        shortcut_scale: D8. Factor s on the resampled tokens of FaceID-Plus v2, Y = x + s·Z.
            ComfyUI's node offers 1.0; called without it, it takes twice the weight instead.
        picture_scales: D10. What a list of scales multiplies: each picture's "attention", or its
            "features" before the projector, after which λ is 1 and attention is joint.
        negative_prompt: D14. The text that stands where none is given; None is the model's own
            choice: zeros for SDXL, "" for others. The sizes are the real ones everywhere.
        middle_block: D23. Whether adapters enter the UNet's middle block. ComfyUI_IPAdapter_plus
            registers its patches for ("middle", 1), where ComfyUI asks for ("middle", 0): as it is
            published since September 2024, the middle block is "left out". "comfyui-as-meant" is
            the same program without that slip.
        composition_weight: D24. What the composition in "style and composition" is weighed with:
            "scaled" by λ as the style is, or by a weight of its "own", ComfyUI's
            weight_composition, which is 1.
        uneven_texts: D25. What a shorter text in chunks gets, so that it stands beside a longer
            one: "empty chunks", or its own chunks "repeated", which changes no attention to it.
        preparation: D26. Where "pad", the edges and sharpening happen: in the "encoder"'s own
            resize, or "before" it, in the picture's pixels, which Lanczos' filter then brings to
            the encoder's size (PrepImageForClipVision). Sharpened tiles are so before they are cut.
        tile_masks: D27. The masks of tiles: the part of each pixel of the "canvas" that a tile
            covers, or ones on the "tile grid", the pixels that the reference is cut in; a mask of
            the prompt's own is then cropped as the reference is.
        face_lora_at_zero: D28. The LoRA of a FaceID file while its prompt's λ is 0: "off", so that
            the picture is the base model's, or "on".
        seeds: D29. Several pictures of one seed: "one each", seed, seed + 1, …, so that each can be
            made again alone, or "one generator", which draws for all of them at once.
        clip_skip: D30. Whether clip_skip leaves out layers for the "prompt" alone, or for "both"
            texts, since ComfyUI sets it on the text encoder.
    """

    name: str
    unconditional: Literal["zeros", "black"] = "zeros"
    clip_resize: Literal["bytes", "floats"] = "bytes"
    image_list: Literal["joint", "batch"] = "joint"
    masked_pictures: Literal["as listed", "separate", "joint"] = "as listed"
    mask_rule: Literal["soft", "binary", "latent grid"] = "soft"
    window: Literal["fraction", "cutoff", "sigma"] = "fraction"
    face_lora_scale: float = 1.0
    shortcut_scale: float = 1.0
    picture_scales: Literal["attention", "features"] = "attention"
    negative_prompt: str | None = None
    middle_block: Literal["entered", "left out"] = "entered"
    composition_weight: Literal["scaled", "own"] = "scaled"
    uneven_texts: Literal["empty chunks", "repeated"] = "empty chunks"
    preparation: Literal["encoder", "before"] = "encoder"
    tile_masks: Literal["canvas", "tile grid"] = "canvas"
    face_lora_at_zero: Literal["off", "on"] = "off"
    seeds: Literal["one each", "one generator"] = "one each"
    clip_skip: Literal["prompt", "both"] = "prompt"

    @property
    def pixel_rule(self) -> str:
        """The `resize` of `images.clip_pixels` that makes this profile's pixels, D2 and D26."""
        return self.clip_resize if self.preparation == "encoder" else PREPARED


DECIDED: Mapping[str, str] = {
    "D1": "unconditional",
    "D2": "clip_resize",
    "D3": "image_list",
    "D4": "masked_pictures",
    "D5": "mask_rule",
    "D6": "window",
    "D7": "face_lora_scale",
    "D8": "shortcut_scale",
    "D10": "picture_scales",
    "D14": "negative_prompt",
    "D23": "middle_block",
    "D24": "composition_weight",
    "D25": "uneven_texts",
    "D26": "preparation",
    "D27": "tile_masks",
    "D28": "face_lora_at_zero",
    "D29": "seeds",
    "D30": "clip_skip",
}
"""The fields of `Profile` that decide each row of the register."""

NOT_DECIDED: Mapping[str, str] = {
    "D9": "the numbering of keys belongs to a file: readers know every public one",
    "D11": "the default scale is 1.0 in all three",
    "D12": "the layout of embeds belongs to a file: `load_image_embeds` reads both .ipadpt, and "
    "`write_ipadpt` takes layout=",
    "D13": "the order of the two halves inside a batch changes no picture",
    "D15": "`combine` names one program's formulas alone, ComfyUI's, with its norm over pictures "
    "and its first unconditional row; the others have no such modes",
    "D16": "a slip of tencent's in a helper for attention maps, which its pictures do not use",
    "D17": "the number of tokens is read from the weights; another one cannot run",
    "D18": "which GELU an encoder has is read from its config, by all three",
    "D19": "the number of heads is that of the weights, in all three",
    "D20": "an error or not: one scale for several adapters is allowed",
    "D21": "an error or not: a loaded adapter without a picture is the base model",
    "D22": "precision is chosen with dtype=, when a model is loaded",
}
"""The rows of the register that no profile decides, each with the reason."""

HOUSE = Profile(name="default")
"""The default profile: transformers' pixels, diffusers' layout of masks, tencent's window."""

NOT_FOLLOWED: Mapping[str, str] = {
    "ComfyUI's noise of later steps": "drawn on the device that samples, from a seed that depends "
    "on it; here the generator of the start goes on, as in tencent's",
    "ComfyUI's prepared pictures of 224 pixels": "for encoders of another size they are resized "
    "twice there; here they are made in the encoder's own size",
    "ComfyUI's closer look": "its parts are cut from the picture as it is and lose their edges; "
    "here from the square that the fit keeps (`enhancement`)",
    "ComfyUI's masks of any aspect": "stretched without a word there; here mask_fit says so",
    "the LoRA of adapters without a prompt": "tencent and ComfyUI cannot be asked without one, and "
    "diffusers refuses (D21): the base model here",
}
"""Behaviours of the programs that no profile follows, each with the reason."""

_COMFYUI = Profile(
    name="comfyui",
    unconditional="black",
    clip_resize="floats",
    masked_pictures="joint",
    mask_rule="latent grid",
    window="sigma",
    face_lora_scale=0.6,
    picture_scales="features",
    negative_prompt="",
    middle_block="left out",
    composition_weight="own",
    uneven_texts="repeated",
    preparation="before",
    tile_masks="tile grid",
    face_lora_at_zero="on",
    seeds="one generator",
    clip_skip="both",
)

PROFILES: Mapping[str, Profile] = {
    profile.name: profile
    for profile in (
        HOUSE,
        Profile(
            name="tencent",
            image_list="batch",
            negative_prompt="monochrome, lowres, bad anatomy, worst quality, low quality",
            face_lora_at_zero="on",
            seeds="one generator",
        ),
        Profile(
            name="diffusers",
            masked_pictures="separate",
            mask_rule="binary",
            window="cutoff",
            face_lora_at_zero="on",
        ),
        _COMFYUI,
        replace(_COMFYUI, name=AS_MEANT, middle_block="entered"),
    )
}
"""Every profile by name. tencent's negative prompt is that of `IPAdapter.generate`, for all models;
its default prompt is left out, since a prompt that is not given is "" here."""


def profile_named(name: str | None) -> Profile:
    """A profile by name; None is the house's own. Raises RequestError for another."""
    if name is None:
        return HOUSE
    if isinstance(name, str) and name in PROFILES:
        return PROFILES[name]
    near = difflib.get_close_matches(shown(name).strip("' ").lower(), PROFILES, n=1, cutoff=0.0)
    raise RequestError(
        "there is no such profile",
        found=shown(name),
        remedy=f"did you mean {near[0]!r}? All: {', '.join(PROFILES)}",
    )
