"""How many steps a run from a picture leaves out."""

from __future__ import annotations

from ipa.contract.errors import RequestError


def left_out(num_inference_steps: int, strength: float | None) -> int:
    """All but the last int(n · strength) steps, as in diffusers' get_timesteps.

    None, and 1, leave out none.

    Raises:
        RequestError: No step is left.
    """
    if strength is None:
        return 0
    kept = min(int(num_inference_steps * strength), num_inference_steps)
    if kept < 1:
        raise RequestError(
            "strength leaves no step to run",
            found=f"{strength:g} of num_inference_steps={num_inference_steps}",
            remedy=f"a strength of {1 / num_inference_steps:.2g} or more, or more steps",
        )
    return num_inference_steps - kept
