"""Learned words beside a model: loaded, forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from ipa.checks import checked
from ipa.prepare.text.textual_inversion import Words, listed_sources
from ipa.request.result import OnProgress
from ipa.request.watched import watching
from ipa.sources.hub import FileOptions
from ipa.sources.loras import resolve_inversion
from ipa.watching import CancelSignal

from ..loaded import Loaded


@checked
def load_textual_inversion(
    loaded: Loaded,
    source: str | Path | Sequence[str | Path],
    token: Words = None,
    *,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **options: Unpack[FileOptions],
) -> str | list[str]:
    """Load a word that was learned; see `prepare.text.textual_inversion`. The model stays.

    Args:
        source: A file, a folder or a name on the hub, as for `load_ip_adapter`; without
            `weight_name` a folder's learned_embeds.safetensors or .bin. Or a list of them.
        token: The word that stands for it in texts; None takes what the file says, or else its
            name. A list has a word for each of several sources; of one source, for each of its
            embeddings.
        on_progress, cancel: As for `ipa.load`.
        **options: revision and offline; `weight_name`: file inside the folder or repository;
            `subfolder`: folder of the file inside it.

    Returns:
        The word, or a list of them where lists were given.

    Raises:
        Cancelled: `cancel` says so; none of the words is known.
        CheckpointError: A file is damaged, or its embeddings do not fit the text encoders.
        RequestError: A word is one already, or there are not as many as are needed.
    """
    with watching(on_progress, cancel):
        paths = [resolve_inversion(one, **options) for one in listed_sources(source)]
        with loaded.changed():
            words = loaded.inversions.load(paths, token)
    alone = isinstance(source, (str, Path)) and not isinstance(token, (list, tuple))
    return words[0] if alone else list(words)


@checked
def unload_textual_inversion(loaded: Loaded, token: str | Sequence[str] | None = None) -> None:
    """Forget one learned word, some, or all of them."""
    with loaded.changed():
        loaded.inversions.unload(token)
