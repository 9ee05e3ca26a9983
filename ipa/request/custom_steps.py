"""Steps of a run that a call names itself: timesteps, or noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ipa.checks import is_finite
from ipa.errors import RequestError, shown

MAX_CUSTOM = 1000
_USUAL_STEPS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomSteps:
    """Custom timesteps or sigmas, at most one; neither leaves the choice to the sampler.

    Attributes:
        timesteps: Of the network, from noisy to clean, one for each step.
        sigmas: Noise levels, noise over signal, from noisy to clean: that of each step, and last
            the one that the run ends at, usually 0.
    """

    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None

    @classmethod
    def of(cls, timesteps: Any, sigmas: Any) -> CustomSteps:
        """The custom steps of a call, as Python's own floats.

        Raises:
            RequestError: Both are given, or they are no falling list of finite numbers from 0.
        """
        if timesteps is not None and sigmas is not None:
            raise RequestError(
                "timesteps and sigmas say the same thing twice",
                found="both",
                remedy="pass one of them",
            )
        return cls(
            timesteps=None if timesteps is None else _falling("timesteps", timesteps, 1),
            sigmas=None if sigmas is None else _falling("sigmas", sigmas, 2),
        )

    @property
    def count(self) -> int | None:
        """The number of custom steps; None where the call names none."""
        if self.timesteps is not None:
            return len(self.timesteps)
        return None if self.sigmas is None else len(self.sigmas) - 1

    def steps(self, num_inference_steps: int | None) -> int:
        """The number of steps: the custom ones', or the call's, by default 30.

        Raises:
            RequestError: They are not as many as the call says.
        """
        if self.count is None:
            return _USUAL_STEPS if num_inference_steps is None else int(num_inference_steps)
        if num_inference_steps not in (None, self.count):
            name = "timesteps" if self.sigmas is None else "sigmas"
            raise RequestError(
                f"num_inference_steps is not the number of steps that {name} make",
                found=f"num_inference_steps={num_inference_steps}, {self.count} by {name}",
                remedy="leave num_inference_steps out",
            )
        return self.count


def _falling(name: str, given: Any, fewest: int) -> tuple[float, ...]:
    values = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(values, (list, tuple)) or not fewest <= len(values) <= MAX_CUSTOM:
        raise RequestError(
            f"{name} must be a list of {fewest} to {MAX_CUSTOM} numbers",
            found=shown(given),
        )
    for value in values:
        if not is_finite(value) or value < 0.0:
            raise RequestError(f"{name} must be finite numbers, 0 or more", found=shown(value))
    floats = tuple(float(value) for value in values)
    for before, after in pairwise(floats):
        if after >= before:
            raise RequestError(
                f"{name} must fall from every step to the next",
                found=f"{after:g} after {before:g}",
                remedy="from noisy to clean, none twice",
            )
    return floats
