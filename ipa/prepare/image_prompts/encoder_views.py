"""The part of a picture that an image encoder sees, and the part that is lost."""

from __future__ import annotations

from PIL import Image

from ipa.backend.protocol import LoadedAdapter
from ipa.errors import RequestError
from ipa.model.preprocessor import ClipPreprocessor
from ipa.prepare.images.clip import encoder_views
from ipa.prepare.images.fit import kept
from ipa.prepare.images.pictures import to_rgb
from ipa.request.image_prompt import ImagePrompt
from ipa.request.picture_options import CENTER_CROP, TILE
from ipa.request.profiles import HOUSE, Profile

from .encoder_masks import masked_view, seen_masks
from .enhancement import part_views
from .tiles import tile_prompts

_WORTH_A_WORD = 0.01  # of a picture's area that is lost


def views(
    prompt: ImagePrompt, loaded: LoadedAdapter, profile: Profile = HOUSE
) -> list[Image.Image]:
    """What the encoder sees of each picture of an image prompt, or of each of its tiles.

    Behind a picture that is looked at more closely come its parts.
    """
    if loaded.encoder is None:
        raise RequestError("a FaceID adapter of this kind sees no pictures, but identities")
    recipe = ClipPreprocessor.from_config(loaded.preprocessing)
    if prompt.fit == TILE:
        side = recipe.output[0]
        cut = [one for part in prompt.parts for one in tile_prompts(part, side, profile)]
        return [view for tile, _ in cut for view in views(tile, loaded, profile)]
    fit, resize = prompt.fit or CENTER_CROP, profile.pixel_rule
    seen = encoder_views(prompt.images, loaded.preprocessing, fit, prompt.sharpen, resize)
    masks = seen_masks(prompt, recipe)
    whole = [masked_view(view, mask, recipe) for view, mask in zip(seen, masks, strict=True)]
    parts = part_views(prompt, loaded.preprocessing, resize)
    return [view for first, rest in zip(whole, parts, strict=True) for view in (first, *rest)]


def losses(prompt: ImagePrompt, loaded: LoadedAdapter) -> tuple[str, ...]:
    """A warning for every picture of which the default crop, or a box's, loses a part."""
    if isinstance(prompt.fit, str) or loaded.encoder is None or loaded.spec.face_width:
        return ()  # it was chosen, or the face is what counts
    recipe = ClipPreprocessor.from_config(loaded.preprocessing)
    warnings = []
    for number, picture in enumerate(prompt.images, start=1):
        image = to_rgb(picture)
        share = kept(image.width, image.height, prompt.fit or CENTER_CROP, recipe)
        if share < 1.0 - _WORTH_A_WORD:
            where = "the box in " if prompt.fit else ""
            warnings.append(
                f"picture {number} ({image.width} × {image.height}): the image encoder sees the "
                f"middle {share:.0%} of {where}it; fit='pad' or 'squash' keeps all, "
                "fit='center-crop' says that this is meant"
            )
    return tuple(warnings)
