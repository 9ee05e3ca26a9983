"""A loaded model and its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pipeline import Pipeline as Pipeline

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name from this package's modules when it is first asked for."""
        if name == "Pipeline":
            from .pipeline import Pipeline

            return Pipeline
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
