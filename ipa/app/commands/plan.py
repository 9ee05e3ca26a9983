"""`ipa-mlx plan`: what a call of generate would take in memory, before anything runs."""

from __future__ import annotations

import functools
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.app.help.option_words import translated
from ipa.app.options.loading import ModelOptions, check_arguments
from ipa.app.terminal import explained, print_json
from ipa.memory.plan import MemoryPlan, StageMemory, in_words

from .generate import call_arguments, generate


@functools.wraps(generate)
def plan(context: typer.Context, **_options: Any) -> None:
    """Say what generate would take in memory with these options; no weight is read."""
    with explained():
        arguments = call_arguments(context)
        opening = ModelOptions.of(context.params)
        folder = opening.folder()
        check_arguments(arguments, folder, opening.default_scale)
        pipe = opening.open(folder, arguments["controls"], lazy=True)
        found = pipe.plan(**arguments)
    if context.params["as_json"]:
        print_json(found.describe())
        return
    show_memory(found)


plan.__doc__ = "Say what generate would take in memory with these options; no weight is read."


def show_memory(found: MemoryPlan) -> None:
    """Print a plan: its stages in order, whether it fits, and what would take less."""
    console = Console(highlight=False)
    console.print(_table(found))
    if not found.staged:
        console.print(f"Held all the time: {_held(found.largest)}", markup=False)
    for line in _verdict(found):
        console.print(line, markup=False)
    if found.offers:
        console.print("Less with:", style="bold")
    for offer in found.offers:
        words = translated(offer.words)
        console.print(f"  {in_words(offer.peak):>9}  {words}", markup=False, soft_wrap=True)


def _table(found: MemoryPlan) -> Table:
    table = Table(box=None)
    table.add_column("stage")
    if found.staged:
        table.add_column("holds", overflow="fold")
    for title in ("held", "work", "peak"):
        table.add_column(title, justify="right")
    for stage in found.stages:
        style = "bold" if stage is found.largest else ""
        sizes = (stage.held, stage.working, stage.peak)
        held = [Text(_held(stage))] if found.staged else []
        table.add_row(stage.name, *held, *map(in_words, sizes), style=style)
    return table


def _held(stage: StageMemory) -> str:
    parts = sorted(stage.resident.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {in_words(nbytes)}" for name, nbytes in parts)


def _verdict(found: MemoryPlan) -> list[str]:
    how = "parts come and go with their stages" if found.staged else "all parts stay"
    lines = [f"Peak: {in_words(found.peak)}, in the stage {found.largest.name}; {how}."]
    if found.budget is not None:
        fits = "It fits" if found.fits else "It does not fit"
        lines.append(f"{fits} the budget of {in_words(found.budget)}.")
    return [*lines, *(f"Not counted: {note}." for note in found.notes)]
