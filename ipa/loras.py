"""The LoRAs that a pipeline has loaded: by name, in the order of loading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ipa.contract.backend import Backend
from ipa.contract.errors import RequestError
from ipa.contract.lora import LoadedLora, LoraScale, left_out_warnings
from ipa.contract.weights import plain_number
from ipa.prepare.textual_inversion import Inversions, bundled_words


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

    @property
    def file(self) -> str:
        """The name of its file."""
        return self.path.name

    @property
    def warnings(self) -> list[str]:
        """What of its file is not used, and why."""
        return left_out_warnings(self.file, self.loaded.left_out)


class Loras(Mapping[str, AttachedLora]):
    """What is loaded beside a model. Not thread-safe: the pipeline serialises what changes it.

    Between calls the backend uses every LoRA at its own scale.
    """

    def __init__(self, backend: Backend, inversions: Inversions) -> None:
        self._backend, self._inversions = backend, inversions
        self._known: dict[str, AttachedLora] = {}

    def __getitem__(self, name: str) -> AttachedLora:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def load(self, name: str, path: Path, scale: float, *, fuse: bool) -> None:
        """Load a file, all or nothing.

        Raises:
            CheckpointError: It is damaged, or made for another model.
            RequestError: The name is taken, the scale is no number, or it cannot be fused.
        """
        if name in self._known:
            raise RequestError(
                "a LoRA of this name is loaded",
                found=name,
                remedy="pass another name=, or unload_lora first",
            )
        number = plain_number(scale, "scale")
        words, left_out = bundled_words(path, name, self._backend.model)
        loaded = self._backend.loras.load(name, path, fuse=fuse)
        try:
            self._use(self.chosen(None) | {name: LoraScale.of(number)})
            left_out |= self._inversions.add_bundled(words)
        except BaseException:  # also when interrupted: nothing is half loaded
            self._use(self.chosen(None))
            self._backend.loras.unload(name)
            raise
        known = self._inversions.bundled(name)
        loaded = replace(loaded, left_out={**loaded.left_out, **left_out})
        self._known[name] = AttachedLora(path, loaded, number, fuse, known)

    def unload(self, name: str | None) -> None:
        """Forget one, or all of them."""
        names = self.named(name)
        kept = {other: lora for other, lora in self._known.items() if other not in names}
        self._use({other: LoraScale.of(lora.scale) for other, lora in kept.items()})
        self._inversions.forget_bundled(names)
        for gone in names:
            self._backend.loras.unload(gone)
        self._known = kept

    def set_scale(self, scale: float, name: str | None) -> None:
        """Set the scale of one, or of all of them."""
        number = plain_number(scale, "scale")
        for changed in self.named(name):
            self._known[changed] = replace(self._known[changed], scale=number)
        self._use(self.chosen(None))

    def chosen(self, given: Mapping[str, LoraScale] | None) -> dict[str, LoraScale]:
        """The scale of each in a call that gives some of them its own.

        Raises:
            RequestError: One of them is not loaded.
        """
        own = {} if given is None else given
        for name in own:
            self.named(name)
        return {name: own.get(name, LoraScale.of(lora.scale)) for name, lora in self.items()}

    @contextmanager
    def lent(self, files: Mapping[str, Path], scales: Mapping[str, LoraScale]) -> Iterator[None]:
        """Have other files beside these for a while, and other scales, which `use` may change."""
        added: list[str] = []
        try:
            for name, path in files.items():
                self.load(name, path, 0.0, fuse=False)
                added.append(name)
            self.use(scales)
            yield
        finally:
            for name in added:
                self.unload(name)
            self._use(self.chosen(None))

    def use(self, scales: Mapping[str, LoraScale]) -> None:
        """Have the backend use other scales inside `lent`; those that are gone are left out."""
        self._use({name: scale for name, scale in scales.items() if name in self._known})

    def named(self, name: str | None) -> list[str]:
        """One LoRA, or all of them for None. Raises RequestError if there is no such."""
        if name is None:
            return list(self)
        if name not in self._known:
            loaded = ", ".join(self) or "none; load one with load_lora"
            raise RequestError("no such LoRA", found=name, remedy=f"loaded: {loaded}")
        return [name]

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
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
        self._backend.loras.use({name: scale for name, scale in scales.items() if scale})
