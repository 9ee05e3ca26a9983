"""The limits of a server: how much one request, and all of them, may ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """The limits of a server.

    Attributes:
        body_bytes: Of a request's body, counted while it is read.
        parts: Of a form.
        pictures: In one request.
        pixels: Of all pictures of a request together, by their headers.
        prompt: Characters of a text.
        side: Pixels of a side of a picture that is made.
        made_pixels: Pixels of a picture that is made.
        work: Pictures times steps times pixels of a request: 8 pictures of 1024² in 100 steps.
        queue: Jobs that wait.
        streams: Event streams that are open at once; one more is answered 503.
        connections: Connections at once; one more is answered 503.
        silent_s: Seconds in which a client neither sends what it began nor takes what it is sent.
        kept_jobs: Jobs that have ended and are still known.
        kept_bytes: Their pictures' bytes, as pixels.
    """

    body_bytes: int = 64 << 20
    parts: int = 32
    pictures: int = 16
    pixels: int = 64 << 20
    prompt: int = 32_000
    side: int = 4096
    made_pixels: int = 4 << 20
    work: int = 800 << 20
    queue: int = 16
    streams: int = 64
    connections: int = 256
    silent_s: float = 30.0
    kept_jobs: int = 200
    kept_bytes: int = 1 << 30
