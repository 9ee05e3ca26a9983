"""The help of commands with many options: in panels, names whole at 80 columns, examples below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from itertools import pairwise
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperGroup

from ipa.app.command import Command

_FIRST: Mapping[str, tuple[str, ...]] = {
    "generate": (
        *("prompt", "negative_prompt", "image_prompt", "layers", "model", "adapter"),
        *("steps", "guidance_scale", "seed", "output"),
    ),
    "sweep": (
        *("prompt", "image_prompt", "scales", "layers", "seeds", "model", "adapter"),
        *("steps", "guidance", "output"),
    ),
    "plan": (
        *("prompt", "image_prompt", "model", "adapter", "width", "height", "num_images"),
        *("quantize", "memory_budget", "vae_memory"),
    ),
    "explain": ("image_prompt", "model", "scale", "layers", "curve", "steps", "output"),
    "capture": ("request", "output", "picture", "model", "adapter", "stages", "sketch"),
    "bench": ("base", "model", "arm", "size", "adapters", "steps", "repeats", "output", "chart"),
    "compare": ("forced", "descend", "floor", "request", "model", "adapter", "to_html"),
}
"""The parameters for most people, by command: the first panel of its help."""

PANELS: Mapping[str, tuple[str, ...]] = {
    "Words": (
        *("negative_prompt", "prompt_2", "negative_prompt_2", "prompt_syntax", "long_prompts"),
        *("clip_skip", "textual_inversion"),
    ),
    "Pictures as prompts": (
        *("scale", "curve", "ends", "image_encoder", "adapter_kind", "mask", "mask_fit", "fit"),
        *("sharpen", "negative_image", "show_reference", "encoder_mask", "enhance_tiles"),
        *("enhance_ratio", "neg_content_prompt", "neg_content_scale", "embeds_scaling"),
        *("face", "find_faces", "influence", "profile"),
    ),
    "Structure": ("control", "controlnet", "control_preprocessor", "guess_mode"),
    "Start picture": (
        *("image", "mask_image", "strength", "padding_mask_crop", "mask_blur", "overlay"),
    ),
    "Sampling": (
        *("width", "height", "num_images", "scheduler", "timesteps", "sigmas"),
        *("timestep_spacing", "guidance_rescale", "guidance_start", "guidance_end", "eta"),
        *("cache_interval", "cache_branch"),
        *("forecast", "forecast_window", "forecast_growth", "forecast_warmup"),
    ),
    "Model": (
        *(
            "lora",
            "lora_folder",
            "vae",
            "vae_memory",
            "vae_tiling",
            "vae_tile",
            "backend",
            "dtype",
            "device",
            "quantize",
            "memory_budget",
        ),
        *("ignore", "revision", "variant", "offline"),
    ),
    "What is recorded": ("steps", "store", "max_bytes", "floor"),
    "What is compared": ("limit", "allow", "swaps", "picture"),
    "What is measured": ("batch", "adapter_kind", "peer", "runs", "limit", "graph"),
    "Output": (
        *("embed_references", "metadata", "no_metadata", "quality"),
        *("overwrite", "from_", "preview", "preview_decoder", "to_json", "to_junit", "as_json"),
        "events",
        "help",
    ),
}
"""The other panels of a help: titles and names of parameters, in order."""

NUMBERED: Mapping[str, str] = {"--vae-tiling": "--vae-tile"}
"""Switches, each with the option that stands in for it where a number follows."""

_REST = "Output"


class PanelledCommand(Command):
    """A command whose help is in panels; an option that no panel names stands in the last one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with a switch before a number read as the option that takes one."""
        return Command.parse_args(self, ctx, _with_numbers(args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help: the type of an option only where its help does not say it."""
        places = placed(str(self.name), self.params)
        order = list(places)
        params = [param for param in self.params if param.name in places]
        others = [param for param in self.get_params(ctx) if param.name not in places]
        params.sort(key=lambda param: order.index(str(param.name)))
        shown = copy(self)
        shown.params = [_narrow(param, places.get(str(param.name))) for param in [*params, *others]]
        shown.add_help_option, shown.epilog = False, None
        Command.format_help(shown, ctx, formatter)
        typer.echo(self.epilog)


class LenientCommand(PanelledCommand):
    """A command that also takes the options of `generate`, those without a meaning for it too."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own parameters, and hidden copies of the others."""
        params = PanelledCommand.get_params(self, ctx)
        group = ctx.parent.command if ctx.parent is not None else None
        other = getattr(group, "commands", {}).get("generate")
        taken = {name for param in params for name in (*param.opts, *param.secondary_opts)}
        spare = [p for p in other.params if taken.isdisjoint(p.opts)] if other else []
        return [*params, *map(_unseen, spare)]


class Root(TyperGroup):
    """The group of all commands: `help` is --help, and the help ends with what to try."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, with `help generate` read as `generate --help`."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return TyperGroup.parse_args(self, ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        shown = copy(self)
        shown.epilog = None
        TyperGroup.format_help(shown, ctx, formatter)
        typer.echo(self.epilog)


def placed(command: str, params: Iterable[Any] = ()) -> dict[str, str]:
    """The panel of each parameter of a command, in the order of its help.

    An option that the tables do not name says its panel itself (rich_help_panel).
    """
    first = _FIRST.get(command, ())
    title = f"The {'ten ' if len(first) == 10 else ''}options most people need"
    places = dict.fromkeys(first, title)
    for panel, names in PANELS.items():
        places |= {name: panel for name in names if name not in places}
        declared = (param.name for param in params if _declared(param) == panel)
        places |= {name: panel for name in declared if name not in places}
    return places


def _declared(param: Any) -> str | None:
    return getattr(param, "rich_help_panel", None)


def _unseen(param: Any) -> Any:
    """A hidden copy of an option that is read and has no effect."""
    copied = copy(param)
    copied.hidden, copied.expose_value = True, False
    return copied


def _with_numbers(args: list[str]) -> list[str]:
    """Arguments with --vae-tile in place of a --vae-tiling that a number follows."""
    made = list(args)
    for place, (word, value) in enumerate(pairwise(args)):
        if word in NUMBERED and value.isdecimal():
            made[place] = NUMBERED[word]
    return made


def _narrow(param: Any, panel: str | None) -> Any:
    """A copy of an option without a column for its type; one written by hand leads its help."""
    if param.param_type_name == "argument":
        return param
    shown = copy(param)
    shown.rich_help_panel = panel or _REST
    words = [f"{param.metavar} " if param.metavar else "", param.help or ""]
    shown.help = escape("".join(words))
    shown.metavar = ""
    if param.default is False:
        shown.secondary_opts, shown.show_default = [], False  # --no-offline says nothing new
    return shown
