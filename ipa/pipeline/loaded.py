"""A loaded model, and what is loaded beside it: its adapters, controls, LoRAs and words."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, overload

from ipa.backend.protocol import Backend
from ipa.backend.vae_memory import VaeMemory, check_vae_memory
from ipa.checks import check_callback, checked
from ipa.errors import RequestError
from ipa.model.controlnet import ControlNetSpec
from ipa.model.ignoring import Ignore
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.prepare.text.prompts import open_tokenizers
from ipa.prepare.text.textual_inversion import Words, listed_sources
from ipa.request.scales import Scale
from ipa.sources.adapters import resolve_adapter
from ipa.sources.controls import (
    ControlNetOptions,
    T2IAdapterOptions,
    resolve_controlnet,
    resolve_t2i_adapter,
)
from ipa.sources.hub import FileOptions, HubOptions, hub_only
from ipa.sources.loras import resolve_inversion, resolve_lora
from ipa.sources.vae import resolve_preview_decoder

from .adapter_lists import LoadOptions, wanted_adapters
from .adapters import Adapters
from .call_loras import lora_folder
from .controls import Controls
from .fingerprints import fingerprints
from .loras import Loras
from .snapshot import Snapshot
from .words import Inversions


class Loaded:
    """A model with its adapters, controls, LoRAs and words, in one thread's hands at a time.

    An adapter is an argument of the network and never changes it: with λ = 0, or after unloading,
    the base model's output is the same, bit for bit. Each `load_` asks the hub where it is told to:
    what `revision` and `offline` mean there is in `ipa.sources.hub.HubOptions`.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.inversions = Inversions(backend.model, open_tokenizers(backend.model))
        self.adapters = Adapters(backend)
        self.controls = Controls(backend)
        self.loras = Loras(backend, self.inversions)
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
        **options: Unpack[LoadOptions],
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
            **options: revision and offline. `image_encoder_folder`: where its image encoder lies, a
                folder or a file such as ComfyUI's clip_vision/NAME.safetensors: beside the adapter,
                or else in the current folder; by default "image_encoder". Where none is named, one
                that fits in ../clip_vision is taken if there is none beside the adapter nor in the
                model. None takes the model's own. `ignore`: names of tensors in the file that may
                be left out, with * for any characters. For FaceID adapters `kind`: which it is,
                such as "faceid-plusv2", where its tensors do not tell; a short name does.
                `lora_scale`: the strength of the LoRA in its file, 1. `face_embedder`: finds faces
                in pictures; see `ipa.request.faces`.

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
        scales = [self.adapters.checked(one.scale) for one in wanted]
        found = [
            resolve_adapter(
                one.source,
                weight_name=one.weight_name,
                subfolder=one.subfolder,
                image_encoder_folder=options.get("image_encoder_folder", "image_encoder"),
                **hub_only(options),
            )
            for one in wanted
        ]
        names = [one.name or files.name for one, files in zip(wanted, found, strict=True)]
        with self.changed():
            self.adapters.load_all(names, found, scales, options)
        return names if isinstance(wanted, list) else names[0]

    @checked
    def set_ip_adapter_scale(
        self, scale: Scale | Sequence[Scale | Sequence[Scale]], name: str | None = None
    ) -> None:
        """Set λ where image prompts give none.

        Args:
            scale: See `ipa.request.scales.Scale`, for the adapter `name` or for all; or a list
                with one of them per loaded adapter. An entry that is a list in turn has one of
                them per picture of an image prompt, as in diffusers: [[0.7, 0.3]].
            name: The adapter; None is all of them.
        """
        with self._changing:  # not while a run is snapshotted; one under way is not disturbed
            self.adapters.set_scale(scale, name)

    @checked
    def unload_ip_adapter(self, name: str | None = None) -> None:
        """Forget one adapter, or all of them."""
        with self.changed():
            self.adapters.unload(name)

    @checked
    def load_controlnet(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        ignore: Sequence[str] | None = None,
        **options: Unpack[ControlNetOptions],
    ) -> str:
        """Load a ControlNet beside those already loaded; see `ipa.sources.controls`.

        Args:
            source: A folder with config.json, a file, or a name on the hub (owner/name, or
                owner/name/folder/file).
            name: What controls call it; by default the repository's, the folder's or the file's.
            ignore: Names of tensors that it does not know and that may be left out, with * for any
                characters.
            **options: revision and offline; `variant`: "fp16" and the like, in the names of a
                folder's files; `config`: for a file that is of no public size, its config.json;
                `global_pool_conditions`: for a file that lies alone, True for shuffle.

        Returns:
            The ControlNet's name.

        Raises:
            CheckpointError: It is damaged, no ControlNet, or made for another base model.
            RequestError: The name is taken.
        """
        files = resolve_controlnet(source, **options)
        files = replace(files, ignore=Ignore.of(ignore))
        chosen = name or files.name
        with self.changed():
            self.controls.load(chosen, files)
        return chosen

    @checked
    def unload_controlnet(self, name: str | None = None) -> None:
        """Forget one ControlNet, or all of them."""
        with self.changed():
            self.controls.unload(name)

    @checked
    def load_t2i_adapter(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        **options: Unpack[T2IAdapterOptions],
    ) -> str:
        """Load a T2I-Adapter beside what is loaded; see `ipa.sources.controls`.

        It sees its control picture alone, once per generation.

        Args:
            source: A folder with config.json, a file, or a name on the hub (owner/name, or
                owner/name/folder/file).
            name: What controls call it; by default the repository's, the folder's or the file's.
            **options: revision and offline; `weight_name`: a file that lies alone inside the folder
                or repository; `subfolder`: folder of the file, or of config.json, inside it;
                `variant`: "fp16" and the like, in the names of a folder's files; `config`: for a
                file that is of no public structure, its config.json.

        Returns:
            The T2I-Adapter's name.

        Raises:
            CheckpointError: It is damaged, no T2I-Adapter, or made for another base model.
            RequestError: The name is taken, also by a ControlNet.
        """
        files = resolve_t2i_adapter(source, **options)
        chosen = name or files.name
        with self.changed():
            self.controls.load(chosen, files)
        return chosen

    @checked
    def unload_t2i_adapter(self, name: str | None = None) -> None:
        """Forget one T2I-Adapter, or all of them."""
        with self.changed():
            self.controls.unload(name, T2IAdapterSpec)

    @checked
    def load_textual_inversion(
        self,
        source: str | Path | Sequence[str | Path],
        token: Words = None,
        **options: Unpack[FileOptions],
    ) -> str | list[str]:
        """Load a word that was learned; see `prepare.text.textual_inversion`. The model stays.

        Args:
            source: A file, a folder or a name on the hub, as for `load_ip_adapter`; without
                `weight_name` a folder's learned_embeds.safetensors or .bin. Or a list of them.
            token: The word that stands for it in texts; None takes what the file says, or else its
                name. A list has a word for each of several sources; of one source, for each of its
                embeddings.
            **options: revision and offline; `weight_name`: file inside the folder or repository;
                `subfolder`: folder of the file inside it.

        Returns:
            The word, or a list of them where lists were given.

        Raises:
            CheckpointError: A file is damaged, or its embeddings do not fit the text encoders.
            RequestError: A word is one already, or there are not as many as are needed.
        """
        paths = [resolve_inversion(one, **options) for one in listed_sources(source)]
        with self.changed():
            words = self.inversions.load(paths, token)
        alone = isinstance(source, (str, Path)) and not isinstance(token, (list, tuple))
        return words[0] if alone else list(words)

    @checked
    def unload_textual_inversion(self, token: str | Sequence[str] | None = None) -> None:
        """Forget one learned word, some, or all of them."""
        with self.changed():
            self.inversions.unload(token)

    @checked
    def load_preview_decoder(self, source: str | Path, **hub: Unpack[HubOptions]) -> None:
        """Load a tiny autoencoder (TAESD), which makes the previews of preview="tiny".

        Args:
            source: A folder, a file, or a name on the hub; see `ipa.sources.vae`.
            **hub: revision and offline.

        Raises:
            CheckpointError: It is damaged, of another kind, or for another model's latents.
        """
        files = resolve_preview_decoder(source, self.backend.model, **hub)
        with self.changed():
            self.backend.load_preview_decoder(files)

    @property
    def vae_memory(self) -> VaeMemory:
        """See `Pipeline.vae_memory`."""
        return self.backend.vae_memory

    @vae_memory.setter
    def vae_memory(self, memory: VaeMemory) -> None:
        checked = check_vae_memory(memory, self.backend.model.vae)
        with self.changed():
            self.backend.vae_memory = checked

    @checked
    def load_lora(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        scale: float = 1.0,
        fuse: bool = False,
        **options: Unpack[FileOptions],
    ) -> str:
        """Load a LoRA beside those already loaded; it acts in the UNet and the text encoders.

        The base model's weights are never written to: after unloading, or at scale 0, its output is
        the same, bit for bit. Words that were learned with it and lie in its file are known as
        long as it is loaded, at any scale; what of the file is not used is in `info()` and in the
        warnings of results.

        Args:
            source: A file, a folder, or a name on the hub; see `ipa.sources.loras`.
            name: What it is called here; by default the file's stem.
            scale: How strongly it acts; below 0 it acts against what it was trained for.
            fuse: Add it to copies of the weights, once, and not to every layer's output: no cost
                per step, for the memory of the layers that it changes. The originals are kept.
            **options: revision and offline; `weight_name`: file inside the folder or repository;
                `subfolder`: folder of the file inside it.

        Returns:
            The LoRA's name.

        Raises:
            CheckpointError: The file is damaged, holds what has no place in this model, or is made
                for another base model.
            RequestError: The name is taken, the scale is no number, or it cannot be fused.
        """
        path = resolve_lora(source, **options)
        chosen = name or path.stem
        with self.changed():
            self.loras.load(chosen, path, scale, fuse=fuse)
        return chosen

    @property
    def lora_folder(self) -> Path | None:
        """See `Pipeline.lora_folder`."""
        return self._lora_folder

    @lora_folder.setter
    def lora_folder(self, folder: str | Path | None) -> None:
        chosen = lora_folder(folder)
        with self._changing:
            self._lora_folder = chosen

    @checked
    def set_lora_scale(self, scale: float, name: str | None = None) -> None:
        """Set how strongly one LoRA acts, or each of them; a call's `loras` may say otherwise."""
        with self.changed():
            self.loras.set_scale(scale, name)

    @checked
    def unload_lora(self, name: str | None = None) -> None:
        """Forget one LoRA, or all of them."""
        with self.changed():
            self.loras.unload(name)

    def info(self) -> dict[str, Any]:
        """What is loaded, JSON-able."""
        model, described = self.backend.model, self.backend.describe()
        return {
            "model": model.name,
            "vae": model.other_vae.name if model.other_vae else None,
            "sites": len(model.sites),
            "adapters": self.adapters.describe(),
            "controlnets": self.controls.describe(ControlNetSpec),
            "t2i_adapters": self.controls.describe(T2IAdapterSpec),
            "loras": self.loras.describe(),
            "textual_inversions": self.inversions.describe(),
            **described,
            "warnings": [*model.notes, *self._unread(), *described["warnings"]],
        }

    def _unread(self) -> Iterator[str]:
        """What the configs of things beside the model say and nobody knows."""
        for control in self.controls.values():
            yield from control.spec.unread
        for adapter in self.adapters.values():
            yield from adapter.loaded.unread

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Hashes of all weights that are loaded, the same for a model and what was made of it.

        They are read from their files again; see `ipa.pipeline.fingerprints`.
        """
        return fingerprints(self.snapshot()[0])

    def snapshot(self) -> tuple[Snapshot, Backend]:
        """What is loaded now, and the backend that has it, whatever is changed from now on."""
        with self._changing:
            loaded = Snapshot(
                model=self.backend.model,
                tokenizers=self.inversions.tokenizers,
                adapters=self.adapters.frozen(),
                controlnets=self.controls.frozen(),
                loras=self.loras.frozen(),
                lora_folder=self._lora_folder,
                inversions=self.inversions.copy(),
            )
            return loaded, self.backend.frozen()

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Change what is loaded: no run is under way, and none is planned from half of it."""
        with self.owned(), self._changing:
            yield

    @contextmanager
    def owned(self) -> Iterator[None]:
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
