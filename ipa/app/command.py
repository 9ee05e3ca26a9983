"""A command of `ipa-mlx`: typer's, with what all of ours do to what was typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from ipa.app.options.without_effect import check_effects

from .replaying import replayed
from .session import begun
from .terminal import explained

# Options whose texts name files: FILE, or NAME=FILE. Those of a path's type are known by that.
_NAMING_FILES = frozenset(
    {
        *("image_prompt", "mask", "encoder_mask", "face", "control", "negative_image"),
        *("model", "adapter", "lora", "controlnet", "textual_inversion", "vae", "preview_decoder"),
        *("path", "source", "name"),
    }
)


class Command(TyperCommand):
    """A typer command in which `~` is the home folder, and options without effect are refused."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what was typed."""
        with explained():
            args = replayed(
                args,
                lambda words: self.make_parser(ctx).parse_args(words)[0],
                self.params,
                ctx.meta,
            )
        typed = list(args)  # reading takes them away
        rest = super().parse_args(ctx, args)
        ctx.params.update(expanded(ctx.params))
        with explained(), begun(ctx) as session:
            check_effects(session, typed)
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command, with a session of its own."""
        with begun(ctx):
            return super().invoke(ctx)


def expanded(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with `~` as the home folder, at the beginning of a file's name and after NAME=."""
    return {name: _expanded(name, value) for name, value in params.items()}


def _expanded(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_expanded(name, entry) for entry in value)
    if isinstance(value, Path):
        return _home(value)
    if isinstance(value, str) and name in _NAMING_FILES:
        head, _, tail = value.partition("=")
        if tail.startswith("~"):
            return f"{head}={_home(Path(tail))}"
        return str(_home(Path(value))) if value.startswith("~") else value
    return value


def _home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # ~somebody who is not here
        return path
