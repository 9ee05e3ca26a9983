"""Units of sd-webui-controlnet: those of an IP-Adapter are image prompts, the others controls.

Shapes as that extension's and Forge's args.py read them, and webuiapi 0.9.17 writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from ipa.controls import canny, edges
from ipa.errors import shown

from ..faults import Fault
from ..fields import Field, read_fields
from ..offers import Offers
from ..pictures import Derived

IP_ADAPTERS = (
    "ip-adapter-auto",
    "ip-adapter_clip_h",
    "ip-adapter_clip_sd15",
    "ip-adapter_clip_g",
    "ip-adapter_clip_sdxl",
    "ip-adapter_clip_sdxl_plus_vith",
    "CLIP-ViT-H (IPAdapter)",
    "CLIP-ViT-bigG (IPAdapter)",
)
"""The modules that make a unit an image prompt; which encoder is needed, its adapter says."""

_FACES = ("ip-adapter_face_id", "ip-adapter_face_id_plus", "InsightFace+CLIP-H (IPAdapter)")
_NONE = ("none", "", "None")
MODULES: tuple[str, ...] = ("none", "canny", "edges", *IP_ADAPTERS)
"""All modules that there are."""

_UNIT: Mapping[str, Field] = {
    "enabled": Field(kind="flag"),
    "module": Field(kind="text", longest=200),
    "model": Field(kind="text", longest=400),
    "weight": Field(kind="number", low=-10, high=10),
    "image": Field(kind="any"),
    "input_image": Field(kind="any"),
    "mask": Field(kind="any"),
    "mask_image": Field(kind="any"),
    "guidance_start": Field(kind="number", low=0, high=1),
    "guidance_end": Field(kind="number", low=0, high=1),
    "guidance": Field(kind="number", low=0, high=1),
    "threshold_a": Field(kind="number"),
    "threshold_b": Field(kind="number"),
    "control_mode": Field(kind="any"),
    "effective_region_mask": Field(kind="text"),
    "advanced_weighting": Field(kind="list", longest=64),
    "ipadapter_input": Field(kind="any"),
}
_GUESS = ("ControlNet is more important", 2)
_PROMPT_FIRST = ("My prompt is more important", 1)
_CANNY = (100.0, 200.0)


def scripts(given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The enabled units of `alwayson_scripts`. Raises Fault for another script that is meant."""
    units: list[Mapping[str, Any]] = []
    for name, script in given.items():
        args = script.get("args", []) if isinstance(script, Mapping) else script
        if not isinstance(args, list):
            raise Fault(
                422, "args of a script is a list", field="alwayson_scripts", found=shown(args)
            )
        if name.lower() == "controlnet":
            units += [unit for unit in args if not _is_off(unit)]
        elif any(one is not None and one is not False and one != [] for one in args):
            raise Fault(
                422,
                f"always on script {name[:80]} not found",
                field="alwayson_scripts",
                found=shown(name),
                remedy="there is ControlNet, whose units may be IP-Adapters",
            )
    return units


def _is_off(unit: Any) -> bool:
    if not isinstance(unit, Mapping):
        raise Fault(422, "a unit is an object", field="alwayson_scripts", found=shown(unit))
    empty = not any(unit.get(name) for name in ("image", "input_image", "ipadapter_input"))
    return unit.get("enabled", True) is False or (empty and _text(unit, "model") in _NONE)


def read_unit(unit: Mapping[str, Any], offers: Offers) -> tuple[str, dict[str, Any], list[str]]:
    """A unit as an entry of a request.

    Returns:
        The list that it belongs to, "image_prompts" or "controls"; the entry; warnings.

    Raises:
        Fault: It asks for a module or a model that there is not.
    """
    given = read_fields(unit, _UNIT)
    module, model = _text(given, "module") or "none", _text(given, "model")
    if given.get("ipadapter_input"):
        raise Fault(
            422, "ipadapter_input is not read", field="ipadapter_input", remedy="send pictures"
        )
    if module in _FACES:
        raise Fault(
            422, "this module finds faces, which needs a native job", field="module", found=module
        )
    is_adapter = module in IP_ADAPTERS or (
        module in _NONE and model not in _NONE and offers.has("adapters", model)
    )
    pictures, masks = _pictures(given)
    entry = _window(given) | {"scale": given.get("weight", 1.0)}
    if is_adapter:
        return "image_prompts", entry | _image_prompt(given, model, pictures, offers), []
    return "controls", *_control(given, (module, model), (pictures, masks), entry, offers)


def _window(given: Mapping[str, Any]) -> dict[str, float]:
    end = given.get("guidance_end", given.get("guidance", 1.0))
    return {"start": given.get("guidance_start", 0.0), "end": end}


def _image_prompt(
    given: Mapping[str, Any], model: str, pictures: list[Any], offers: Offers
) -> dict[str, Any]:
    if not pictures:
        raise Fault(422, "a unit of an IP-Adapter needs its image", field="image")
    name = offers.part("adapters", None if model in _NONE else model)
    entry = {"adapter": name, "image": pictures if len(pictures) > 1 else pictures[0]}
    if given.get("effective_region_mask"):
        entry["mask"] = given["effective_region_mask"]
    weights = given.get("advanced_weighting")
    if weights:
        if not all(isinstance(one, (int, float)) for one in weights):
            raise Fault(422, "advanced_weighting is numbers", field="advanced_weighting")
        entry["layers"] = ", ".join(f"{at}:{weight!r}" for at, weight in enumerate(weights))
    return entry


def _control(
    given: Mapping[str, Any],
    named: tuple[str, str],
    seen: tuple[list[Any], list[Any]],
    entry: dict[str, Any],
    offers: Offers,
) -> tuple[dict[str, Any], list[str]]:
    (module, model), (pictures, masks) = named, seen
    if module not in MODULES:
        raise Fault(
            422,
            "this preprocessor is not here",
            field="module",
            found=shown(module),
            remedy=f"one of {', '.join(MODULES)}",
        )
    if len(pictures) != 1:
        raise Fault(422, "a unit of a ControlNet has one image", field="image")
    kind = "t2i_adapters" if offers.has("t2i_adapters", model) else "controlnets"
    mode = given.get("control_mode", 0)
    warnings = []
    if mode in _PROMPT_FIRST:
        warnings.append(f"control_mode {mode} has no effect here: it is balanced")
    image = pictures[0] if module in _NONE else Derived(pictures[0], _work(module, given))
    entry |= {"image": image, "name": offers.part(kind, None if model in _NONE else model)}
    if mode in _GUESS:
        entry["guess_mode"] = True
    if masks:
        entry["mask"] = masks[0]
    return entry, warnings


def _work(module: str, given: Mapping[str, Any]) -> Any:
    if module == "edges":
        return edges
    low, high = (
        given[name] if given.get(name, -1) >= 0 else usual
        for name, usual in zip(("threshold_a", "threshold_b"), _CANNY, strict=True)
    )

    def found(picture: Image.Image) -> Image.Image:
        return canny(picture, low, high)

    return found


def _pictures(given: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The pictures of a unit and their masks, in each of the ways that they are written."""
    value = given.get("image") or given.get("input_image")
    mask = given.get("mask") or given.get("mask_image")
    masks = [mask] if mask else []
    if not value:
        return [], masks
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) == 2 and all(isinstance(one, str) for one in value):
            return [value[0]], [value[1]] if value[1] else masks
        pairs = [_pair(one) for one in value]
    else:
        pairs = [_pair(value)]
    return [image for image, _ in pairs], [one for _, one in pairs if one] or masks


def _pair(value: Any) -> tuple[Any, Any]:
    if isinstance(value, str):
        return value, None
    if isinstance(value, Mapping) and isinstance(value.get("image"), str):
        return value["image"], value.get("mask")
    raise Fault(
        422,
        "image of a unit is base64, an object with image and mask, or a list of those",
        field="image",
        found=shown(value),
    )


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    return value.strip() if isinstance(value, str) else ""
