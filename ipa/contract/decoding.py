"""What PIL raises for pictures that cannot be decoded."""

from __future__ import annotations

import struct
import zlib

DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
)
"""By its decoders' own admission, and by fuzzing."""
