"""Pictures: from files to pixels and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .pictures import open_image as open_image

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a name from this package's modules when it is first asked for."""
        if name == "open_image":
            from .pictures import open_image

            return open_image
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
