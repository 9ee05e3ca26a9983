"""`ipa-mlx bench`: how fast stages and whole generations are here, and against other programs."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from ipa.app.options.model import Device, Dtype, Json
from ipa.app.output import check_writable
from ipa.app.terminal import cancel_on_interrupt, explained, print_json, say
from ipa.bench.cases import (
    STAGES,
    Case,
    Group,
    check_peer,
    check_program,
    does,
    grouped,
    known_programs,
)
from ipa.bench.chart import chart as chart_of
from ipa.bench.conditions import state
from ipa.bench.kernels import kernel_lines, plain_kernels, step_kernels
from ipa.bench.public import ADAPTERS, structure
from ipa.bench.report import Measurement, markdown, plain
from ipa.bench.rounds import check_counts, measure
from ipa.errors import BackendError, RequestError, shown
from ipa.files import write_whole

_SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")
_MOST_SIDE, _MOST_BATCH, _MOST_ADAPTERS, _MOST_STEPS = 8192, 64, 32, 1000


def bench(
    stages: Annotated[
        list[str] | None, typer.Argument(help=f"What to measure: {', '.join(STAGES)}.")
    ] = None,
    base: Annotated[
        str, typer.Option(help="Random weights of a model's true size: sd15, sd2, sdxl; or demo.")
    ] = "sd15",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model of your own instead.")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="mlx, torch, diffusers, or a --peer; torch-channels-last, torch-compiled; may be "
            "repeated.",
            show_default="those that are installed",
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            help="Another MLX program: the folder that has its package (diffuse_mlx, or the MLX "
            "examples' stable_diffusion), or a Python file with open_stage(…); may be repeated.",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SIDE|WIDTHxHEIGHT",
            help="Of the picture, in pixels; may be repeated: a series.",
            show_default="512, or the demo's 64",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(help="Pictures at once; may be repeated.", show_default="1")
    ] = None,
    adapters: Annotated[
        list[int] | None,
        typer.Option(help="Adapters beside the model; may be repeated.", show_default="0"),
    ] = None,
    adapter_kind: Annotated[
        list[str] | None,
        typer.Option(
            help="base (4 tokens) or plus (16); may be repeated.", show_default=ADAPTERS[0]
        ),
    ] = None,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            "--steps", "-n", help="Steps of a generation; may be repeated.", show_default="4"
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Processes of each arm, in turn.")] = 3,
    runs: Annotated[int, typer.Option(help="Runs in a process, after the first.")] = 1,
    limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="For all of it; what will not fit is left out."),
    ] = None,
    graph: Annotated[
        bool,
        typer.Option(
            "--graph", help="Count what MLX's steps ask of a GPU instead; nothing is run."
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="JSON", help="Keep all numbers there.")
    ] = None,
    chart: Annotated[Path | None, typer.Option(metavar="SVG", help="Draw a chart there.")] = None,
    dtype: Dtype = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure stages and generations: one process a repeat, arms in turn, the first run apart.

    Without --model, weights are random and of the true size: speed does not depend on values, and
    no file is needed. The default is one guided step of the network.
    """
    with explained(), cancel_on_interrupt() as cancel:
        targets = [path for path in (output, chart) if path is not None]
        for path in targets:
            check_writable(path)
        check_counts(repeats, runs)
        _check_limit(limit)
        given = {"base": base, "model": model, "dtype": dtype, "device": device}
        made = _Cases(given, _peers(peer), arm, size or [_usual(base)], adapter_kind)
        cases = made.all(stages or ["step"], batch or [1], adapters or [0], steps or [4])
        _check_sizes(cases, structure(base, model).vae.scale_factor)
        if graph:
            _show_kernels(cases, output, as_json=as_json)
            return
        groups, before = grouped(cases), state()
        rounds = measure(
            groups, repeats=repeats, runs=runs, limit=limit, on_turn=_told, cancel=cancel
        )
        found = Measurement.of(groups, rounds, before)
        _check_any(found)
        if output is not None:
            write_whole(output, _json(plain(found)))
        if chart is not None:
            write_whole(chart, chart_of(found).encode())
    if as_json:
        print_json(plain(found))
    else:
        typer.echo(markdown(found))


class _Cases:
    """The cases of a command, checked."""

    def __init__(
        self,
        given: Mapping[str, Any],
        peers: Mapping[str, Path],
        programs: Sequence[str] | None,
        sizes: Sequence[str],
        kinds: Sequence[str] | None,
    ) -> None:
        self.given, self.peers = given, peers
        self.programs = programs or known_programs(peers)
        for name in self.programs:
            check_program(name, peers)
        self.sizes, self.kinds = [_size(text) for text in sizes], kinds or ADAPTERS[:1]
        _check_names("adapter kind", self.kinds, ADAPTERS)

    def all(
        self, stages: Sequence[str], batch: Sequence[int], adapters: Sequence[int], steps: Any
    ) -> list[Case]:
        """Every combination that makes a difference, programs in turn."""
        _check_names("stage", stages, STAGES)
        for name, values, low, high in (
            ("batch", batch, 1, _MOST_BATCH),
            ("adapters", adapters, 0, _MOST_ADAPTERS),
            ("steps", steps, 1, _MOST_STEPS),
        ):
            if not all(low <= value <= high for value in values):
                raise RequestError(f"{name} must be from {low} to {high}", found=shown(values))
        combined = itertools.product(stages, self.sizes, batch, self.kinds, adapters, steps)
        wanted = dict.fromkeys(
            self._case(program, *values) for values in combined for program in self.programs
        )
        cases = [case for case in wanted if does(case)]
        for case in wanted:
            if not does(case):
                say("[yellow]left out:[/]", f"{case.name}: {case.program} does not do that")
        if not cases:
            raise RequestError(
                "nothing is left to measure",
                found=", ".join(case.name for case in wanted),
                remedy="name another stage, or another arm",
            )
        return cases

    def _case(
        self, program: str, stage: str, size: tuple[int, int], batch: int, kind: str, *rest: int
    ) -> Case:
        """A case, with what makes no difference to its stage left as usual."""
        adapters, steps = rest
        has_adapters = stage in ("condition", "step", "generation")
        path = self.peers.get(program)
        return Case(
            **self.given,
            program=program,
            stage=stage,
            width=size[0],
            height=size[1],
            batch=1 if stage in ("text", "condition") else batch,
            adapters=adapters if has_adapters else 0,
            adapter=kind if stage == "image" or (has_adapters and adapters) else ADAPTERS[0],
            steps=steps if stage == "generation" else 1,
            path=None if path is None else str(path.resolve()),
        )


def _usual(base: str) -> str:
    return "64" if base == "demo" else "512"


def _peers(texts: Sequence[str] | None) -> dict[str, Path]:
    peers: dict[str, Path] = {}
    for text in texts or ():
        name, equals, path = text.partition("=")
        if not equals or not path or name in peers:
            raise RequestError("--peer takes NAME=PATH, each name once", found=shown(text))
        peers[name] = Path(path).expanduser()
        check_peer(name, peers[name])
    return peers


def _size(text: str) -> tuple[int, int]:
    found = _SIZE.fullmatch(text)
    sides = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(1 <= side <= _MOST_SIDE for side in sides):
        raise RequestError(
            "a size is a side or WIDTHxHEIGHT, in pixels",
            found=shown(text),
            remedy=f"such as 512 or 768x512; at most {_MOST_SIDE}",
        )
    return sides


def _check_sizes(cases: Sequence[Case], factor: int) -> None:
    for case in cases:
        if case.width % factor or case.height % factor:
            raise RequestError(
                f"sizes must be multiples of {factor}", found=f"{case.width}x{case.height}"
            )


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise RequestError(
                f"there is no such {what}", found=shown(name), remedy=f"one of {', '.join(known)}"
            )


def _check_limit(limit: float | None) -> None:
    if limit is not None and not limit > 0:
        raise RequestError("limit must be more than 0 seconds", found=str(limit))


def _check_any(found: Measurement) -> None:
    if not found.arms:
        reasons = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
        raise BackendError("no arm could be measured", found=reasons)


def _told(repeat: int, group: Group) -> None:
    words = f"repeat {repeat + 1}: {'; '.join(case.name for case in group)}"
    Console(stderr=True, highlight=False).print(words, style="dim", markup=False, soft_wrap=True)


def _show_kernels(cases: Sequence[Case], output: Path | None, *, as_json: bool) -> None:
    found = step_kernels(cases)
    if output is not None:
        write_whole(output, _json(plain_kernels(found)))
    if as_json:
        print_json(plain_kernels(found))
    else:
        typer.echo("\n".join(kernel_lines(found)))


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=1).encode() + b"\n"
