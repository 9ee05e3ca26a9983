"""The LoRAs that a pipeline has loaded: by name, in the order of loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipa.contract.backend import Backend
from ipa.contract.errors import RequestError
from ipa.contract.lora import LoadedLora, LoraSet
from ipa.contract.weights import plain_number
from ipa.registry import Registry


@dataclass(frozen=True, slots=True)
class AttachedLora:
    """A loaded LoRA as the pipeline keeps it: its file, its scale, and how it is applied."""

    path: Path
    loaded: LoadedLora
    scale: float
    fuse: bool

    @property
    def file(self) -> str:
        """The name of its file."""
        return self.path.name


class Loras(Registry[AttachedLora]):
    """By name, in the order of loading. Between calls the backend uses each at its own scale."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    def load(self, name: str, path: Path, scale: float, *, fuse: bool) -> None:
        """Load a file, all or nothing.

        Raises:
            CheckpointError: It is damaged, or made for another model.
            RequestError: The name is taken, the scale is no number, or it cannot be fused.
        """
        if name in self:
            raise RequestError(
                "a LoRA of this name is loaded",
                found=name,
                remedy="pass another name=, or unload_lora first",
            )
        number = plain_number(scale, "scale")
        loaded = self._backend.loras.load(name, path, fuse=fuse)
        try:
            self._use({**self._own_scales(), name: number})
        except BaseException:  # also when interrupted: nothing is half loaded
            self._backend.loras.unload(name)
            raise
        self._put(name, AttachedLora(path, loaded, number, fuse))

    def unload(self, name: str | None) -> None:
        """Forget one, or all of them."""
        names = self.named(name)
        kept = {other: lora for other, lora in self._known.items() if other not in names}
        self._use({other: lora.scale for other, lora in kept.items()})
        for gone in names:
            self._backend.loras.unload(gone)
        self._known = kept

    def set_scale(self, scale: float, name: str | None) -> None:
        """Set the scale of one, or of all of them."""
        number = plain_number(scale, "scale")
        for changed in self.named(name):
            self._put(changed, replace(self[changed], scale=number))
        self._use(self._own_scales())

    @contextmanager
    def used(self, loras: LoraSet, scales: Mapping[str, float]) -> Iterator[None]:
        """Have those of a moment (`Backend.frozen`) act for a while; then these again."""
        _use(loras, scales)
        try:
            yield
        finally:
            self._use(self._own_scales())

    def named(self, name: str | None) -> list[str]:
        """One LoRA, or all of them for None. Raises RequestError if there is no such."""
        if name is not None:
            _check_loaded(name, self)
        return list(self) if name is None else [name]

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            name: {
                "file": lora.file,
                "scale": lora.scale,
                "fused": lora.fuse,
                "layers": dict(lora.loaded.layers),
                "bytes": lora.loaded.nbytes,
                **({"bytes_of_originals": lora.loaded.originals_nbytes} if lora.fuse else {}),
            }
            for name, lora in self.items()
        }

    def _own_scales(self) -> dict[str, float]:
        return chosen_scales(self, None)

    def _use(self, scales: Mapping[str, float]) -> None:
        _use(self._backend.loras, scales)


def chosen_scales(
    loras: Mapping[str, AttachedLora], given: Mapping[str, float] | None
) -> dict[str, float]:
    """The scale of each LoRA in a call that gives some of them its own.

    Raises:
        RequestError: One of them is not loaded.
    """
    own = {} if given is None else given
    for name in own:
        _check_loaded(name, loras)
    return {name: own.get(name, lora.scale) for name, lora in loras.items()}


def describe_scales(
    loras: Mapping[str, AttachedLora], scales: Mapping[str, float]
) -> dict[str, Any]:
    """JSON-able: the LoRAs of one call, for its description."""
    return {
        name: {"file": loras[name].file, "scale": scale, "fused": loras[name].fuse}
        for name, scale in scales.items()
    }


def _check_loaded(name: str, loras: Mapping[str, AttachedLora]) -> None:
    if name not in loras:
        loaded = ", ".join(loras) or "none; load one with load_lora"
        raise RequestError("no such LoRA", found=name, remedy=f"loaded: {loaded}")


def _use(loras: LoraSet, scales: Mapping[str, float]) -> None:
    loras.use({name: scale for name, scale in scales.items() if scale != 0.0})
