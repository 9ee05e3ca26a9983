"""Pictures as their encoders see and describe them, outside of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from PIL import Image

from ipa.arrays import Floats
from ipa.backend.protocol import Backend
from ipa.checks import checked
from ipa.errors import RequestError
from ipa.prepare.image_prompts.attached import adapter_name
from ipa.prepare.image_prompts.embeds_origin import load_embeds
from ipa.prepare.image_prompts.encoder_views import views
from ipa.prepare.image_prompts.encoding import EncodingOptions, Reader, plan_features
from ipa.prepare.image_prompts.faces import check_fits
from ipa.prepare.image_prompts.text_direction import plan_direction
from ipa.prepare.images.clip import clip_pixels
from ipa.request.embeds import ImageEmbeds
from ipa.request.image_prompt import ImagePrompt
from ipa.request.pictures import Picture
from ipa.request.profiles import profile_named
from ipa.request.result import OnProgress
from ipa.request.watched import watching
from ipa.watching import CancelSignal, watch

from ..adapters import named
from ..loaded import Loaded
from ..memory.parts import reading_parts
from ..snapshot import Selection, Snapshot
from .turns import Wait


@dataclass(frozen=True, slots=True)
class Seen:
    """What calls see of what is loaded: everything, or a selection."""

    loaded: Loaded
    selection: Selection | None = None

    def snapshot(self, *wait: Wait) -> tuple[Snapshot, Backend]:
        """What they see now, and the backend that has it; see `Loaded.snapshot`."""
        found, backend = self.loaded.snapshot(*wait)
        return found if self.selection is None else self.selection.of(found), backend


@checked
def embed_images(
    seen: Seen,
    images: Sequence[Picture],
    adapter: str | None = None,
    *,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
) -> Floats:
    """CLIP embeddings of pictures, (N, P), by the encoder of an adapter (by default the first).

    For comparing pictures: the cosine of two embeddings is their likeness to that encoder.
    `on_progress` and `cancel`: as for `encode_image_prompt`.
    """
    if not isinstance(images, (list, tuple)):
        raise RequestError(
            "embed_images needs a list of pictures",
            found=type(images).__name__,
            remedy="[picture] is one",
        )
    now, backend = seen.snapshot()
    if not now.adapters:
        raise RequestError("no image encoder is loaded", remedy="load_ip_adapter first")
    name = named(adapter, now.adapters)[0]
    loaded = now.adapters[name].loaded
    if loaded.encoder is None:
        raise RequestError(f"{name} has no image encoder", remedy="name another adapter")
    pixels = clip_pixels(images, loaded.preprocessing)
    parts = reading_parts(name, backend.residency.encoders())
    with watching(on_progress, cancel), seen.loaded.owned_for(*parts):
        watch().expect("encode", len(pixels), "pictures")
        embedding = backend.embed_images(name, pixels)
        watch().advance("encode", len(pixels), "pictures")
        return embedding


@checked
def encode_image_prompt(
    seen: Seen,
    image: Picture | Sequence[Picture] | ImageEmbeds | None = None,
    *,
    adapter: str | None = None,
    profile: str | None = None,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[EncodingOptions],
) -> ImageEmbeds:
    """What an adapter's encoder says about pictures: to keep, combine, and prompt with.

    Args:
        image: One picture or several, or embeds to combine.
        adapter: A loaded adapter; None takes the only one.
        profile: That of the calls they are for (`ipa.request.profiles`).
        on_progress: Told of stage "load" where the encoder must be read first, and of "encode", in
            pictures: yours, a negative one if the adapter needs it, parts of enhanced ones.
        cancel: Asked between them whether to stop.
        **options: combine, negative, fit, sharpen, encoder_mask, enhance_tiles, enhance_ratio,
            neg_content_prompt, neg_content_scale, face; see `ImagePrompt`.

    Raises:
        Cancelled: `cancel` says so; the pipeline stays usable.
        RequestError: An argument cannot be honoured.
    """
    now, backend = seen.snapshot()
    name, prompt = adapter_name(adapter, now.adapters), ImagePrompt(image, **options)
    attached = now.adapters[name]
    check_fits(prompt, attached.loaded.spec, attached.file)
    direction = plan_direction(prompt, name, attached.loaded, now.model, now.tokenizers)
    reader = Reader(name, attached, profile_named(profile))
    features = plan_features(prompt, reader, direction)
    parts = reading_parts(name, backend.residency.encoders())
    with watching(on_progress, cancel), seen.loaded.owned_for(*parts):
        return features.compute(backend, name)


@checked
def load_image_embeds(
    seen: Seen, path: str | Path, *, adapter: str | None = None, profile: str | None = None
) -> ImageEmbeds:
    """Embeds for an adapter from a file of ours, or from diffusers' or ComfyUI's .ipadpt."""
    now, backend = seen.snapshot()
    name, chosen = adapter_name(adapter, now.adapters), profile_named(profile)
    with seen.loaded.owned_for(*reading_parts(name, backend.residency.encoders())):
        return load_embeds(path, backend, name, now.adapters[name].loaded, chosen)


@checked
def encoder_views(
    seen: Seen, prompt: ImagePrompt, *, profile: str | None = None
) -> list[Image.Image]:
    """What the image encoder sees of each picture of a prompt, or of its tiles, as pictures."""
    if not isinstance(prompt, ImagePrompt):
        raise RequestError("encoder_views needs ImagePrompt", found=type(prompt).__name__)
    now, _ = seen.snapshot()
    name = adapter_name(prompt.adapter, now.adapters)
    return views(prompt, now.adapters[name].loaded, profile_named(profile))
