"""The LoRAs of a call: which act on each of its prompts, and what is loaded for it alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ipa.contract.errors import RequestError
from ipa.contract.lora import LoraScale
from ipa.contract.request import Request
from ipa.loras import Loras
from ipa.prepare.prompt_tags import LoraTag, lora_tags

_ENDINGS = {".safetensors", ".ckpt", ".pt", ".bin"}
_ALIAS = "ss_output_name"  # in the metadata of kohya's files: what A1111 calls them by default


@dataclass(frozen=True, slots=True)
class CallLoras:
    """Those of one prompt.

    Attributes:
        scales: How strongly each acts, by name.
        files: Those that are loaded for the length of the call, by name.
        tags: How the prompt named some of them, by name.
        warnings: What is named in the prompt and was not found.
    """

    scales: Mapping[str, LoraScale] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    tags: Mapping[str, LoraTag] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def plan_loras(request: Request, loras: Loras, folder: Path | None) -> CallLoras:
    """The LoRAs of a request: those loaded, and those that its prompt names in A1111's way.

    Args:
        request: The request.
        loras: Those that are loaded.
        folder: Where others are looked for; None if nowhere.

    Raises:
        RequestError: One is not loaded, not in the folder, or is given two strengths.
    """
    given = {name: LoraScale.of(scale) for name, scale in (request.loras or {}).items()}
    scales = loras.chosen(given)
    files: dict[str, Path] = {}
    tags: dict[str, LoraTag] = {}
    warnings: list[str] = []
    for tag in lora_tags(request):
        name = _loaded(tag.name, loras)
        if name is None and not tag.scale:
            continue
        if name is None and folder is None:
            warnings.append(
                f"prompt: {tag.text!r} was left out: no LoRA of that name is loaded; load_lora, or "
                "set lora_folder"
            )
            continue
        if name is None and folder is not None:
            name, files[tag.name] = tag.name, _file(tag.name, folder)
        if name in given and given[name] != tag.scale:
            raise RequestError(
                f"the LoRA {name!r} is given two strengths",
                found=f"{tag.text} in the prompt, loras={{{name!r}: {given[name].unet:g}}}",
                remedy="say it once",
            )
        if name is not None:
            scales[name], tags[name] = tag.scale, tag
    return CallLoras(scales, files, tags, tuple(warnings))


def lora_folder(given: str | Path | None) -> Path | None:
    """A folder in which LoRAs are looked for by name. Raises RequestError if there is none."""
    if given is None:
        return None
    folder = Path(given).expanduser() if isinstance(given, (str, Path)) else None
    if folder is None or not folder.is_dir():
        raise RequestError(
            "lora_folder must be a folder",
            found=f"{given!r:.80}",
            remedy="pass the folder that has the LoRAs' files",
        )
    return folder


def _loaded(name: str, loras: Loras) -> str | None:
    """The loaded LoRA of a name, or of a file of that name."""
    if name in loras:
        return name
    return next((known for known, lora in loras.items() if lora.path.stem == name), None)


def _file(name: str, folder: Path) -> Path:
    """The file of a LoRA in a folder or below it: by its own name, or by that of its training."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.is_file())
    found = [path for path in files if path.stem == name]
    found = found or [path for path in files if _alias(path) == name]
    if len(found) == 1:
        return found[0]
    near = difflib.get_close_matches(name, [path.stem for path in files], 3)
    raise RequestError(
        f"lora_folder has {'several LoRAs' if found else 'no LoRA'} called {name!r}",
        found=", ".join(str(path.relative_to(folder)) for path in found[:3])
        or f"{len(files)} files{', such as ' + ', '.join(near) if near else ''}",
        remedy="load_lora the one that is meant" if found else "check the name in the prompt",
    )


def _alias(path: Path) -> str | None:
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get(_ALIAS)
    except SafetensorError:
        return None  # it is no such file, and has no name


class ActingLoras:
    """Those of one prompt, beside the model that they act on: for the length of its run."""

    def __init__(self, call: CallLoras, loras: Loras) -> None:
        self._call, self._loras = call, loras

    def act(self) -> None:
        """Have the backend use them, and no others."""
        self._loras.use(self._call.scales)

    def describe(self) -> dict[str, Any]:
        """JSON-able, for the description of the request."""
        return {
            name: {
                "file": lora.file,
                "scale": scale.unet,
                "fused": lora.fuse,
                **({} if scale.unet == scale.text else {"text_scale": scale.text}),
                **({"tag": self._call.tags[name].text} if name in self._call.tags else {}),
            }
            for name, lora in self._loras.items()
            if (scale := self._call.scales.get(name)) is not None
        }

    def warnings(self) -> list[str]:
        """What the prompt named in vain, and what is not used of the files that act."""
        acting = [lora for name, lora in self._loras.items() if self._call.scales.get(name)]
        return [*self._call.warnings, *(text for lora in acting for text in lora.warnings)]
