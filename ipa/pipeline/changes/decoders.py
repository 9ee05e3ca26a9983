"""The decoder of previews beside a model: loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from ipa.checks import checked
from ipa.request.result import OnProgress
from ipa.request.watched import watching
from ipa.sources.hub import HubOptions
from ipa.sources.vae import resolve_preview_decoder
from ipa.watching import CancelSignal

from ..loaded import Loaded


@checked
def load_preview_decoder(
    loaded: Loaded,
    source: str | Path,
    *,
    on_progress: OnProgress | None = None,
    cancel: CancelSignal | None = None,
    **hub: Unpack[HubOptions],
) -> None:
    """Load a tiny autoencoder (TAESD), which makes the previews of preview="tiny".

    Args:
        source: A folder, a file, or a name on the hub; see `ipa.sources.vae`.
        on_progress, cancel: As for `ipa.load`.
        **hub: revision and offline.

    Raises:
        Cancelled: `cancel` says so; the decoder that there was stays.
        CheckpointError: It is damaged, of another kind, or for another model's latents.
    """
    with watching(on_progress, cancel):
        files = resolve_preview_decoder(source, loaded.backend.model, **hub)
        with loaded.changed():
            loaded.backend.load_preview_decoder(files)
