"""What happens before tensors: pictures, token ids, noise and schedules, in numpy alone."""

from __future__ import annotations

from ipa.prepare.editing.outpainting import enlarge, outpaint

__all__ = ["enlarge", "outpaint"]
