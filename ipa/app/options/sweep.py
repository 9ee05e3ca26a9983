"""Options of `ipa-mlx sweep` that are generate's, the same for every picture of a sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ipa.app.request_options import plain_arguments
from ipa.app.session import session
from ipa.errors import RequestError

from .controls import parse_controls
from .editing import opened
from .parsing import split_reference

# What a suffix says, and the option that says it for a whole sweep.
_SAID_BY = {"scale": "scales", "end": "ends"}


def shared_suffix(references: Sequence[str]) -> tuple[list[Path], dict[str, Any]]:
    """Files of [ADAPTER=]FILE[:SCALE][@START-END], and the suffix that all of them share.

    Returns:
        The files; and adapter, scale, start and end, those that are given.

    Raises:
        RequestError: They differ, or an option says the same.
    """
    files, said = list[Path](), list[dict[str, Any]]()
    for text in references:
        adapter, file, scale, window = split_reference(text)
        files.append(file)
        given = {"adapter": adapter, "scale": scale, **window}
        said.append({name: value for name, value in given.items() if value is not None})
    if any(own != said[0] for own in said):
        raise RequestError(
            "the pictures of a sweep have one weight and one window",
            found=", ".join(references)[:80],
            remedy="write the same behind each, or sweep --scales",
        )
    for name, option in _SAID_BY.items():
        if said and name in said[0] and session().typed(option):
            raise RequestError(
                f"the {name} is said twice",
                found=f"{references[0]} and --{option}",
                remedy="leave one of them out",
            )
    return files, said[0] if said else {}


def call_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of every call from generate's options, pictures and controls opened."""
    started = opened(options)
    found: dict[str, Any] = {
        **plain_arguments(options, but=("prompt", "strength")),
        "num_inference_steps": options["steps"],
        "controls": parse_controls(
            options["control"],
            options["control_preprocessor"],
            guess_mode=options["guess_mode"],
            mask_image=options["mask_image"],
        ),
        **started,
    }
    return found | ({"strength": options["strength"]} if "image" in started else {})
