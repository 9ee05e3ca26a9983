"""Options that would do nothing beside what else was typed: they are refused, not ignored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipa.app.session import Session
from ipa.errors import RequestError


@dataclass(frozen=True, slots=True)
class Need:
    """An option that needs another one beside it.

    Attributes:
        option: As it is typed.
        what: What it is about.
        others: Parameters, one of which must have been typed.
        remedy: What to do.
    """

    option: str
    what: str
    others: tuple[str, ...]
    remedy: str


_START = "add --image FILE, or leave it out"
NEEDS: dict[str, Need] = {
    "strength": Need("--strength", "how far to go from a picture", ("image",), _START),
    "scale": Need(
        "--scale", "the weight of image prompts", ("image_prompt", "face"), "add --image-prompt"
    ),
    "find_faces": Need(
        "--find-faces", "faces in image prompts", ("image_prompt", "face"), "add --image-prompt"
    ),
}
"""Needs by the name of the parameter."""

_ONCE = {"prompt": ("-p", "--prompt")}


def check_effects(session: Session, args: Sequence[str]) -> None:
    """Raise RequestError for an option that was typed and has no effect.

    Args:
        session: Of the command.
        args: The words that were typed.
    """
    known = session.context.params
    for name, need in NEEDS.items():
        has_all = name in known and all(other in known for other in need.others)
        if has_all and session.typed(name) and not any(known[other] for other in need.others):
            raise RequestError(
                f"{need.option} is about {need.what}: it has no effect here",
                found=f"{need.option} without {' or '.join(map(_option, need.others))}",
                remedy=need.remedy,
            )
    for name, spelled in _ONCE.items():
        if isinstance(known.get(name), str) and session.typed(name):
            _check_once(args, spelled)


def _check_once(args: Sequence[str], spelled: tuple[str, str]) -> None:
    short, long = spelled
    typed, words = list[str](), iter(args)
    for word in words:
        if word in spelled:
            typed.append(word)
            next(words, None)  # its text, whatever that is
        elif word.startswith(f"{long}="):
            typed.append(word)
    if len(typed) > 1:
        raise RequestError(
            f"{long} was typed {len(typed)} times, and a call has one",
            found=" … ".join(typed),
            remedy=f'write all of it in one: {short} "a heart, a ring"; sweep takes several',
        )


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
