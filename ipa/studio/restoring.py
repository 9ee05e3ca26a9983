"""From a picture's file back to a job: ours whole, other programs' as far as it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ipa import demo
from ipa.errors import IpaError
from ipa.metadata.dialects.foreign import Foreign
from ipa.metadata.reading import Told, read_told
from ipa.metadata.references import read_references
from ipa.prepare.images.pictures import open_image
from ipa.request.pictures import picture_sha256

from .pictures import Pictures, named
from .studio import STUDIO

_PLAIN = (
    *("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale"),
    *("scheduler", "seed", "clip_skip", "long_prompts", "prompt_syntax", "guidance_rescale"),
    *("guidance_start", "guidance_end", "eta", "profile"),
)
_OF_PROMPT = ("adapter", "scale", "layers", "curve", "start", "end", "combine", "fit", "sharpen")
_UNSEEN = ("masks", "negative", "embeds_sha256", "faces_sha256", "encoder_masks")


def restored(file: bytes, pictures: Pictures) -> dict[str, Any]:
    """What a picture's file says, as a job for the page.

    Args:
        file: PNG, JPEG or WebP.
        pictures: Where those are that it was made of; those inside it are put there.

    Returns:
        "job" and perhaps the page's own "form" (None where nothing is said), the "pictures" of
        them that are here, "made_by", "info", and "not_restored": in words.

    Raises:
        RequestError: It is no such file, or what it says is damaged.
    """
    told = read_told(file, "the picture")
    if told.ours is not None:
        return _ours(told, told.ours, pictures)
    if told.foreign:
        return _foreign(told.foreign[0])
    return {"job": None, "form": None, "made_by": None, "info": None, "not_restored": []}


def _ours(told: Told, ours: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    answer: dict[str, Any] = {"form": None, "made_by": "ipa-mlx"}
    answer["info"] = {key: value for key, value in ours.items() if key != STUDIO}
    own = ours.get(STUDIO)
    if isinstance(own, Mapping) and isinstance(own.get("job"), Mapping):
        _take_demo(pictures, {*named(own["job"]), *named(own.get("form"))})
        here = _here(own, pictures)
        gone = sorted({*named(own["job"])} - {one["sha256"] for one in here})
        words = [f"a picture that is no longer in this folder ({one[:12]}…)" for one in gone]
        kept = {key: own.get(key) for key in ("job", "form", "id", "number")}
        return answer | kept | {"pictures": here, "not_restored": words}
    request = ours.get("request")
    if not isinstance(request, Mapping):
        return answer | {"job": None, "not_restored": ["it keeps no request"]}
    references = ours.get("references")
    if isinstance(references, Mapping):
        request, files = read_references(references, told.contents.references, "the picture")
        for one in files:
            if one.kind == "picture":
                pictures.put(one.data)
    lost: list[str] = []
    job = {"request": _described(request, pictures, lost)}
    return answer | {"job": job, "pictures": _here(job, pictures), "not_restored": lost}


def _here(value: Any, pictures: Pictures) -> list[dict[str, Any]]:
    """The pictures that an object of JSON names and that are here, with their sizes."""
    found = (pictures.found(one) for one in sorted({*named(value)}))
    return [one for one in found if one is not None]


def _described(request: Mapping[str, Any], pictures: Pictures, lost: list[str]) -> dict[str, Any]:
    """A described request as one of JSON; what it cannot hold is added to `lost`."""
    made = {name: request[name] for name in _PLAIN if request.get(name) is not None}
    prompts = []
    for number, entry in enumerate(_objects(request.get("image_prompts")), start=1):
        wanted = [str(one) for one in entry.get("images_sha256") or ()]
        _take_demo(pictures, set(wanted))
        here = [{"sha256": one} for one in wanted if pictures.found(one)]
        where = f"picture {number}"
        lost += [f"{where}: not at hand" for _ in range(len(wanted) - len(here))]
        lost += [f"{where}: its {name.replace('_', ' ')}" for name in _UNSEEN if entry.get(name)]
        if here:
            plain = {name: entry[name] for name in _OF_PROMPT if entry.get(name) is not None}
            prompts.append({"image": here if len(here) > 1 else here[0], **plain})
    lost += ["a structure picture" for _ in _objects(request.get("controls"))]
    lost += [words for name, words in _STARTS.items() if request.get(name)]
    lost += [f"LoRA {name}" for name in request.get("loras") or ()]
    return made | ({"image_prompts": prompts} if prompts else {})


_STARTS = {
    "image_sha256": "the picture it started from",
    "mask_image_sha256": "the mask of what was made anew",
    "given_latents_sha256": "noise that was given as numbers",
}


def _foreign(foreign: Foreign) -> dict[str, Any]:
    lost = [one.words() for one in foreign.weights] + list(foreign.lost)
    return {
        "job": {"request": dict(foreign.arguments)},
        "form": None,
        "made_by": foreign.tool,
        "info": None,
        "not_restored": lost,
    }


def _take_demo(pictures: Pictures, wanted: set[str]) -> None:
    """Keep those of the demo's own pictures that are wanted."""
    for path in demo.references() if wanted else ():
        try:
            image = open_image(path)
        except IpaError:
            continue  # an installation without them
        if picture_sha256(image) in wanted:
            pictures.keep(image)


def _objects(value: Any) -> Iterator[Mapping[str, Any]]:
    listed = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    return (one for one in listed if isinstance(one, Mapping))
