"""Reading the decoder of a tiny autoencoder."""

from __future__ import annotations

from ipa.contract.tiny_vae_spec import STEM, TinyVaeFiles

from ..containers.checkpoint import open_file, open_folder
from ..tables import tiny_vae
from ..tables.converted import Converted
from ..tables.plan import convert


def read_tiny_vae(files: TinyVaeFiles) -> Converted:
    """Its tensors under their MLX names, no value read.

    Raises:
        CheckpointError: The weights are damaged, or are not exactly those of its structure.
    """
    path = files.path
    checkpoint = open_folder(path, STEM) if path.is_dir() else open_file(path)
    return convert(checkpoint, tiny_vae.table(files.spec))
