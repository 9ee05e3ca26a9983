"""What happens before tensors: pictures, token ids, noise and schedules, in numpy alone."""

from __future__ import annotations

from .enlarging import enlarge
from .outpainting import outpaint

__all__ = ["enlarge", "outpaint"]
