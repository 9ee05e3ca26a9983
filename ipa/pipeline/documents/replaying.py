"""A picture run again: its request on what is loaded, and what could not be restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipa.errors import RequestError
from ipa.pipeline.request_file import RequestFile, read_request
from ipa.request.result import Result

_SAME = ("model", "vae", "backend", "dtype", "quantize")


def replay(
    call: Callable[..., Result],
    loaded: Mapping[str, Any],
    file: Path,
    pictures: Sequence[Path],
    changes: Mapping[str, Any],
) -> Result:
    """Run a picture's request again by the call of a pipeline, of which `loaded` is the info."""
    asked = read_request(file, pictures)
    _check_loaded(file, asked, loaded)
    result = call(**{**asked.arguments, **changes})
    told = {
        "file": file.name,
        "tool": asked.tool or "ipa-mlx",
        "not_restored": list(not_restored(asked, loaded)),
    }
    return replace(result, info={**result.info, "replay": told})


def not_restored(asked: RequestFile, loaded: Mapping[str, Any]) -> Iterator[str]:
    """What of a request is not as it was, in words."""
    for name in _SAME:
        was, now = asked.made.get(name), loaded.get(name)
        if name in asked.made and was != now:
            yield f"{name}: it was made with {was!s:.80}; here is {now!s:.80}"
    yield from (
        f"{weights.words()}: whether it is loaded is not known here" for weights in asked.weights
    )
    yield from asked.lost


def _check_loaded(file: Path, asked: RequestFile, loaded: Mapping[str, Any]) -> None:
    """Raise RequestError, with files and hashes, for adapters and controls that are missing."""
    if asked.described is None:
        return
    hashes = dict(asked.made.get("file_hashes") or {}).get("files") or {}
    for kind, key, there, verb in (
        ("adapter", "adapter", loaded["adapters"], "load_ip_adapter"),
        ("control", "control", {**loaded["controlnets"], **loaded["t2i_adapters"]}, None),
    ):
        entries = asked.described.get("image_prompts" if kind == "adapter" else "controls") or ()
        for entry in entries:
            name = entry.get(key)
            if name in there or name is None:
                continue
            known = f", hash {hashes[name]}" if name in hashes else ""
            load = verb or f"load_{entry.get('kind', 'controlnet')}"
            raise RequestError(
                f"{file} was made with the {kind} {name!r} ({entry.get('file')}{known}), "
                "which is not loaded",
                found=f"loaded: {', '.join(there) or 'none'}",
                remedy=f"pipe.{load}(…, name={name!r}) first",
            )
