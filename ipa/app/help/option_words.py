"""Errors in the words of the command line: options, where the library speaks of arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields

from ipa.app.request_options import OPTIONS
from ipa.errors import IpaError
from ipa.model.ignoring import REMEDY
from ipa.request.control import Control
from ipa.request.image_prompt import ImagePrompt
from ipa.request.request import Request

PHRASES: Mapping[str, str] = {
    REMEDY: "--ignore NAME leaves them out, and --ignore FILE=NAME those of a file that generate "
    "loads beside the model",
    "load one with load_ip_adapter, and pass ImagePrompt(..., adapter=name)": (
        "load one with --adapter NAME=FILE, and write -i NAME=PICTURE"
    ),
    "load one with load_controlnet or load_t2i_adapter, and pass Control(…, name=name)": (
        "load one with --controlnet NAME=FILE, and write --control NAME=PICTURE"
    ),
    "load them with load_controlnet, or name one with controls=[Control(…)]": (
        "load them with --controlnet, or name one with --control NAME=PICTURE"
    ),
    "load adapters with load_ip_adapter; several pictures for one adapter are a list in the list: "
    "[[a, b]]": "load an adapter with --adapter; a picture for each is -i NAME=PICTURE",
    "load_ip_adapter first": "load one with --adapter",
    "load_lora it, or set lora_folder; to go on without it, leave it out of loras": (
        "name it with --lora NAME=FILE, or its folder with --lora-folder"
    ),
    "load_lora the one that is meant": "load the one that is meant with --lora NAME=FILE",
    'write loras={"pixel": 0.5}; load them first with load_lora': "load it with --lora FILE:0.5",
    'write controls=[ipa.Control(edges, name="canny")]': "write --control NAME=PICTURE",
    "or load_textual_inversion under another token": (
        "or load it under another word with --textual-inversion WORD=FILE"
    ),
    "it with load_controlnet": "it with --controlnet",
    "it with load_t2i_adapter": "it with --controlnet",
    "a tiny one makes previews: load_preview_decoder": (
        "a tiny one makes previews: --preview-decoder"
    ),
    'load_preview_decoder("madebyollin/taesd"), or preview="latent"': (
        "write --preview-decoder madebyollin/taesd, or leave it out"
    ),
    "pass another name=, or unload_ip_adapter first": "give it another name: --adapter NAME=FILE",
    "pass another name=, or unload_lora first": "give it another name: --lora NAME=FILE",
    "pass another name=, or unload_controlnet first": (
        "give it another name: --controlnet NAME=FILE"
    ),
    "pass another name=, or unload_t2i_adapter first": (
        "give it another name: --controlnet NAME=FILE"
    ),
    "pass name=[…], one for each": "give each a name: --adapter NAME=FILE",
    'pass another token=, such as "<my-word>"; or unload_textual_inversion first': (
        "write another word: --textual-inversion '<my-word>=FILE'"
    ),
    "pass token= as a list with one for each file, or None for their own": (
        "write --textual-inversion WORD=FILE for each"
    ),
    "pass token=": "write --textual-inversion WORD=FILE",
    'pass weight_name=, such as "ip-adapter_sd15.safetensors"': (
        "name the file itself: --adapter FOLDER/ip-adapter_sd15.safetensors"
    ),
    'owner/repository with weight_name="ip-adapter_sd15.safetensors"': (
        "owner/repository/folder/ip-adapter_sd15.safetensors"
    ),
    "check the path, or pass weight_name=": "check the path; a file is owner/name/folder/FILE",
    "check the path, subfolder= and weight_name=": "check the path",
    "pass ImagePrompt(picture, face=embedding), or load_ip_adapter(…, "
    "face_embedder=ipa.face_embedder.insightface())": "write --face FILE.npy, or --find-faces",
    "write ImagePrompt([a, b], face=[of_a, of_b])": "write --face 1=A.npy --face 2=B.npy",
    "see ImagePrompt.scale": "its weight is -i FILE:SCALE",
    "pass numbers in the list and layers= beside it, or an image prompt per picture": (
        "write a number and --layers beside it, or an -i for each picture"
    ),
    "pass a function of (step, steps), or ImagePrompt(…, curve=…)": "write --curve",
    "open files with ipa.open_image": "give the path of a picture",
    "pass negative=": "write --negative-image ",
    "picture[mask > 0.5] = -1 sets all of them; or pass Control(picture, mask=mask)": (
        "write --control-preprocessor inpaint and --mask-image"
    ),
    "say which is wanted: width=, height=": "say which is wanted: --width and --height",
}
"""Phrases of messages, and what the command line says instead."""

_SAME = (
    *("dtype", "device", "quantize", "ignore", "revision", "variant", "offline", "vae", "backend"),
    *("layers", "curve", "embeds_scaling", "scale", "mask", "mask_fit", "fit", "sharpen", "face"),
    *("encoder_mask", "enhance_tiles", "enhance_ratio", "neg_content_prompt", "neg_content_scale"),
    *("preview_decoder", "lora_folder", "guess_mode", "vae_tiling", "vae_memory", "memory_budget"),
)
KEYWORDS: Mapping[str, str] = {
    **OPTIONS,
    **{name: f"--{name.replace('_', '-')}" for name in _SAME},
    "image_encoder_folder": "--image-encoder",
    "kind": "--adapter-kind",
    "face_embedder": "--find-faces",
    "image_prompt": "--image-prompt",
    "negative": "--negative-image",
    "loras": "--lora",
    "name": "--adapter NAME=FILE and so on",
}
"""Arguments of the library, and the options that say them."""

_OF_REQUESTS = frozenset(f.name for kind in (Request, ImagePrompt, Control) for f in fields(kind))
_GIVEN = re.compile(r"(?<![\w./\\-])([a-z][a-z_0-9]*)=(\"[^\"]*\"|'[^']*'|[\w.]+)?")
_ALONE = re.compile(r"[a-z][a-z_0-9]*=[\w.]+(?:, [^/=]*)?")
_FIELD = re.compile(r"\bImagePrompt\.([a-z_]+)")
_BARE = re.compile(r"(?<![\w./\\-])([a-z]+(?:_[a-z0-9]+)+)(?![\w./\\=]*[\w/\\=])")


def in_options(error: IpaError, *, of_file: bool = False) -> str:
    """An error's message with options for arguments; what was found stays.

    Args:
        error: One of ours.
        of_file: Whether the request came from a file, where arguments have the library's names.
    """
    arguments = _OF_REQUESTS if of_file else frozenset[str]()
    what, remedy = translated(error.what, arguments), translated(error.remedy, arguments)
    found = translated(error.found, arguments) if _ALONE.fullmatch(error.found) else error.found
    if (what, found, remedy) == (error.what, error.found, error.remedy):
        return str(error)
    return str(IpaError(what, found=found, remedy=remedy))


def translated(text: str, arguments: frozenset[str] = frozenset()) -> str:
    """A text with options in place of arguments, but for those that are kept."""
    for phrase, words in PHRASES.items():
        text = text.replace(phrase, words)
    table = {name: option for name, option in KEYWORDS.items() if name not in arguments}

    def given(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name not in table:
            return match[0]
        return f"{table[name]} {_unquoted(value)}" if value else table[name]

    text = _GIVEN.sub(given, text)
    text = _FIELD.sub(lambda match: table.get(match[1], match[0]), text)
    return _BARE.sub(lambda match: table.get(match[1], match[0]), text)


def _unquoted(value: str) -> str:
    """A value as it is typed: in quotes if it has a space."""
    return value if " " in value else value.strip("\"'")
