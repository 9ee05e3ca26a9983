"""The decoder of previews beside a model: loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from ipa.checks import checked
from ipa.sources.hub import HubOptions
from ipa.sources.vae import resolve_preview_decoder

from ..loaded import Loaded


@checked
def load_preview_decoder(loaded: Loaded, source: str | Path, **hub: Unpack[HubOptions]) -> None:
    """Load a tiny autoencoder (TAESD), which makes the previews of preview="tiny".

    Args:
        source: A folder, a file, or a name on the hub; see `ipa.sources.vae`.
        **hub: revision and offline.

    Raises:
        CheckpointError: It is damaged, of another kind, or for another model's latents.
    """
    files = resolve_preview_decoder(source, loaded.backend.model, **hub)
    with loaded.changed():
        loaded.backend.load_preview_decoder(files)
