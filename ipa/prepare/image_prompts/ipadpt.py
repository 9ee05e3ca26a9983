"""Files .ipadpt of other tools: two layouts of one name, read and written without torch.

diffusers saves a list with an entry per adapter, (2, N, …) with the negative half first, or
(1, N, …) without guidance; ComfyUI_IPAdapter_plus saves a bare (N, …), the negative in a file of
its own. Both hold features before the projector, and nothing that tells of which encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ipa.arrays import Floats
from ipa.errors import CheckpointError, RequestError, shown
from ipa.files import write_whole
from ipa.request.embeds import ImageEmbeds

LAYOUTS = ("diffusers", "comfyui")


def read_ipadpt(path: Path, shape: tuple[int, ...]) -> tuple[Floats, Floats | None]:
    """Read features of pictures, and the unconditional ones where the file has them.

    Args:
        path: A file of torch.save; it is never run.
        shape: Of one picture's features: (P,) or (T, C).

    Raises:
        CheckpointError: It is damaged, or its tensors have other shapes.
    """
    import ipa_convert

    tensors, single = ipa_convert.read_tensor_list(path)
    shapes = [tensor.shape for tensor in tensors]
    fitting = [tensor for tensor in tensors if tensor.shape[-len(shape) :] == shape]
    layout = "(N" if single else "a list with one (2, N"
    needed = f"{layout}, {', '.join(map(str, shape))})"
    axes = len(shape) + (1 if single else 2)
    if len(fitting) != 1 or fitting[0].ndim != axes or 0 in fitting[0].shape:
        raise CheckpointError(
            f"{path}: its embeds do not fit this adapter",
            found=f"{'a tensor' if single else 'a list'} of shape {', '.join(map(str, shapes))}"[
                :200
            ],
            remedy=f"{needed} is needed: use an adapter of the kind and the encoder that they are "
            "of",
        )
    found = fitting[0]
    if single:
        return found, None
    if len(found) > 2:
        raise CheckpointError(
            f"{path}: its embeds are of more than one picture that is made",
            found=f"shape {found.shape}",
            remedy="save them with num_images_per_prompt=1",
        )
    return found[-1], found[0] if len(found) == 2 else None


def write_ipadpt(
    embeds: ImageEmbeds | Sequence[ImageEmbeds],
    path: str | Path,
    *,
    layout: str = "diffusers",
    guided: bool = True,
) -> None:
    """Write embeds for another tool; what they came from is lost.

    Args:
        embeds: Of one adapter; or, for diffusers, of each that will be loaded, in order.
        path: The file, .ipadpt by custom.
        layout: "diffusers", or "comfyui", which keeps the conditional features alone: of negative
            pictures write a file of their own.
        guided: For diffusers: with the negative half, as a guidance scale above 1 needs it.

    Raises:
        RequestError: The layout is unknown, or cannot hold them, or the file cannot be written.
    """
    import ipa_convert

    several = [embeds] if isinstance(embeds, ImageEmbeds) else list(embeds)
    if layout not in LAYOUTS:
        raise RequestError(
            "no such layout of embeds", found=shown(layout), remedy=f"known: {', '.join(LAYOUTS)}"
        )
    if layout == "comfyui" and len(several) != 1:
        raise RequestError("ComfyUI's files hold one adapter's embeds", found=f"{len(several)}")
    contents: Floats | list[Floats] = [e.to_diffusers(guided=guided) for e in several]
    if layout == "comfyui":
        contents = several[0].conditional
    write_whole(Path(path), ipa_convert.write_tensor_list(contents))
