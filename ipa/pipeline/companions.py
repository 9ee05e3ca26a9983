"""What is loaded beside a model and its image adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ipa.backend.tiling import VaeTiling, check_tiling
from ipa.checks import checked
from ipa.model.ignoring import Ignore
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.prepare.text.textual_inversion import Words, listed_sources
from ipa.sources.controls import resolve_controlnet, resolve_t2i_adapter
from ipa.sources.loras import resolve_inversion, resolve_lora
from ipa.sources.vae import resolve_preview_decoder

from .call_loras import lora_folder
from .loaded import Loaded


class Companions(Loaded):
    """A model with ControlNets, T2I-Adapters, LoRAs, learned words and a preview decoder."""

    @checked
    def load_controlnet(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        offline: bool = False,
        config: str | Path | None = None,
        global_pool_conditions: bool | None = None,
        ignore: Sequence[str] | None = None,
    ) -> str:
        """Load a ControlNet beside those already loaded; see `ipa.sources.controls`.

        Args:
            source: A folder with config.json, a file, or a name on the hub (owner/name, or
                owner/name/folder/file).
            name: What controls call it; by default the repository's, the folder's or the file's.
            revision: Branch, tag or commit on the hub.
            variant: "fp16" and the like, in the names of a folder's files.
            offline: Use the local cache only.
            config: For a file that is of no public size: its config.json.
            global_pool_conditions: For a file that lies alone: True for shuffle.
            ignore: Names of tensors that it does not know and that may be left out, with * for any
                characters.

        Returns:
            The ControlNet's name.

        Raises:
            CheckpointError: It is damaged, no ControlNet, or made for another base model.
            RequestError: The name is taken.
        """
        files = resolve_controlnet(
            source,
            revision=revision,
            variant=variant,
            offline=offline,
            config=config,
            global_pool_conditions=global_pool_conditions,
        )
        files = replace(files, ignore=Ignore.of(ignore))
        chosen = name or files.name
        with self._changed():
            self._controlnets.load(chosen, files)
        return chosen

    @checked
    def unload_controlnet(self, name: str | None = None) -> None:
        """Unload one ControlNet, or all of them."""
        with self._changed():
            self._controlnets.unload(name)

    @checked
    def load_t2i_adapter(
        self,
        source: str | Path,
        *,
        weight_name: str | None = None,
        subfolder: str = "",
        name: str | None = None,
        revision: str | None = None,
        variant: str | None = None,
        offline: bool = False,
        config: str | Path | None = None,
    ) -> str:
        """Load a T2I-Adapter beside what is loaded; see `ipa.sources.controls`.

        It sees its control picture alone, once per generation.

        Args:
            source: A folder with config.json, a file, or a name on the hub (owner/name, or
                owner/name/folder/file).
            weight_name: A file that lies alone inside the folder or repository.
            subfolder: Folder of the file, or of config.json, inside it.
            name: What controls call it; by default the repository's, the folder's or the file's.
            revision: Branch, tag or commit on the hub.
            variant: "fp16" and the like, in the names of a folder's files.
            offline: Use the local cache only.
            config: For a file that is of no public structure: its config.json.

        Returns:
            The T2I-Adapter's name.

        Raises:
            CheckpointError: It is damaged, no T2I-Adapter, or made for another base model.
            RequestError: The name is taken, also by a ControlNet.
        """
        files = resolve_t2i_adapter(
            source,
            weight_name=weight_name,
            subfolder=subfolder,
            revision=revision,
            variant=variant,
            offline=offline,
            config=config,
        )
        chosen = name or files.name
        with self._changed():
            self._controlnets.load(chosen, files)
        return chosen

    @checked
    def unload_t2i_adapter(self, name: str | None = None) -> None:
        """Unload one T2I-Adapter, or all of them."""
        with self._changed():
            self._controlnets.unload(name, T2IAdapterSpec)

    @checked
    def load_textual_inversion(
        self,
        source: str | Path | Sequence[str | Path],
        token: Words = None,
        *,
        weight_name: str | None = None,
        subfolder: str = "",
        revision: str | None = None,
        offline: bool = False,
    ) -> str | list[str]:
        """Load a learned word; see `prepare.text.textual_inversion`. The model stays.

        Args:
            source: A file, a folder or a name on the hub, as for `load_ip_adapter`; without
                `weight_name` a folder's learned_embeds.safetensors or .bin. Or a list of them.
            token: The word that stands for it in texts; None takes what the file says, or else its
                name. A list has a word for each of several sources; of one source, for each of its
                embeddings.
            weight_name: File inside the folder or repository.
            subfolder: Folder of the file inside it.
            revision: Branch, tag or commit on the hub.
            offline: Use the local cache only.

        Returns:
            The word, or a list of them where lists were given.

        Raises:
            CheckpointError: A file is damaged, or its embeddings do not fit the text encoders.
            RequestError: A word is one already, or there are not as many as are needed.
        """
        sources = listed_sources(source)
        paths = [
            resolve_inversion(
                one,
                weight_name=weight_name,
                subfolder=subfolder,
                revision=revision,
                offline=offline,
            )
            for one in sources
        ]
        with self._changed():
            words = self._inversions.load(paths, token)
        alone = isinstance(source, (str, Path)) and not isinstance(token, (list, tuple))
        return words[0] if alone else list(words)

    @checked
    def unload_textual_inversion(self, token: str | Sequence[str] | None = None) -> None:
        """Unload one learned word, some, or all of them."""
        with self._changed():
            self._inversions.unload(token)

    @checked
    def load_preview_decoder(
        self, source: str | Path, *, revision: str | None = None, offline: bool = False
    ) -> None:
        """Load a tiny autoencoder (TAESD), which makes the previews of preview="tiny".

        Args:
            source: A folder, a file, or a name on the hub; see `ipa.sources.vae`.
            revision: Branch, tag or commit on the hub.
            offline: Use the local cache only.

        Raises:
            CheckpointError: It is damaged, of another kind, or for another model's latents.
        """
        model = self._backend.model
        files = resolve_preview_decoder(source, model, revision=revision, offline=offline)
        with self._changed():
            self._backend.load_preview_decoder(files)

    @property
    def vae_tiling(self) -> VaeTiling:
        """The setting of which pictures the VAE takes in tiles, to save memory.

        None: very large ones. True: those larger than what it was trained on. False: none. A number
        of pixels: those larger than tiles of that side. See `ipa.backend.tiling`.
        """
        return self._backend.vae_tiling

    @vae_tiling.setter
    def vae_tiling(self, tiling: VaeTiling) -> None:
        checked = check_tiling(tiling, self._backend.model.vae)
        with self._changed():
            self._backend.vae_tiling = checked

    @checked
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
        the same, bit for bit. Words that were learned with it and lie in its file are known as
        long as it is loaded, at any scale; what of the file is not used is in `info()` and in the
        warnings of results.

        Args:
            source: A file, a folder, or a name on the hub; see `ipa.sources.loras`.
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
        with self._changed():
            self._loras.load(chosen, path, scale, fuse=fuse)
        return chosen

    @property
    def lora_folder(self) -> Path | None:
        """Where LoRAs that prompts name in A1111's way (`<lora:name:0.8>`) are looked for, besides
        those that are loaded; the pipeline's to set. They are loaded for the call alone.
        """
        return self._lora_folder

    @lora_folder.setter
    def lora_folder(self, folder: str | Path | None) -> None:
        chosen = lora_folder(folder)
        with self._changing:
            self._lora_folder = chosen

    @checked
    def set_lora_scale(self, scale: float, name: str | None = None) -> None:
        """Set how strongly one LoRA acts, or each of them; a call's `loras` may say otherwise."""
        with self._changed():
            self._loras.set_scale(scale, name)

    @checked
    def unload_lora(self, name: str | None = None) -> None:
        """Unload one LoRA, or all of them."""
        with self._changed():
            self._loras.unload(name)
