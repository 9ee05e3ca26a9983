"""The LoRAs that a pipeline has loaded: by name, in the order of loading."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipa.backend.protocol import Backend, LoadedLora, LoraScale, LoraSet
from ipa.checks import plain_number
from ipa.errors import RequestError
from ipa.model.ignoring import NOTHING, Ignore
from ipa.model.lora import left_out_warnings
from ipa.prepare.text.textual_inversion import bundled_words

from .registry import Registry
from .words import Inversions

_LOG = logging.getLogger("ipa.pipeline")


@dataclass(frozen=True, slots=True)
class AttachedLora:
    """A loaded LoRA as the pipeline keeps it: its file, its scale, and how it is applied.

    `words` are those that were learned with it, and lie in its file.
    """

    path: Path
    loaded: LoadedLora
    scale: float
    fuse: bool
    words: tuple[str, ...] = ()
    ignore: Ignore = NOTHING

    @property
    def file(self) -> str:
        """The name of the LoRA's file."""
        return self.path.name

    @property
    def warnings(self) -> list[str]:
        """Warnings about unused parts of its file."""
        return left_out_warnings(self.file, self.loaded.left_out)


class Loras(Registry[AttachedLora]):
    """The loaded LoRAs by name, in order. Between calls each is used at its own scale."""

    def __init__(self, backend: Backend, inversions: Inversions) -> None:
        super().__init__()
        self._backend, self._inversions = backend, inversions

    def load(
        self, name: str, path: Path, scale: float, *, fuse: bool, ignore: Ignore = NOTHING
    ) -> None:
        """Load a LoRA's file, all or nothing.

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
        words, left_out = bundled_words(path, name, self._backend.model, ignore)
        loaded = self._backend.loras.load(name, path, fuse=fuse, ignore=ignore)
        _LOG.info("loaded the LoRA %s from %s: %.1f MB", name, path, loaded.nbytes / 1e6)
        try:
            self._use(chosen_scales(self, None) | {name: LoraScale.of(number)})
            left_out |= self._inversions.add_bundled(words)
        except BaseException:  # also when interrupted: nothing is half loaded
            self.restore()
            self._backend.loras.unload(name)
            raise
        learned = self._inversions.bundled(name)
        loaded = replace(loaded, left_out={**loaded.left_out, **left_out})
        self._put(name, AttachedLora(path, loaded, number, fuse, learned, ignore))

    def unload(self, name: str | None) -> None:
        """Unload one LoRA, or all of them."""
        names = self.named(name)
        others = {other: lora for other, lora in self._known.items() if other not in names}
        self._use(chosen_scales(others, None))
        self._inversions.forget_bundled(names)
        for gone in names:
            self._backend.loras.unload(gone)
        self._known = others

    def set_scale(self, scale: float, name: str | None) -> None:
        """Set the scale of one LoRA, or of all of them."""
        number = plain_number(scale, "scale")
        for changed in self.named(name):
            self._put(changed, replace(self[changed], scale=number))
        self.restore()

    def restore(self) -> None:
        """Have each LoRA act at its own scale, and no others."""
        self._use(chosen_scales(self, None))

    def named(self, name: str | None) -> list[str]:
        """The LoRA of a name, or all of them for None. Raises RequestError if there is none."""
        if name is not None:
            _check_loaded(name, self)
        return list(self) if name is None else [name]

    def describe(self) -> dict[str, Any]:
        """The LoRAs for `Pipeline.info`, JSON-able."""
        return {
            name: {
                "file": lora.file,
                "scale": lora.scale,
                "fused": lora.fuse,
                "layers": dict(lora.loaded.layers),
                "words": list(lora.words),
                "left_out": dict(lora.loaded.left_out),
                "bytes": lora.loaded.nbytes,
                **({"bytes_of_originals": lora.loaded.originals_nbytes} if lora.fuse else {}),
            }
            for name, lora in self.items()
        }

    def _use(self, scales: Mapping[str, LoraScale]) -> None:
        use(self._backend.loras, scales)


def chosen_scales(
    loras: Mapping[str, AttachedLora], given: Mapping[str, LoraScale] | None
) -> dict[str, LoraScale]:
    """The scale of each LoRA in a call that gives some of them its own.

    Raises:
        RequestError: One of them is not loaded.
    """
    asked = {} if given is None else given
    for name in asked:
        _check_loaded(name, loras)
    return {name: asked.get(name, LoraScale.of(lora.scale)) for name, lora in loras.items()}


def use(loras: LoraSet, scales: Mapping[str, LoraScale]) -> None:
    """Have a backend use LoRAs at these scales, and no others."""
    loras.use({name: scale for name, scale in scales.items() if scale})


def _check_loaded(name: str, loras: Mapping[str, AttachedLora]) -> None:
    if name not in loras:
        loaded = ", ".join(loras) or "none; load one with load_lora"
        raise RequestError("no such LoRA", found=name, remedy=f"loaded: {loaded}")
