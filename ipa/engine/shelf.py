"""The shelf of an engine: the models that are loaded, each with what jobs needed beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ipa.errors import RequestError
from ipa.memory.budget import Budget
from ipa.pipeline.pipeline import Pipeline
from ipa.pipeline.snapshot import Selection
from ipa.request.result import Progress
from ipa.request.watched import watching

from .needs import KINDS, Needs, Part, load_model

_LOG = logging.getLogger("ipa.engine")

Tell = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model, and the parts beside it: by kind, then by the name that they have there."""

    pipeline: Pipeline
    parts: dict[str, dict[str, Part]] = field(default_factory=lambda: {name: {} for name in KINDS})


class Shelf:
    """The loaded models of an engine, the latest used last.

    Its owner thread's alone, but for what tells of it: that may be asked from any thread, so the
    table of models is replaced and never changed.

    Parts stay loaded until a job needs another one of their name, or memory is wanted: a job sees
    what it needs and nothing else (`Pipeline.showing`), so its pictures are those of a pipeline
    that has loaded these alone. With a budget only the model at hand has weights in memory.
    """

    def __init__(self, max_models: int, budget: Budget = None) -> None:
        self._max_models, self._budget = max_models, budget
        self._models: dict[tuple[str, str], Loaded] = {}

    @property
    def at_hand(self) -> tuple[str, str] | None:
        """The key of the model that was used last."""
        return next(reversed(self._models), None)

    def __len__(self) -> int:
        return len(self._models)

    def ready(
        self,
        needs: Needs,
        tell: Tell,
        should_stop: Callable[[], bool] = lambda: False,
        *,
        lazy: bool = False,
    ) -> Pipeline:
        """The pipeline that a job needs, loaded as far as it was not.

        Events say how many parts are loaded and, in between, how many bytes of them.

        A lazy one has a model that is not there yet read its weights when they are first used.

        Raises:
            Cancelled: It should stop; what is not loaded whole is not there.
            IpaError: Something cannot be loaded; what was there stays.
        """
        missing = self._missing(needs)
        if missing:
            tell(Progress(stage="load", step=0, total=missing, unit="parts"))
        with watching(tell, should_stop):
            loaded = self._model(needs, lazy=lazy)
            names = self._parts(loaded, needs)
        if missing:
            tell(Progress(stage="load", step=missing, total=missing, unit="parts"))
        for part, name in zip(needs.adapters, names["adapters"], strict=True):
            loaded.pipeline.set_ip_adapter_scale(part.scale, name)
        return loaded.pipeline.showing(
            Selection(
                adapters=names["adapters"],
                controlnets=names["controlnets"] + names["t2i_adapters"],
                loras=names["loras"],
                textual_inversions=names["textual_inversions"],
            )
        )

    def lora_scales(self, needs: Needs) -> dict[str, float]:
        """The scales of a job's LoRAs where its request gives them none."""
        beside = self._models[needs.key].parts["loras"]
        return {
            name: part.scale
            for part in needs.loras
            for name, loaded in beside.items()
            if part.is_same(loaded)
        }

    def clear(self) -> None:
        """Forget every model, and give its memory back."""
        gone, self._models = self._models, {}
        for loaded in gone.values():
            loaded.pipeline.close()

    def describe(self) -> list[dict[str, Any]]:
        """What is loaded, JSON-able, the latest used last."""
        return [
            {"model": key[0], **{kind: list(parts) for kind, parts in loaded.parts.items()}}
            for key, loaded in self._models.items()
        ]

    def _missing(self, needs: Needs) -> int:
        """How many things are to be loaded."""
        loaded = self._models.get(needs.key)
        if loaded is None:
            return 1 + sum(len(parts) for parts in needs.parts().values())
        return sum(
            _name_of(part, loaded.parts[kind]) is None
            for kind, parts in needs.parts().items()
            for part in parts
        )

    def release_others(self, needs: Needs) -> None:
        """Give the memory of all weights back but for those of a job's model; they stay loaded."""
        for key, other in self._models.items():
            if key != needs.key:
                other.pipeline.release()

    def _model(self, needs: Needs, *, lazy: bool = False) -> Loaded:
        if self._budget is not None:  # which is all the model's at hand
            self.release_others(needs)
        if needs.key in self._models:
            return self._last(needs.key, self._models[needs.key])
        while len(self._models) >= self._max_models:
            oldest, *others = self._models
            _LOG.info("unloading %s", oldest[0])
            gone = self._models[oldest]
            self._models = {key: self._models[key] for key in others}
            gone.pipeline.close()
        return self._last(needs.key, Loaded(load_model(needs, self._budget, lazy=lazy)))

    def _last(self, key: tuple[str, str], loaded: Loaded) -> Loaded:
        """Put a model behind all others."""
        others = {other: model for other, model in self._models.items() if other != key}
        self._models = {**others, key: loaded}
        return loaded

    def _parts(self, loaded: Loaded, needs: Needs) -> Mapping[str, list[str]]:
        """Load the parts that are missing; their names by kind."""
        names: dict[str, list[str]] = {}
        for kind, parts in needs.parts().items():
            names[kind] = [_placed(loaded, kind, part, parts) for part in parts]
            if len(set(names[kind])) < len(names[kind]):
                raise RequestError(
                    f"two of {kind} have one name",
                    found=", ".join(names[kind]),
                    remedy='name them apart: {"source": …, "name": …}',
                )
        return names


def _name_of(part: Part, beside: Mapping[str, Part]) -> str | None:
    """The name under which a part is loaded; None if it is not."""
    for name, other in beside.items():
        if part.is_same(other):
            return name
    return None


def _placed(loaded: Loaded, kind: str, part: Part, needed: Sequence[Part]) -> str:
    """Load a part if it is not there, in the place of another of its name; returns the name."""
    beside = loaded.parts[kind]
    name = _name_of(part, beside)
    if name is not None:
        return name
    _LOG.debug("loading %s", part.source)
    try:
        name = _load(loaded.pipeline, kind, part)
    except RequestError:
        spare = [key for key, other in beside.items() if not any(map(other.is_same, needed))]
        if not spare:
            raise
        for key in spare:  # one of them may have its name
            getattr(loaded.pipeline, f"unload_{KINDS[kind].verb}")(key)
            del beside[key]
        name = _load(loaded.pipeline, kind, part)
    beside[name] = part
    return name


def _load(pipeline: Pipeline, kind: str, part: Part) -> str:
    called = {} if part.name is None else {_NAMED.get(kind, "name"): part.name}
    scale = _SCALES.get(kind)
    scaled = {} if scale is None else {"scale": scale(part)}
    verb = getattr(pipeline, f"load_{KINDS[kind].verb}")
    return str(verb(part.source, **called, **scaled, **part.options))


# What the verbs call a name, where they do not call it a name.
_NAMED = {"textual_inversions": "token"}
# The scale with which a part is loaded. A LoRA's is each job's own, and rests until one asks.
_SCALES: Mapping[str, Callable[[Part], Any]] = {
    "adapters": lambda part: part.scale,
    "loras": lambda part: 0.0,
}
