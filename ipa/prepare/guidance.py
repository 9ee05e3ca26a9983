"""How strong guidance is where a call does not say."""

from __future__ import annotations

from ipa.contract.model import ModelFolder
from ipa.contract.request import Request

_USUAL = 7.5
_USUAL_XL = 5.0


def guidance_scale(request: Request, model: ModelFolder) -> float:
    """The request's, or the default of diffusers' pipeline for that kind of model."""
    if request.guidance_scale is not None:
        return float(request.guidance_scale)
    return _USUAL_XL if model.is_xl else _USUAL
