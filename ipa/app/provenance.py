"""What a picture keeps of the command that made it, and the way back from there to a command."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ipa.errors import RequestError
from ipa.pipeline.png_text import png_text
from ipa.prepare.images.pictures import open_image
from ipa.request.pictures import picture_sha256

from .session import Session, session

# What says where results go and how a run is watched, and not what is made.
_NOT_KEPT = frozenset(
    {
        *("output", "overwrite", "as_json", "preview", "preview_decoder", "show_reference"),
        *("influence", "from_", "picture", "offline", "seed", "num_images", "memory_budget"),
    }
)
_VAE = frozenset({"vae_memory", "vae_tiling", "vae_tile"})
_ONE_OF: Mapping[str, frozenset[str]] = dict.fromkeys(_VAE, _VAE)
"""Parameters that say the same thing in other words: one that is typed replaces any of them."""

_COMMAND, _PICTURES = "command", "made_with"
_WORDS, _PROMPT = "text", "--prompt"  # a prompt that stands alone, and its option


@dataclass(frozen=True, slots=True)
class Line:
    """A command as it was typed.

    Attributes:
        name: Of the command.
        options: Each option with its text, or alone if it has none.
    """

    name: str
    options: tuple[tuple[str, ...], ...]

    def shell(self) -> str:
        """The command quoted for a shell: `~` stays the home folder, which names nobody."""
        words = [self._word(option) for option in self.options]
        return " ".join(["ipa-mlx", self.name, *words])

    def _word(self, option: tuple[str, ...]) -> str:
        return " ".join([option[0], *map(shlex.quote, option[1:])])


def provenance(request: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON-able: the command that runs, and the names of its pictures with their hashes.

    Args:
        request: As it is described, for what was drawn or counted: its seed. None is of a sweep.
    """
    current = session()
    if current.context is None:
        return {}
    options = [list(option) for option in _typed(current)]
    if request is not None:
        options += [["--seed", str(request["seed"])]]
        if request["num_images"] > 1:
            options += [["--num-images", str(request["num_images"])]]
    pictures = {_portable(str(path)): picture_sha256(image) for path, image in current.pictures}
    return {
        _COMMAND: {"name": current.context.info_name, "options": options},
        _PICTURES: pictures,
    }


def _typed(current: Session) -> Iterator[tuple[str, ...]]:
    for option in current.context.command.params:
        if option.name in _NOT_KEPT or not current.typed(option.name):
            continue
        name = max(option.opts, key=len)
        value = current.context.params[option.name]
        if option.name == _WORDS:
            yield _PROMPT, " ".join(value)
            continue
        if value is True or value is False:
            yield (name if value else max(option.secondary_opts, key=len),)
            continue
        for entry in value if isinstance(value, (list, tuple)) else (value,):
            yield name, _portable(str(entry))


def _portable(text: str) -> str:
    """A word with `~` for the home folder, at the beginning and after NAME=."""
    home = f"{Path.home()}/"
    for head in ("", text.partition("=")[0] + "="):
        if text.startswith(head + home):
            return f"{head}~/{text[len(head + home) :]}"
    return text


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a PNG that we made.

    Raises:
        RequestError: It is none, or says nothing.
    """
    try:
        text = png_text(path)
        metadata = None if text is None else json.loads(text)
    except (OSError, ValueError, RecursionError, Image.DecompressionBombError) as error:
        raise RequestError(f"{path} cannot be read", found=str(error)[:200]) from error
    if not isinstance(metadata, dict) or not {"request", _COMMAND, "axes"} & metadata.keys():
        raise RequestError(
            f"{path} does not say how it was made",
            found="no text of ipa-mlx" if metadata is None else "other text",
            remedy="give a PNG that ipa-mlx generate or sweep wrote, and no program saved since",
        )
    return metadata


def line_of(metadata: Mapping[str, Any]) -> Line | None:
    """The command in a picture's metadata. None for one of an older version.

    Raises:
        RequestError: It is damaged.
    """
    command = metadata.get(_COMMAND)
    if command is None:
        return None
    try:
        options = _with_prompt(tuple(option) for option in command["options"])
        words = [command["name"], *(word for option in options for word in option)]
    except (LookupError, TypeError) as error:
        raise RequestError("the command in a picture is damaged", found=repr(error)[:80]) from error
    if not all(isinstance(w, str) for w in words) or not all(1 <= len(o) <= 2 for o in options):
        raise RequestError("the command in a picture is damaged", found=repr(options)[:80])
    return Line(command["name"], options)


def _with_prompt(options: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Options with --prompt for a prompt that stood alone: older pictures keep its words apart."""
    given = list(options)
    words = [option[1] for option in given if option[0] == _WORDS]
    prompt = [(_PROMPT, " ".join(words))] if words else []
    return (*prompt, *(option for option in given if option[0] != _WORDS))


@dataclass(frozen=True, slots=True)
class Replay:
    """A picture's command, to be typed anew with `--from`.

    Attributes:
        path: The picture.
        known: The names of parameters by their options.
        typed: The parameters that were typed beside it: they replace those of the picture.
        pictures: Files and folders in which pictures are looked for.
    """

    path: Path
    known: Mapping[str, str]
    typed: frozenset[str]
    pictures: Sequence[Path] = ()

    def words(self) -> list[str]:
        """The words to put before what was typed. Raises RequestError if that cannot be done."""
        metadata = read_metadata(self.path)
        line = line_of(metadata)
        if line is None or line.name != "generate":
            raise RequestError(
                f"{self.path} keeps no command of generate",
                found="a picture of an older version" if line is None else f"one of {line.name}",
                remedy="see what it says with ipa-mlx show",
            )
        hashes = metadata.get(_PICTURES, {})
        if not isinstance(hashes, dict) or not all(isinstance(h, str) for h in hashes.values()):
            raise RequestError(
                f"the pictures that {self.path} was made with are damaged",
                found=repr(hashes)[:80],
            )
        return [word for option in line.options for word in self._word(option, hashes)]

    def _word(self, option: tuple[str, ...], hashes: Mapping[str, str]) -> Iterator[str]:
        name = self.known.get(option[0])
        if name is None or (name in _NOT_KEPT and name not in {"seed", "num_images"}):
            raise RequestError(
                f"{self.path} was made with an option that generate does not have",
                found=option[0][:80],
                remedy="see what it says with ipa-mlx show",
            )
        if self.typed & _ONE_OF.get(name, {name}):
            return
        if len(option) == 1:
            yield option[0]
            return
        text = option[1]
        # The longest first: the name of one file may be part of another's.
        for file in sorted(hashes, key=len, reverse=True):
            if file in text:
                text = text.replace(file, self._found(file, hashes[file]), 1)
                break
        yield f"{option[0]}={text}"

    def _found(self, file: str, sha256: str) -> str:
        """The present path of the picture that was typed as `file`."""
        for path in self._candidates(file):
            try:
                if picture_sha256(open_image(path)) == sha256:
                    return str(path)
            except RequestError:
                continue  # gone, or no picture
        was_there = Path(file).expanduser().is_file()
        raise RequestError(
            f"{self.path} was made with {file}, which is not at hand",
            found="another picture of that name" if was_there else "no such file",
            remedy=f"name it, or its folder, with --picture (sha256 {sha256[:16]}…)",
        )

    def _candidates(self, file: str) -> Iterator[Path]:
        yield Path(file).expanduser()
        yield self.path.parent / file
        yield self.path.parent / Path(file).name
        for given in self.pictures:
            yield from sorted(given.iterdir()) if given.is_dir() else [given]


def replayed(
    args: list[str], parse: Callable[[list[str]], Mapping[str, Any]], params: Iterable[Any]
) -> list[str]:
    """The words that were typed, with those of --from's picture in front.

    Args:
        args: The words.
        parse: Gives what was typed by the names of parameters.
        params: All parameters of the command.

    Raises:
        RequestError: The picture does not say how it was made, or with what is not at hand.
    """
    if not any(word == "--from" or word.startswith("--from=") for word in args):
        return args
    typed = parse(list(args))
    if typed.get("from_") is None:
        return args
    names = {name: param.name for param in params for name in (*param.opts, *param.secondary_opts)}
    pictures = [Path(entry).expanduser() for entry in typed.get("picture") or ()]
    path = Path(typed["from_"]).expanduser()
    asked = frozenset(typed) | ({"prompt"} if typed.get(_WORDS) else set())
    return Replay(path, names, asked, pictures).words() + args
