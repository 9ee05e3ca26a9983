"""The kernels that steps ask of a GPU, side by side; counted on any machine, and not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipa.errors import RequestError
from ipa.pipeline.loading import environment

from . import public
from .cases import Case
from .report import table
from .stages import part

Counts = Mapping[str, Mapping[str, int]]
"""Counts by name, in sections: kernels by kind, and classes of dispatch."""


@dataclass(frozen=True, slots=True)
class StepKernels:
    """What the step of a case asks for."""

    case: Case
    counts: Counts


def step_kernels(cases: Sequence[Case]) -> list[StepKernels]:
    """The kernels of MLX's steps among some cases. Raises RequestError where there is none."""
    wanted = [case for case in cases if case.program == "mlx" and case.stage == "step"]
    if not wanted:
        raise RequestError(
            "only steps on MLX have their kernels counted",
            found=", ".join(case.name for case in cases),
            remedy="ipa-mlx bench step --arm mlx --graph",
        )
    environment("mlx")  # loads it
    return [StepKernels(case, _counts(case)) for case in wanted]


def _counts(case: Case) -> Counts:
    model = public.structure(case.base, case.model)
    factor = model.vae.scale_factor
    size = (case.batch, case.height // factor, case.width // factor)
    prompts = [public.TOKENS[case.adapter]] * case.adapters
    counts: Counts = part("mlx", "graph").kernels(
        model.unet, size, prompts, case.dtype or "float16"
    )
    return counts


def kernel_lines(found: Sequence[StepKernels]) -> list[str]:
    """The counts as tables of Markdown, a column a step."""
    lines = ["### ipa-mlx bench --graph: kernels of a step on Metal"]
    for section in found[0].counts:
        names = dict.fromkeys(name for one in found for name in one.counts[section])
        rows = [[name, *(str(one.counts[section].get(name, 0)) for one in found)] for name in names]
        rows.append(["all", *(str(sum(one.counts[section].values())) for one in found)])
        lines += ["", *table([section, *(one.case.name for one in found)], rows)]
    return lines


def plain_kernels(found: Sequence[StepKernels]) -> dict[str, object]:
    """The counts as JSON-able values."""
    return {"steps": [{"name": one.case.name, **one.counts} for one in found]}
