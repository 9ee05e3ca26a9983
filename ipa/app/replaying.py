"""`generate --from`: a picture's request becomes words of the command line again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa.errors import PictureMissingError, RequestError
from ipa.metadata.dialects.foreign import Foreign
from ipa.metadata.reading import Told, read_told
from ipa.pipeline.request_file import read_request
from ipa.prepare.images.pictures import open_image
from ipa.request.pictures import picture_sha256

from .provenance import NOT_KEPT, PICTURES, WORDS, line_of, our_metadata
from .request_options import OPTIONS
from .session import HASHES, RESTORED
from .terminal import say

_VAE = frozenset({"vae_memory", "vae_tiling", "vae_tile"})
_ONE_OF: Mapping[str, frozenset[str]] = dict.fromkeys(_VAE, _VAE)
"""Parameters that say the same thing in other words: one that is typed replaces any of them."""

_OF_PICTURES = frozenset(
    {
        *("image_prompt", "face", "scale", "fit", "sharpen", "negative_image", "encoder_mask"),
        *("enhance_tiles", "enhance_ratio", "neg_content_prompt", "neg_content_scale", "mask"),
        *("mask_fit", "layers", "curve", "embeds_scaling", "control", "control_preprocessor"),
        *("guess_mode", "image", "mask_image"),
    }
)
"""Parameters about pictures: where these are taken out of a picture, all of them are."""

_TAKEN = ("image_prompts", "controls", "image", "mask_image")


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

    def words(self, meta: dict[str, Any]) -> list[str]:
        """The words to put before what was typed.

        Args:
            meta: Is told what cannot be words: pictures that lie in the picture alone.

        Raises:
            RequestError: The picture does not say how it was made, or with what is not at hand.
        """
        told = read_told(self.path)
        if told.ours is None and told.foreign:
            return self._foreign(told.foreign[0])
        return self._ours(told, meta)

    def _ours(self, told: Told, meta: dict[str, Any]) -> list[str]:
        metadata = our_metadata(self.path, told)
        line = line_of(metadata)
        if line is None or line.name != "generate":
            raise RequestError(
                f"{self.path} keeps no command of generate",
                found="a picture of an older version" if line is None else f"one of {line.name}",
                remedy="see what it says with ipa-mlx show; pipe.replay runs requests from Python",
            )
        hashes = metadata.get(PICTURES, {})
        if not isinstance(hashes, dict) or not all(isinstance(h, str) for h in hashes.values()):
            raise RequestError(
                f"the pictures that {self.path} was made with are damaged",
                found=repr(hashes)[:80],
            )
        try:
            return [word for option in line.options for word in self._word(option, hashes)]
        except PictureMissingError:
            if not isinstance(metadata.get("references"), dict):
                raise
        meta |= self._embedded(hashes)
        return [word for option in line.options for word in self._word(option, {})]

    def _embedded(self, hashes: Mapping[str, str]) -> dict[str, Any]:
        """The arguments that the picture embeds."""
        typed = sorted(self.typed & _OF_PICTURES)
        if typed:
            raise RequestError(
                f"{self.path} holds what the image encoder saw, as it was made: nothing about "
                "pictures can be typed beside it",
                found=", ".join(typed),
                remedy="name the pictures themselves, or their folder, with --picture",
            )
        arguments = read_request(self.path).arguments
        taken = {k: v for k, v in arguments.items() if k in _TAKEN and v is not None}
        return {RESTORED: {"image_prompts": (), "controls": (), **taken}, HASHES: dict(hashes)}

    def _foreign(self, foreign: Foreign) -> list[str]:
        """Another program's request, as far as it can be options; the rest is told."""
        models = [one for one in foreign.weights if one.role == "model"]
        if "model" not in self.typed:
            raise RequestError(
                f"{self.path} was made by {foreign.tool}: which model makes it again?",
                found=models[0].words() if models else "it names none",
                remedy="name it with --model",
            )
        lost = [*foreign.lost]
        lost += [one.words() for one in foreign.weights if one.role != "model"]
        lost += [f"{models[0].words()}: --model is taken"] if models else []
        for words in lost:
            say("[yellow]not restored:[/]", words)
        made: list[str] = []
        for name, value in foreign.arguments.items():
            option = OPTIONS.get(name)
            parameter = self.known.get(option or "")
            needs_start = name == "strength" and "image" not in self.typed
            if option and parameter and parameter not in self.typed and not needs_start:
                made.append(f"{option}={value}")
        return made

    def _word(self, option: tuple[str, ...], hashes: Mapping[str, str]) -> Iterator[str]:
        name = self.known.get(option[0])
        if name is None or (name in NOT_KEPT and name not in {"seed", "num_images"}):
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
        raise PictureMissingError(
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
    args: list[str],
    parse: Callable[[list[str]], Mapping[str, Any]],
    params: Iterable[Any],
    meta: dict[str, Any],
) -> list[str]:
    """The words that were typed, with those of --from's picture in front.

    Args:
        args: The words.
        parse: Gives what was typed by the names of parameters.
        params: All parameters of the command.
        meta: The context's: see `Replay.words`.

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
    asked = frozenset(typed) | ({"prompt"} if typed.get(WORDS) else set())
    return Replay(path, names, asked, pictures).words(meta) + args
