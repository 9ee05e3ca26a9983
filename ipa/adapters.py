"""The adapters that a pipeline has loaded: by name, in the order of loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, cast

from ipa.contract.backend import Backend, LoadedAdapter
from ipa.contract.errors import RequestError
from ipa.contract.faces import FaceEmbedder
from ipa.contract.model import AdapterFiles
from ipa.contract.weights import Scale, plain_number, plain_scale
from ipa.prepare.profiles import Profile
from ipa.prepare.scales import site_scales


class FaceOptions(TypedDict, total=False):
    """The keywords of `load_ip_adapter` that matter to FaceID adapters."""

    kind: str | None
    lora_scale: float | None
    face_embedder: FaceEmbedder | None


@dataclass(frozen=True, slots=True)
class AttachedAdapter:
    """A loaded adapter as the pipeline keeps it: its files and its default scale.

    `lora_scale` is the strength of the LoRA that its file brings, None for the profile's;
    `face_embedder` finds faces in pictures: both for FaceID adapters.
    """

    files: AdapterFiles
    loaded: LoadedAdapter
    scale: Scale
    lora_scale: float | None = None
    face_embedder: FaceEmbedder | None = None

    @property
    def file(self) -> str:
        """The name of its file of weights."""
        return self.files.weights.name


class Adapters(Mapping[str, AttachedAdapter]):
    """What is loaded beside a model. Not thread-safe: the pipeline serialises what changes it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._known: dict[str, AttachedAdapter] = {}

    def __getitem__(self, name: str) -> AttachedAdapter:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def load(self, name: str, files: AdapterFiles, scale: Scale, face: FaceOptions) -> None:
        """Load the files of an adapter, all or nothing.

        Raises:
            CheckpointError: The file is damaged, or made for another base model or encoder.
            RequestError: The name is taken, or its kind must be told.
        """
        if name in self._known:
            raise RequestError(
                "an adapter of this name is loaded",
                found=name,
                remedy="pass another name=, or unload_ip_adapter first",
            )
        given = face.get("lora_scale")
        lora_scale = None if given is None else plain_number(given, "lora_scale")
        told = replace(files, kind=face.get("kind") or files.kind)
        loaded = self._backend.load_adapter(name, told)
        self._known[name] = AttachedAdapter(
            told, loaded, scale, lora_scale, face.get("face_embedder")
        )

    def unload(self, name: str | None) -> None:
        """Forget one adapter, or all of them."""
        for adapter in self.named(name):
            self._backend.unload_adapter(adapter)
            del self._known[adapter]

    def set_scale(self, scale: Scale | Sequence[Scale], name: str | None) -> None:
        """Set default scales; see `Pipeline.set_ip_adapter_scale`."""
        names = self.named(name)
        given = scale if isinstance(scale, (list, tuple)) else [scale] * len(names)
        scales = [cast("Scale", entry) for entry in given]
        if len(scales) != len(names) or not names:
            raise RequestError(
                "scale needs one entry per adapter",
                found=f"{len(scales)} entries for {len(names)} adapters",
                remedy="pass a number, or a list as long as the adapters loaded",
            )
        checked = [self.checked(entry) for entry in scales]
        for adapter, entry in zip(names, checked, strict=True):
            self._known[adapter] = replace(self._known[adapter], scale=entry)

    def checked(self, scale: Scale) -> Scale:
        """A default scale that fits the UNet, in plain numbers."""
        site_scales(scale, self._backend.model.sites)
        return plain_scale(scale, "scale")

    def named(self, name: str | None) -> list[str]:
        """One adapter, or all of them for None. Raises RequestError if there is no such."""
        if name is None:
            return list(self)
        if name not in self._known:
            loaded = ", ".join(self) or "none"
            raise RequestError("no such adapter", found=name, remedy=f"loaded: {loaded}")
        return [name]

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            name: {
                "file": attached.file,
                "projector": attached.loaded.spec.projector,
                "kind": attached.loaded.spec.kind,
                "tokens": _tokens(attached.loaded),
                "scale": attached.scale,
                "image_encoder": attached.loaded.encoder_name,
                "bytes": attached.loaded.nbytes,
                **({"lora_scale": attached.lora_scale} if attached.loaded.spec.lora_rank else {}),
            }
            for name, attached in self.items()
        }


def _tokens(loaded: LoadedAdapter) -> int:
    """Per picture or face; full-face makes one of each state."""
    return loaded.spec.tokens or (loaded.encoder.tokens if loaded.encoder else 0)


def lora_scale(attached: AttachedAdapter, profile: Profile) -> float:
    """The strength of the LoRA in an adapter's file: its own, or the profile's; 0 without one."""
    if not attached.loaded.spec.lora_rank:
        return 0.0
    return profile.face_lora_scale if attached.lora_scale is None else attached.lora_scale


def joins_faces(prompt: object, adapters: Mapping[str, AttachedAdapter]) -> bool:
    """Whether an image prompt's adapter takes several faces of one person at once, as Portrait."""
    name = getattr(prompt, "adapter", None)
    named = adapters.get(name) if isinstance(name, str) else None
    if named is None and len(adapters) == 1:
        named = next(iter(adapters.values()))
    return named is not None and named.loaded.spec.takes_several_faces


def adapter_name(name: str | None, adapters: Mapping[str, AttachedAdapter]) -> str:
    """A loaded adapter; None is the only one. Raises RequestError if there is no such."""
    if name is None and len(adapters) == 1:
        return next(iter(adapters))
    if name in adapters:
        return str(name)
    raise RequestError(
        "an image prompt must name a loaded adapter",
        found=f"{name!r}; loaded: {', '.join(adapters) or 'none'}",
        remedy="load one with load_ip_adapter, and pass ImagePrompt(..., adapter=name)",
    )
