"""Files mapped into memory: their pages count as ours until they are given back."""

from __future__ import annotations

import mmap


def release(buffer: mmap.mmap, offset: int, count: int) -> None:
    """Give pages of a read-only mapping back to the system; who looks again reads them again."""
    begin = offset // mmap.PAGESIZE * mmap.PAGESIZE
    if count:
        buffer.madvise(mmap.MADV_DONTNEED, begin, offset + count - begin)
