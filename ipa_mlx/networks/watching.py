"""Whether somebody watches what a module gives: then it has to give it, by itself."""

from __future__ import annotations

import mlx.nn as nn

MARK = "is_watched"
"""The class attribute of a module whose class was exchanged to tell (`ipa_mlx.stages`)."""


def is_watched(module: nn.Module) -> bool:
    """Whether a module's call is watched, or that of one in it, for the network as a whole."""
    return bool(getattr(type(module), MARK, False))
