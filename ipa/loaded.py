"""A loaded model, and what is loaded beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from ipa.adapters import Adapters, FaceOptions
from ipa.contract.backend import Backend
from ipa.contract.errors import RequestError
from ipa.contract.weights import Scale
from ipa.loras import Loras
from ipa.prepare.lora_source import resolve_lora
from ipa.prepare.sources import resolve_adapter
from ipa.prepare.texts import open_tokenizers


class Loaded:
    """A model with its adapters, in the hands of one thread at a time.

    An adapter is an argument of the network and never changes it: with λ = 0, or after unloading,
    the base model's output is the same, bit for bit.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._tokenizers = open_tokenizers(backend.model)
        self._adapters = Adapters(backend)
        self._loras = Loras(backend)
        self._lock = threading.Lock()
        self._owner: int | None = None

    def load_ip_adapter(
        self,
        source: str | Path,
        *,
        weight_name: str | None = None,
        subfolder: str = "",
        name: str | None = None,
        scale: Scale = 1.0,
        image_encoder_folder: str | None = "image_encoder",
        revision: str | None = None,
        offline: bool = False,
        **face: Unpack[FaceOptions],
    ) -> str:
        """Load an IP-Adapter beside those already loaded; see `ipa.prepare.sources`.

        Args:
            source: A .safetensors or .bin file, a folder, a name on the hub (owner/name with
                `weight_name`, or owner/name/folder/file), or the short name of a public adapter
                (`ipa.prepare.catalogue`).
            weight_name: File inside the folder or repository.
            subfolder: Folder of the file inside it.
            name: What image prompts call it; by default the short name, or the file's stem.
            scale: λ where an image prompt gives none.
            image_encoder_folder: Where its image encoder lies; None takes the model's own.
            revision: Branch, tag or commit on the hub.
            offline: Use the local cache only.
            **face: For FaceID adapters. `kind`: which it is, such as "faceid-plusv2", where its
                tensors do not tell; a short name does. `lora_scale`: the strength of the LoRA in
                its file, 1. `face_embedder`: finds faces in pictures; see `ipa.contract.faces`.

        Returns:
            The adapter's name.

        Raises:
            CheckpointError: The file is damaged, or made for another base model or encoder.
            RequestError: The name is taken, the scale does not fit the UNet, or it must be told
                which kind of adapter it is.
        """
        default = self._adapters.checked(scale)
        files = resolve_adapter(
            source,
            weight_name=weight_name,
            subfolder=subfolder,
            image_encoder_folder=image_encoder_folder,
            revision=revision,
            offline=offline,
        )
        chosen = name or files.name
        with self._owned():
            self._adapters.load(chosen, files, default, face)
        return chosen

    def set_ip_adapter_scale(self, scale: Scale | Sequence[Scale], name: str | None = None) -> None:
        """Set λ where image prompts give none.

        Args:
            scale: See `ipa.contract.weights.Scale`, for the adapter `name` or for all; or a list
                with one of them per loaded adapter.
            name: The adapter; None is all of them.
        """
        self._adapters.set_scale(scale, name)

    def unload_ip_adapter(self, name: str | None = None) -> None:
        """Forget one adapter, or all of them."""
        with self._owned():
            self._adapters.unload(name)

    def load_lora(
        self,
        source: str | Path,
        *,
        weight_name: str | None = None,
        subfolder: str = "",
        name: str | None = None,
        scale: float = 1.0,
        fuse: bool = False,
        revision: str | None = None,
        offline: bool = False,
    ) -> str:
        """Load a LoRA beside those already loaded; it acts in the UNet and the text encoders.

        The base model's weights are never written to: after unloading, or at scale 0, its output is
        the same, bit for bit.

        Args:
            source: A file, a folder, or a name on the hub; see `ipa.prepare.lora_source`.
            weight_name: File inside the folder or repository.
            subfolder: Folder of the file inside it.
            name: What it is called here; by default the file's stem.
            scale: How strongly it acts; below 0 it acts against what it was trained for.
            fuse: Add it to copies of the weights, once, and not to every layer's output: no cost
                per step, for the memory of the layers that it changes. The originals are kept.
            revision: Branch, tag or commit on the hub.
            offline: Use the local cache only.

        Returns:
            The LoRA's name.

        Raises:
            CheckpointError: The file is damaged, holds what has no place in this model, or is made
                for another base model.
            RequestError: The name is taken, the scale is no number, or it cannot be fused.
        """
        path = resolve_lora(
            source,
            weight_name=weight_name,
            subfolder=subfolder,
            revision=revision,
            offline=offline,
        )
        chosen = name or path.stem
        with self._owned():
            self._loras.load(chosen, path, scale, fuse=fuse)
        return chosen

    def set_lora_scale(self, scale: float, name: str | None = None) -> None:
        """Set how strongly one LoRA acts, or each of them; a call's `loras` may say otherwise."""
        with self._owned():
            self._loras.set_scale(scale, name)

    def unload_lora(self, name: str | None = None) -> None:
        """Forget one LoRA, or all of them."""
        with self._owned():
            self._loras.unload(name)

    def info(self) -> dict[str, Any]:
        """What is loaded, JSON-able."""
        model = self._backend.model
        return {
            "model": model.name,
            "sites": len(model.sites),
            "adapters": self._adapters.describe(),
            "loras": self._loras.describe(),
            **self._backend.describe(),
        }

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """Hold the backend for one run; other threads wait."""
        if self._owner == threading.get_ident():
            raise RequestError(
                "this pipeline is in the middle of a stream in this very thread",
                remedy="take the stream to its end, or close() it, before the next call",
            )
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = None
