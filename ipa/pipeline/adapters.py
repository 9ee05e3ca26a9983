"""The adapters that a pipeline has loaded: by name, in the order of loading."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, TypedDict

from ipa.backend.protocol import Backend, LoadedAdapter
from ipa.checks import plain_number
from ipa.errors import RequestError
from ipa.model.folder import AdapterFiles
from ipa.model.ignoring import Ignore
from ipa.prepare.image_prompts.attached import AttachedAdapter, DefaultScale
from ipa.prepare.scaling.scales import site_scales
from ipa.request.faces import FaceEmbedder
from ipa.request.scales import Scale, plain_scale

from .registry import Registry

_LOG = logging.getLogger("ipa.pipeline")


class AdapterOptions(TypedDict, total=False):
    """The keywords of `load_ip_adapter` that few files need: those of FaceID; what to ignore."""

    kind: str | None
    lora_scale: float | None
    ignore: Sequence[str] | None
    face_embedder: FaceEmbedder | None


class Adapters(Registry[AttachedAdapter]):
    """The loaded adapters by name, in the order of loading."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    def load(
        self, name: str, files: AdapterFiles, scale: DefaultScale, options: AdapterOptions
    ) -> None:
        """Load the files of an adapter, all or nothing.

        Raises:
            CheckpointError: The file is damaged, or made for another base model or encoder.
            RequestError: The name is taken, or its kind must be told.
        """
        if name in self:
            raise RequestError(
                "an adapter of this name is loaded",
                found=name,
                remedy="pass another name=, or unload_ip_adapter first",
            )
        given = options.get("lora_scale")
        lora_scale = None if given is None else plain_number(given, "lora_scale")
        ignore = Ignore.of(options.get("ignore"))
        asked = replace(files, kind=options.get("kind") or files.kind, ignore=ignore)
        loaded = self._backend.load_adapter(name, asked)
        _LOG.info(
            "loaded the adapter %s from %s: %.1f MB", name, files.weights, loaded.nbytes / 1e6
        )
        embedder = options.get("face_embedder")
        self._put(name, AttachedAdapter(asked, loaded, scale, lora_scale, embedder))

    def load_all(
        self,
        names: Sequence[str],
        found: Sequence[AdapterFiles],
        scales: Sequence[DefaultScale],
        options: AdapterOptions,
    ) -> None:
        """Load several, all or none of them."""
        if len(set(names)) < len(names):
            raise RequestError(
                "several adapters would have the same name",
                found=", ".join(names),
                remedy="pass name=[…], one for each",
            )
        done: list[str] = []
        try:
            for name, files, scale in zip(names, found, scales, strict=True):
                self.load(name, files, scale, options)
                done.append(name)
        except BaseException:  # also when interrupted: nothing is half loaded
            for name in done:
                self.unload(name)
            raise

    def unload(self, name: str | None) -> None:
        """Forget one adapter, or all of them."""
        for adapter in self.named(name):
            self._backend.unload_adapter(adapter)
            self._remove(adapter)

    def set_scale(self, scale: Any, name: str | None) -> None:
        """Set default scales; see `Pipeline.set_ip_adapter_scale`."""
        names = self.named(name)
        scales = scale if isinstance(scale, (list, tuple)) else [scale] * len(names)
        if len(scales) != len(names) or not names:
            raise RequestError(
                "scale needs one entry per adapter",
                found=f"{len(scales)} entries for {len(names)} adapters",
                remedy="pass a number, or a list as long as the adapters loaded",
            )
        checked = [self.checked(entry) for entry in scales]
        for adapter, entry in zip(names, checked, strict=True):
            self._put(adapter, replace(self[adapter], scale=entry))

    def checked(self, scale: Any) -> DefaultScale:
        """A default scale, checked against the UNet, in plain numbers."""
        if isinstance(scale, (list, tuple)):
            if not scale:
                raise RequestError("scale needs an entry per picture", found="an empty list")
            return tuple(self._one(entry, f"scale[{n}]") for n, entry in enumerate(scale))
        return self._one(scale, "scale")

    def _one(self, scale: Any, name: str) -> Scale:
        plain = plain_scale(scale, name)
        site_scales(plain, self._backend.model.sites)
        return plain

    def named(self, name: str | None) -> list[str]:
        """The adapter of a name, or all of them for None; see `named`."""
        return named(name, self)

    def describe(self) -> dict[str, Any]:
        """The adapters for `Pipeline.info`, JSON-able."""
        return {
            name: {
                "file": attached.file,
                "projector": attached.loaded.spec.projector,
                "kind": attached.loaded.spec.kind,
                "tokens": _tokens(attached.loaded),
                "scale": deepcopy(attached.scale),
                "image_encoder": attached.loaded.encoder_name,
                "bytes": attached.loaded.nbytes,
                **({"lora_scale": attached.lora_scale} if attached.loaded.spec.lora_rank else {}),
                **attached.loaded.left_out.record(),
            }
            for name, attached in self.items()
        }


def _tokens(loaded: LoadedAdapter) -> int:
    """The tokens per picture or face; full-face makes one of each state."""
    return loaded.spec.tokens or (loaded.encoder.tokens if loaded.encoder else 0)


def named(name: str | None, adapters: Mapping[str, AttachedAdapter]) -> list[str]:
    """The adapter of a name, or all for None. Raises RequestError if there is none."""
    if name is None:
        return list(adapters)
    if name not in adapters:
        loaded = ", ".join(adapters) or "none"
        raise RequestError("no such adapter", found=name, remedy=f"loaded: {loaded}")
    return [name]


def joins_faces(prompt: object, adapters: Mapping[str, AttachedAdapter]) -> bool:
    """Whether an image prompt's adapter takes several faces of a person at once, as Portrait."""
    name = getattr(prompt, "adapter", None)
    named = adapters.get(name) if isinstance(name, str) else None
    if named is None and len(adapters) == 1:
        named = next(iter(adapters.values()))
    return named is not None and named.loaded.spec.takes_several_faces
