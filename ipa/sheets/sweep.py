"""Sweeps: one request with some of its words varied, every combination a picture.

All cells of a seed start from the same noise, so that what differs is what was varied.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from PIL import Image

from ipa.checks import check_callback
from ipa.errors import RequestError, shown
from ipa.pipeline.pipeline import Pipeline
from ipa.request.image_prompt import ImagePrompt, check_image_prompts
from ipa.request.result import Progress
from ipa.request.scales import is_list
from ipa.watching import CancelSignal, cancel_question

from .likeness import Likeness

REFERENCE = "reference"
_OF_PROMPT = {REFERENCE: "image"} | {
    entry.name: entry.name
    for entry in fields(ImagePrompt)
    if entry.name not in {"image", "batched"}
}
_OF_CALL = (
    "prompt",
    "negative_prompt",
    "guidance_scale",
    "scheduler",
    "num_inference_steps",
    "profile",
    "seed",
)
AXES: tuple[str, ...] = (*_OF_CALL, *_OF_PROMPT)
"""The words that can be varied: `reference`, the picture; others of `ImagePrompt`; of the call."""

_NOT_HERE = ("num_images", "output_type")
# At a scale of 0 nothing of an image prompt is left but the adapter that would have read it.
_STILL_THERE_AT_ZERO = frozenset({*_OF_CALL, "adapter", "scale"})

# Right or wrong whatever the other axes say.
_ALONE = frozenset({*_OF_CALL, "layers", "curve"})


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a sweep: one word and its values.

    Attributes:
        name: One of AXES.
        values: What it is, one after the other.
        labels: How a sheet calls them; by default as Python prints them.

    Raises:
        RequestError: There is no such word, no value, a value twice, or labels do not fit.
    """

    name: str
    values: Sequence[Any] = field(repr=False)
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in AXES:
            near = difflib.get_close_matches(shown(self.name), AXES, n=1)
            guess = f"did you mean {near[0]!r}? " if near else ""
            raise RequestError(
                "there is no such axis to sweep",
                found=shown(self.name),
                remedy=f"{guess}All: {', '.join(AXES)}",
            )
        values = _entries(f"the values of the axis {self.name!r}", self.values)
        if not values:
            raise RequestError(f"the axis {self.name!r} needs a value", found="none")
        for one, two in itertools.combinations(values, 2):
            if one is two or (_is_plain(one) and _is_plain(two) and one == two):
                raise RequestError(f"the axis {self.name!r} has a value twice", found=shown(one))
        entries = _entries(f"the labels of the axis {self.name!r}", self.labels, str)
        labels = entries or tuple(_label(value, n) for n, value in enumerate(values, 1))
        if len(labels) != len(values):
            raise RequestError(
                f"the axis {self.name!r} needs a label for each value",
                found=f"{len(labels)} labels, {len(values)} values",
            )
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell of a sweep: one combination of values.

    Attributes:
        place: The index of its value on each axis.
        image_prompt: What is varied, as it is here; None in a sweep without.
        arguments: Of the call, `image_prompts` among them.
        key: Cells of the same key are the same request.
    """

    place: tuple[int, ...]
    image_prompt: ImagePrompt | None
    arguments: Mapping[str, Any] = field(repr=False)
    key: tuple[tuple[str, int], ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """A sweep: every combination of the values of some axes.

    Attributes:
        axes: The last one makes the columns of a sheet, the one before its rows, others groups of
            rows.
        image_prompt: What axes of image prompts vary; may be left out where `reference` is one.
        others: Image prompts that are the same everywhere.
        arguments: Of the call, as in `Pipeline.__call__`, for what is not varied.

    Raises:
        RequestError: An axis comes twice, or varies an image prompt that is not there.
    """

    axes: Sequence[Axis]
    image_prompt: ImagePrompt | None = None
    others: Sequence[ImagePrompt] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", _entries("axes of a sweep", self.axes, Axis))
        object.__setattr__(self, "others", check_image_prompts(self.others))
        if not isinstance(self.image_prompt, (ImagePrompt, type(None))):
            raise RequestError(
                "image_prompt must be ImagePrompt", found=type(self.image_prompt).__name__
            )
        if not isinstance(self.arguments, Mapping):
            raise RequestError(
                "arguments of a sweep are a dict", found=type(self.arguments).__name__
            )
        names = [axis.name for axis in self.axes]
        twice = [name for name in names if names.count(name) > 1]
        if twice or not names:
            raise RequestError(
                "a sweep needs one axis or more, each once",
                found=f"{twice[0]!r} twice" if twice else "none",
                remedy='write axes=[Axis("scale", [0, 0.5, 1])]',
            )
        about_pictures = [name for name in names if name in _OF_PROMPT and name != REFERENCE]
        if self.image_prompt is None and REFERENCE not in names and about_pictures:
            raise RequestError(
                f"the axis {about_pictures[0]!r} is about a picture",
                found="no picture",
                remedy="pass image_prompt=, or an axis 'reference'",
            )
        for name in self.arguments:
            if name in _NOT_HERE or name in names or name == "image_prompts":
                raise RequestError(
                    f"{name}= has no place among the arguments of this sweep",
                    found=f"{name}=",
                    remedy="an axis says it, image_prompt= and others= say pictures, and every "
                    "cell is one picture",
                )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, the last axis fastest.

        Raises:
            RequestError: A value is none that an image prompt can have.
        """
        ranges = [range(len(axis.values)) for axis in self.axes]
        return tuple(self._cell(place) for place in itertools.product(*ranges))

    @property
    def count(self) -> int:
        """How many pictures are made: cells that are the same request are made once."""
        return len({cell.key for cell in self.cells})

    def labels(self, cell: Cell) -> dict[str, str]:
        """A cell's labels, by the names of the axes."""
        pairs = zip(self.axes, cell.place, strict=True)
        return {axis.name: axis.labels[index] for axis, index in pairs}

    def plain(self, cell: Cell) -> dict[str, Any]:
        """A cell's values, JSON-able, by the axes' names; for pictures and the like, labels."""
        labels = self.labels(cell)
        values = {name: self.value(cell, name) for name in labels}
        return {n: value if _is_plain(value) else labels[n] for n, value in values.items()}

    def value(self, cell: Cell, name: str) -> Any:
        """The value that a cell has on the axis of a name."""
        return next(
            a.values[i] for a, i in zip(self.axes, cell.place, strict=True) if a.name == name
        )

    def _cell(self, place: tuple[int, ...]) -> Cell:
        values = {axis.name: axis.values[i] for axis, i in zip(self.axes, place, strict=True)}
        words = {_OF_PROMPT[name]: value for name, value in values.items() if name in _OF_PROMPT}
        prompt = self.image_prompt
        if prompt is not None:
            prompt = replace(prompt, **words)
        elif words:
            prompt = ImagePrompt(**words)
        prompts = () if prompt is None else (prompt,)
        call = {name: value for name, value in values.items() if name in _OF_CALL}
        is_off = prompt is not None and isinstance(prompt.scale, float) and prompt.scale == 0.0
        return Cell(
            place=place,
            image_prompt=prompt,
            arguments={**self.arguments, **call, "image_prompts": (*prompts, *self.others)},
            key=tuple(
                (axis.name, index)
                for axis, index in zip(self.axes, place, strict=True)
                if not is_off or axis.name in _STILL_THERE_AT_ZERO
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A cell with its picture.

    Attributes:
        cell: Which.
        image: The picture; the same object for cells that are the same request.
        info: Of the run that made it: `Result.info`.
        likeness: Cosine to the reference in the space of the adapter's image encoder; None where
            there is no reference or no encoder.
    """

    cell: Cell
    image: Image.Image = field(repr=False)
    info: Mapping[str, Any] = field(repr=False)
    likeness: float | None


def make_cells(
    pipe: Pipeline,
    sweep: Sweep,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: CancelSignal | None = None,
) -> Iterator[Made]:
    """Make the pictures of a sweep, cell after cell; each is an ordinary call of the pipeline.

    Everything is checked at once, before the first picture is asked for.

    Args:
        pipe: The model, with its adapters.
        sweep: What to make.
        on_progress: Called with the events of every call.
        cancel: Asked between steps whether to stop; what was yielded before stays the caller's.

    Raises:
        RequestError: A cell cannot be honoured; it says which.
        Cancelled: `cancel` was set.
    """
    if not isinstance(sweep, Sweep):
        raise RequestError("make_cells needs a Sweep", found=type(sweep).__name__)
    check_callback("on_progress", on_progress)
    cancel_question(cancel)
    cells = sweep.cells
    for cell in cells:
        off_first = {axis.name for axis, i in zip(sweep.axes, cell.place, strict=True) if i}
        if len(off_first) > 1 and off_first & _ALONE:
            continue  # nothing that other cells have not: pictures are prepared again for each
        try:
            pipe.stream(**cell.arguments)
        except RequestError as error:
            where = ", ".join(f"{name} {text}" for name, text in sweep.labels(cell).items())
            raise RequestError(
                f"cell of {where}: {error.what}", found=error.found, remedy=error.remedy
            ) from error
    return _made(pipe, cells, on_progress, cancel)


def _made(
    pipe: Pipeline,
    cells: Sequence[Cell],
    on_progress: Callable[[Progress], None] | None,
    cancel: CancelSignal | None,
) -> Iterator[Made]:
    made: dict[tuple[tuple[str, int], ...], tuple[Image.Image, Mapping[str, Any]]] = {}
    likeness = Likeness(pipe)
    for cell in cells:
        if cell.key not in made:
            result = pipe(**cell.arguments, on_progress=on_progress, cancel=cancel)
            made[cell.key] = result.images[0], result.info
        image, info = made[cell.key]
        yield Made(
            cell=cell, image=image, info=info, likeness=likeness.of(image, cell.image_prompt)
        )


def _entries(what: str, given: Any, kind: type = object) -> tuple[Any, ...]:
    """Read a list as a tuple. Raises RequestError if it is none, or an entry is of another kind."""
    if not isinstance(given, (list, tuple, range)) and not is_list(given):
        raise RequestError(f"{what} must be a list", found=type(given).__name__)
    for entry in given:
        if not isinstance(entry, kind):
            raise RequestError(f"{what} must be {kind.__name__} each", found=type(entry).__name__)
    return tuple(given)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _label(value: object, number: int) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if isinstance(value, (str, int, dict, list, tuple)) else f"{number}"
