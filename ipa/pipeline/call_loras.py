"""The LoRAs of a call: which act on each of its prompts, and what is loaded for it alone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipa.backend.protocol import LoraScale, LoraSet
from ipa.errors import RequestError
from ipa.model.lora import left_out_warnings
from ipa.prepare.text.tags import LoraTag, lora_tags
from ipa.prepare.text.textual_inversion import bundled_words
from ipa.prepare.text.tokenizer import ClipTokenizer
from ipa.request.request import Request

from .loras import AttachedLora, chosen_scales, use
from .snapshot import Snapshot

_ENDINGS = {".safetensors", ".ckpt", ".pt", ".bin"}
_ALIAS = "ss_output_name"  # in the metadata of kohya's files: what A1111 calls them by default


@dataclass(frozen=True, slots=True)
class CallLoras:
    """The LoRAs that act on one prompt.

    Attributes:
        scales: How strongly each acts, by name.
        files: Those that are loaded for the length of the call, by name.
        tags: How the prompt named some of them, by name.
        warnings: What is named in the prompt and was not found, and what is not used of the files.
        tokenizers: The model's, with the words that the files bring.
    """

    scales: Mapping[str, LoraScale] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    tags: Mapping[str, LoraTag] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    tokenizers: tuple[ClipTokenizer, ...] = ()


def plan_loras(request: Request, loaded: Snapshot) -> CallLoras:
    """Plan the LoRAs of a request: loaded ones, and those that its prompt names (A1111).

    Where the prompt names one, its weight there stands before that in the request's `loras`; one
    that is in both must be found. So a description that is played again has all that it had.

    Args:
        request: The request.
        loaded: What is loaded, and the folder where others are looked for.

    Raises:
        RequestError: One is not loaded, not in the folder, or is named twice with two strengths.
    """
    loras, named = loaded.loras, lora_tags(request)
    in_prompt = {tag.name for tag in named} - loras.keys()
    asked = {name: LoraScale.of(scale) for name, scale in (request.loras or {}).items()}
    scales = chosen_scales(loras, {k: v for k, v in asked.items() if k not in in_prompt})
    files: dict[str, Path] = {}
    tags: dict[str, LoraTag] = {}
    warnings: list[str] = []
    for tag in named:
        name, path = _found(tag, loaded, files)
        if name is None:
            warnings += _missing(tag, is_needed=tag.name in asked)
            continue
        if path is not None:
            files[name] = path
        _check_one_strength(name, tag, tags)
        scales[name], tags[name] = tag.scale, tag
    for name, scale in scales.items():
        if scale and name in loras:
            warnings += loras[name].warnings
    tokenizers, unused = _with_words(files, loaded)
    return CallLoras(scales, files, tags, (*warnings, *unused), tokenizers)


def named_files(request: Request, loaded: Snapshot) -> dict[str, Path]:
    """The files of the LoRAs that a prompt names and that are loaded for its call alone."""
    files: dict[str, Path] = {}
    for tag in lora_tags(request):
        name, path = _found(tag, loaded, files)
        if name is not None and path is not None:
            files[name] = path
    return files


def _found(
    tag: LoraTag, loaded: Snapshot, files: Mapping[str, Path]
) -> tuple[str | None, Path | None]:
    """What the LoRA of a tag is called, and its file if it is to be loaded.

    A file with two names is one LoRA: that of the first, or the one that is loaded from it.
    """
    name = _loaded(tag.name, loaded.loras)
    if name is not None or loaded.lora_folder is None or not tag.scale:
        return name, None
    path = _file(tag.name, loaded.lora_folder)
    for name, lora in loaded.loras.items():
        if lora.path.resolve() == path.resolve():
            return name, None
    twins = (name for name, file in files.items() if file.resolve() == path.resolve())
    return next(twins, tag.name), path


def _missing(tag: LoraTag, *, is_needed: bool) -> list[str]:
    """A warning of a LoRA that is nowhere, if it would act.

    Raises:
        RequestError: The request says that it is needed.
    """
    if not tag.scale:
        return []
    if is_needed:
        raise RequestError(
            f"the LoRA {tag.name!r}, which the prompt names, is not here",
            found=f"{tag.text!r}; no LoRA of that name is loaded, and lora_folder is not set",
            remedy="load_lora it, or set lora_folder; to go on without it, leave it out of loras",
        )
    return [
        f"prompt: {tag.text!r} was left out: no LoRA of that name is loaded; load_lora, or set "
        "lora_folder"
    ]


def _check_one_strength(name: str, tag: LoraTag, tags: Mapping[str, LoraTag]) -> None:
    """Raise RequestError if another tag of the prompt gave a LoRA another strength."""
    if name in tags and tags[name].scale != tag.scale:
        raise RequestError(
            f"the prompt names the LoRA {name!r} twice, with different weights",
            found=f"{tags[name].text} and {tag.text}",
            remedy="name it once, with the weight that it shall have",
        )


def _with_words(
    files: Mapping[str, Path], loaded: Snapshot
) -> tuple[tuple[ClipTokenizer, ...], list[str]]:
    """Tokenizers with the words in a call's LoRA files, and warnings about words they lack."""
    if loaded.inversions is None or not files:
        return loaded.tokenizers, []
    inversions, warnings = loaded.inversions.copy(), list[str]()
    for name, path in files.items():
        words, left_out = bundled_words(path, name, loaded.model)
        left_out |= inversions.add_bundled(words)
        warnings += left_out_warnings(path.name, left_out)
    return inversions.tokenizers, warnings


def lora_folder(given: str | Path | None) -> Path | None:
    """Check a folder for LoRAs named in prompts. Raises RequestError if there is none."""
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


def _loaded(name: str, loras: Mapping[str, AttachedLora]) -> str | None:
    """The loaded LoRA of a name, or of a file of that name."""
    if name in loras:
        return name
    return next((other for other, lora in loras.items() if lora.path.stem == name), None)


def _file(name: str, folder: Path) -> Path:
    """The file of a LoRA in a folder or below it, by its own name or its training's."""
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
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get(_ALIAS)
    except SafetensorError:
        return None  # it is no such file, and has no name


class ActingLoras:
    """The LoRAs of a call's prompts, in the backend that has what was loaded when it was made."""

    def __init__(
        self, loras: LoraSet, calls: Sequence[CallLoras], restore: Callable[[], None]
    ) -> None:
        self._loras, self._restore, self._first = loras, restore, calls[0]
        self._files, self._names = _once(calls)
        self._unused: dict[str, list[str]] = {}

    @contextmanager
    def lent(self) -> Iterator[None]:
        """A context with the files of the prompts loaded beside the model.

        Those of the first prompt act at once: who watches layers from now on (a tap's hooks) sees
        them as they are changed.
        """
        added: list[str] = []
        try:
            for name, path in self._files.items():
                lora = self._loras.load(name, path, fuse=False)
                added.append(name)
                self._unused[name] = left_out_warnings(path.name, lora.left_out)
            self.act(self._first)
            yield
        finally:
            self._restore()
            for name in added:
                self._loras.unload(name)

    def act(self, call: CallLoras) -> None:
        """Have the LoRAs of one prompt act, and no others."""
        use(self._loras, {self._names.get(n, n): scale for n, scale in call.scales.items()})

    def warnings(self, call: CallLoras) -> list[str]:
        """Warnings about unused parts of one prompt's files, known once they are loaded."""
        names = [self._names[name] for name in call.files]
        return [text for name in names for text in self._unused.get(name, ())]


def _once(calls: Sequence[CallLoras]) -> tuple[dict[str, Path], dict[str, str]]:
    """The files of several prompts, each once; and the name of each in place of all its names."""
    files: dict[str, Path] = {}
    first: dict[Path, str] = {}
    names: dict[str, str] = {}
    for call in calls:
        for name, path in call.files.items():
            names[name] = first.setdefault(path.resolve(), name)
            files.setdefault(names[name], path)
    return files, names


def describe_loras(call: CallLoras, loras: Mapping[str, AttachedLora]) -> dict[str, Any]:
    """The LoRAs for the description of the request, JSON-able."""
    return {
        name: {
            "file": call.files[name].name if name in call.files else loras[name].file,
            "scale": scale.unet,
            "fused": name not in call.files and loras[name].fuse,
            **({} if scale.unet == scale.text else {"text_scale": scale.text}),
            **({"tag": call.tags[name].text} if name in call.tags else {}),
        }
        for name, scale in call.scales.items()
    }
