"""The parity lab: where do two backends, or two machines, first differ, and by how much?

from ipa import parity
parity.assert_close(a, b, "budget.toml")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assertion import FirstDifferenceError, assert_close
    from .budgets import Budget

__all__ = ["Budget", "FirstDifferenceError", "assert_close"]

_HOMES = {
    "Budget": "ipa.parity.budgets",
    "FirstDifferenceError": "ipa.parity.assertion",
    "assert_close": "ipa.parity.assertion",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)

    def __dir__() -> list[str]:
        """The public names."""
        return list(__all__)
