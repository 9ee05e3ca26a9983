"""The pictures that the demo model was trained on, drawn anew: one object on a plain ground.

`held_out` draws those that its makers kept from every training and measured with, bit for bit but
for rounding: the same draws of torch's generator, in the same order. Shapes are signed distances,
the inside negative, in units of the object's radius with y up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from PIL import Image

from oracle.judge import WORDS, Reference

Field = np.ndarray
SIDE, HELD_OUT, DRAWN, CHUNK = 64, 0.1, 1000, 512
COMBINATIONS_SEED, PICTURES_SEED, JITTER = 7, 2, 0.05
COLOURS = {
    "red": (220, 38, 38),
    "orange": (245, 130, 30),
    "yellow": (245, 215, 45),
    "green": (40, 165, 70),
    "cyan": (50, 205, 220),
    "blue": (45, 85, 220),
    "purple": (135, 55, 190),
    "pink": (245, 130, 185),
}
GROUNDS = {
    "white": (245, 245, 245),
    "black": (22, 22, 26),
    "gray": (140, 140, 145),
    "brown": (115, 72, 40),
    "red": (170, 30, 45),
    "green": (25, 115, 60),
    "blue": (35, 60, 160),
    "yellow": (235, 205, 90),
}
DARK = 0.28  # a pattern's second tone, of the first


def caption(words: dict[str, str]) -> str:
    """Everything about a picture in the words of the training."""
    return "a {colour} {pattern} {shape} on a {background} background".format(**words)


def held_out(count: int) -> list[Reference]:
    """The first pictures of 1000, of combinations that no training saw; at most 512."""
    combinations = _held_out_words()
    generator = torch.Generator().manual_seed(PICTURES_SEED)
    picks = torch.randint(len(combinations), (DRAWN,), generator=generator)[:count].tolist()

    def draw(*shape: int) -> np.ndarray:
        return torch.rand(CHUNK, *shape, generator=generator).numpy().astype(np.float64)

    radius = draw() * 8 + 15.5
    room = np.maximum(4.0, 32 - 0.92 * radius) * 0.8
    x, y = (32 + (2 * draw() - 1) * room for _ in "xy")
    turn, phase = (2 * draw() - 1) * math.pi / 6, draw(2)
    ink, ground = ((2 * draw(3) - 1) * JITTER for _ in range(2))
    return [
        _render(combinations[pick], (radius[i], x[i], y[i], turn[i]), phase[i], ink[i], ground[i])
        for i, pick in enumerate(picks)
    ]


def _held_out_words() -> list[dict[str, str]]:
    every = [
        dict(zip(WORDS, words, strict=True))
        for words in product(*WORDS.values())
        if words[1] != words[3]
    ]
    generator = torch.Generator().manual_seed(COMBINATIONS_SEED)
    order = torch.randperm(len(every), generator=generator).tolist()
    return [every[number] for number in order[: int(len(every) * HELD_OUT)]]


def _render(
    words: dict[str, str],
    pose: tuple[float, float, float, float],
    phase: np.ndarray,
    ink_jitter: np.ndarray,
    ground_jitter: np.ndarray,
) -> Reference:
    """One picture; `pose` is radius, centre x and y in pixels, and the turn in radians."""
    radius, x, y, turn = pose
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    right, up = columns - x, y - rows
    u = right * math.cos(turn) + up * math.sin(turn)
    v = up * math.cos(turn) - right * math.sin(turn)
    inside = np.clip(0.5 - SHAPES[words["shape"]](u / radius, v / radius) * radius, 0, 1)[..., None]
    light = PATTERNS[words["pattern"]](u, v, radius, phase)[..., None]
    ink = np.clip(np.array(COLOURS[words["colour"]]) / 255 + ink_jitter, 0, 1)
    ground = np.clip(np.array(GROUNDS[words["background"]]) / 255 + ground_jitter, 0, 1)
    values = ground * (1 - inside) + ink * (DARK + (1 - DARK) * light) * inside
    return Reference(Image.fromarray((values * 255 + 0.5).astype(np.uint8)), words)


def _disc(x: Field, y: Field, radius: float) -> Field:
    return np.hypot(x, y) - radius


def _box(x: Field, y: Field, width: float, height: float) -> Field:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _polygon(x: Field, y: Field, corners: np.ndarray) -> Field:
    """The distance to the nearest side; the sign is by the parity of sides above a point."""
    distance, is_inside = np.full(x.shape, np.inf), np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        distance = np.minimum(distance, np.hypot(x - ax - along * dx, y - ay - along * dy))
        if ay != by:
            crosses = (ay > y) != (by > y)
            is_inside ^= crosses & (x < ax + (y - ay) / dy * dx)
    return np.where(is_inside, -distance, distance)


def _triangle(x: Field, y: Field) -> Field:
    half, down = 0.86, 0.02
    low = -half / math.sqrt(3) - down
    top = (0.0, 2 * half / math.sqrt(3) - down)
    return _polygon(x, y, np.array([(-half, low), (half, low), top]))


def _star(x: Field, y: Field) -> Field:
    angles = math.pi / 2 + np.arange(10) * math.pi / 5
    radii = np.tile([1.0, 0.45], 5)[:, None]
    return _polygon(x, y, radii * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _heart(x: Field, y: Field) -> Field:
    """Two quarter discs of radius √2/4 on a square that stands on its corner."""
    size = 0.68
    x, y = np.abs(x) * size, (y + 0.82) * size
    lobe = np.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    along = np.maximum(0, (x + y) / 2)
    side = np.minimum(np.hypot(x, y - 1), np.hypot(x - along, y - along)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, side) / size


SHAPES: dict[str, Callable[[Field, Field], Field]] = {
    "circle": lambda x, y: _disc(x, y, 0.88),
    "square": lambda x, y: _box(x, y, 0.76, 0.76),
    "triangle": _triangle,
    "star": _star,
    "ring": lambda x, y: np.abs(_disc(x, y, 0.66)) - 0.23,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.92, 0.30), _box(x, y, 0.30, 0.92)),
    "heart": _heart,
    "crescent": lambda x, y: np.maximum(_disc(x, y, 0.9), -_disc(x - 0.48, y - 0.12, 0.70)),
}


def _wave(u: Field, phase: float, period: float) -> Field:
    """The distance in pixels from the middle of a period, up to half of one."""
    return np.abs((u / period + phase) % 1 - 0.5) * period


def _soft(distance: Field) -> Field:
    return np.clip(distance + 0.5, 0, 1)


def _checkered(u: Field, v: Field, phase: np.ndarray) -> Field:
    a, b = _wave(u, phase[0], 12.0) - 3, _wave(v, phase[1], 12.0) - 3
    return _soft(np.sign(a * b) * np.minimum(np.abs(a), np.abs(b)))


def _dotted(u: Field, v: Field, phase: np.ndarray) -> Field:
    return _soft(np.hypot(_wave(u, phase[0], 9.5), _wave(v, phase[1], 9.5)) - 2.7)


# Lightness from 0 to 1 at (u, v) in pixels along the object's own axes, of its radius and phase.
PATTERNS: dict[str, Callable[[Field, Field, float, np.ndarray], Field]] = {
    "solid": lambda u, v, radius, phase: np.ones(u.shape),
    "striped": lambda u, v, radius, phase: _soft(_wave(u, phase[0], 9.0) - 2.25),
    "checkered": lambda u, v, radius, phase: _checkered(u, v, phase),
    "dotted": lambda u, v, radius, phase: _dotted(u, v, phase),
    "gradient": lambda u, v, radius, phase: np.clip(0.5 + 0.62 * v / radius, 0, 1),
}
