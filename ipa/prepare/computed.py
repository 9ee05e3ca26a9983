"""What of the network each evaluation of a run computes: the decisions together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipa.backend.schedule import Step
from ipa.model.folder import ModelFolder
from ipa.request.request import Request

from .forecast import Forecast, forecast_warnings, forecasts
from .guidance import guidance_warnings, guided_steps
from .reuse import full_steps, reuse_warnings


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """What of the network is computed, by evaluation.

    Attributes:
        guided: Whether its unconditional half is.
        full: Whether its deep part is; else it is reused (`prepare.reuse`).
        forecasts: What its last feature is a sum of, where nothing before it is
            (`prepare.forecast`).
        saved: How many evaluations reuse the deep part or are forecast, for descriptions; {} if
            neither is asked.
        warnings: About what of a request has no effect on that.
    """

    guided: tuple[bool, ...]
    full: tuple[bool, ...]
    forecasts: tuple[Forecast, ...]
    saved: Mapping[str, int]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, request: Request, model: ModelFolder, steps: Sequence[Step]) -> Computed:
        """Decide it.

        Raises:
            RequestError: The network has no such branch, or two ways to save are asked at once.
        """
        seconds = {number for number, step in enumerate(steps) if step.second}
        guided = guided_steps(request, model, len(steps), seconds)
        full = full_steps(request, model, guided)
        planned = forecasts(request, guided)
        saved = {}
        if request.cache_interval > 1:
            saved["reused_steps"] = full.count(False)
        if request.forecast:
            saved["forecast_steps"] = sum(row is not None for row in planned)
        warnings = guidance_warnings(request, model, guided)
        warnings += [*reuse_warnings(request, full), *forecast_warnings(request, planned)]
        return cls(
            guided=guided, full=full, forecasts=planned, saved=saved, warnings=tuple(warnings)
        )
