"""A loaded model, and what is loaded beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack, overload

from ipa.backend.protocol import Backend
from ipa.checks import check_callback, checked
from ipa.errors import RequestError
from ipa.model.controlnet import ControlNetSpec
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.prepare.text.prompts import open_tokenizers
from ipa.request.scales import Scale
from ipa.sources.adapters import resolve_adapter

from .adapter_lists import LoadOptions, wanted_adapters
from .adapters import AdapterOptions, Adapters
from .controls import Controls
from .fingerprints import fingerprints
from .loras import Loras
from .snapshot import Snapshot
from .words import Inversions


class Loaded:
    """A model with its adapters, used by one thread at a time.

    An adapter is an argument of the network and never changes it: with λ = 0, or after unloading,
    the base model's output is the same, bit for bit.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._inversions = Inversions(backend.model, open_tokenizers(backend.model))
        self._adapters = Adapters(backend)
        self._controlnets = Controls(backend)
        self._loras = Loras(backend, self._inversions)
        self._lora_folder: Path | None = None
        self._lock, self._changing = threading.Lock(), threading.Lock()
        self._owner: int | None = None

    @overload
    def load_ip_adapter(
        self,
        source: str | Path,
        *,
        weight_name: str | None = None,
        subfolder: str = "",
        name: str | None = None,
        scale: Scale = 1.0,
        **options: Unpack[LoadOptions],
    ) -> str: ...

    @overload
    def load_ip_adapter(
        self,
        source: list[str | Path],
        *,
        weight_name: str | list[str] | None = None,
        subfolder: str | list[str] = "",
        name: list[str] | None = None,
        scale: Scale | list[Scale] = 1.0,
        **options: Unpack[LoadOptions],
    ) -> list[str]: ...

    @overload
    def load_ip_adapter(
        self,
        source: str | Path,
        *,
        weight_name: list[str],
        subfolder: str | list[str] = "",
        name: list[str] | None = None,
        scale: Scale | list[Scale] = 1.0,
        **options: Unpack[LoadOptions],
    ) -> list[str]: ...

    @checked
    def load_ip_adapter(
        self,
        source: str | Path | Sequence[str | Path],
        *,
        weight_name: str | Sequence[str] | None = None,
        subfolder: str | Sequence[str] = "",
        name: str | Sequence[str] | None = None,
        scale: Scale | Sequence[Scale] = 1.0,
        image_encoder_folder: str | Path | None = "image_encoder",
        revision: str | None = None,
        offline: bool = False,
        **options: Unpack[AdapterOptions],
    ) -> str | list[str]:
        """Load an IP-Adapter beside those already loaded; see `ipa.sources.models`.

        Several at once as in diffusers: where `source`, `subfolder`, `weight_name`, `name` or
        `scale` are lists, each has one entry for all adapters, or one for each. All or nothing.

        Args:
            source: A .safetensors or .bin file, a folder, a name on the hub (owner/name with
                `weight_name`, or owner/name/folder/file), or the short name of a public adapter
                (`ipa.sources.catalogue`).
            weight_name: File inside the folder or repository.
            subfolder: Folder of the file inside it.
            name: What image prompts call it; by default the short name, or the file's stem.
            scale: λ where an image prompt gives none.
            image_encoder_folder: Where its image encoder lies, a folder or a file such as ComfyUI's
                clip_vision/NAME.safetensors: beside the adapter, or else in the current folder.
                Where none is named, one that fits in ../clip_vision is taken if there is none
                beside the adapter nor in the model. None takes the model's own.
            revision: Branch, tag or commit on the hub.
            offline: Use the local cache only.
            **options: `ignore`: names of tensors in the file that may be left out, with * for any
                characters. For FaceID adapters `kind`: which it is, such as "faceid-plusv2", where
                its tensors do not tell; a short name does. `lora_scale`: the strength of the LoRA
                in its file, 1. `face_embedder`: finds faces in pictures; see `ipa.request.faces`.

        Returns:
            The adapter's name; of several a list.

        Raises:
            CheckpointError: The file is damaged, or made for another base model or encoder.
            RequestError: The name is taken, the scale does not fit the UNet, or it must be told
                which kind of adapter it is.
        """
        check_callback("face_embedder", options.get("face_embedder"))
        wanted = wanted_adapters(
            source=source, weight_name=weight_name, subfolder=subfolder, name=name, scale=scale
        )
        scales = [self._adapters.checked(one.scale) for one in wanted]
        found = [
            resolve_adapter(
                one.source,
                weight_name=one.weight_name,
                subfolder=one.subfolder,
                image_encoder_folder=image_encoder_folder,
                revision=revision,
                offline=offline,
            )
            for one in wanted
        ]
        names = [one.name or files.name for one, files in zip(wanted, found, strict=True)]
        with self._changed():
            self._adapters.load_all(names, found, scales, options)
        return names if isinstance(wanted, list) else names[0]

    @checked
    def set_ip_adapter_scale(
        self, scale: Scale | Sequence[Scale | Sequence[Scale]], name: str | None = None
    ) -> None:
        """Set the default λ of adapters, for image prompts that give none.

        Args:
            scale: See `ipa.request.scales.Scale`, for the adapter `name` or for all; or a list
                with one of them per loaded adapter. An entry that is a list in turn has one of
                them per picture of an image prompt, as in diffusers: [[0.7, 0.3]].
            name: The adapter; None is all of them.
        """
        with self._changing:  # not while a run is snapshotted; one under way is not disturbed
            self._adapters.set_scale(scale, name)

    @checked
    def unload_ip_adapter(self, name: str | None = None) -> None:
        """Unload one adapter, or all of them."""
        with self._changed():
            self._adapters.unload(name)

    def info(self) -> dict[str, Any]:
        """The loaded model and all beside it, JSON-able."""
        model, described = self._backend.model, self._backend.describe()
        return {
            "model": model.name,
            "vae": model.other_vae.name if model.other_vae else None,
            "sites": len(model.sites),
            "adapters": self._adapters.describe(),
            "controlnets": self._controlnets.describe(ControlNetSpec),
            "t2i_adapters": self._controlnets.describe(T2IAdapterSpec),
            "loras": self._loras.describe(),
            "textual_inversions": self._inversions.describe(),
            **described,
            "warnings": [*model.notes, *self._unread(), *described["warnings"]],
        }

    def _unread(self) -> Iterator[str]:
        """Warnings about config settings, of things beside the model, that are not known."""
        for control in self._controlnets.values():
            yield from control.spec.unread
        for adapter in self._adapters.values():
            yield from adapter.loaded.unread

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Hashes of all weights that are loaded, the same for a model and what was made of it.

        They are read from their files again; see `ipa.pipeline.fingerprints`.
        """
        return fingerprints(self._snapshot()[0])

    def _snapshot(self) -> tuple[Snapshot, Backend]:
        """A snapshot of what is loaded now, with its backend; later changes do not reach it."""
        with self._changing:
            loaded = Snapshot(
                model=self._backend.model,
                tokenizers=self._inversions.tokenizers,
                adapters=self._adapters.frozen(),
                controlnets=self._controlnets.frozen(),
                loras=self._loras.frozen(),
                lora_folder=self._lora_folder,
                inversions=self._inversions.copy(),
            )
            return loaded, self._backend.frozen()

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """A context that changes what is loaded: no run is under way or half planned."""
        with self._owned(), self._changing:
            yield

    @contextmanager
    def _owned(self) -> Iterator[None]:
        """A context that holds the backend for one run; other threads wait."""
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
