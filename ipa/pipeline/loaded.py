"""A loaded model, and what is loaded beside it: its adapters, controls, LoRAs and words."""

from __future__ import annotations

import gc
import inspect
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ipa.backend.protocol import Backend
from ipa.backend.vae_memory import VaeMemory, check_vae_memory
from ipa.errors import PipelineClosed, RequestError, shown
from ipa.memory.budget import Budget, check_budget, parse_budget
from ipa.memory.limits import Limits, check_offers
from ipa.model.controlnet import ControlNetSpec
from ipa.model.t2i_adapter import T2IAdapterSpec
from ipa.prepare.text.prompts import open_tokenizers
from ipa.request.result import Progress
from ipa.watching import CancelSignal, cancel_question

from .adapters import Adapters
from .call_loras import lora_folder
from .calls.turns import Turns, Wait
from .controls import Controls
from .fingerprints import fingerprints
from .loras import Loras
from .memory.staging import release_over, told
from .snapshot import Snapshot
from .words import Inversions

_LOG = logging.getLogger("ipa.pipeline")


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a pipeline has until it is closed."""

    backend: Backend
    inversions: Inversions
    adapters: Adapters
    controls: Controls
    loras: Loras


class Loaded:
    """A model with its adapters, controls, LoRAs and words, in one thread's hands at a time.

    An adapter is an argument of the network and never changes it: with λ = 0, or after unloading,
    the base model's output is the same, bit for bit. What changes what is loaded is in `.changes`:
    each `load_` asks the hub where it is told to; what `revision` and `offline` mean there is in
    `ipa.sources.hub.HubOptions`.
    """

    def __init__(self, backend: Backend) -> None:
        words = Inversions(backend.model, open_tokenizers(backend.model))
        beside = (Adapters(backend), Controls(backend), Loras(backend, words))
        self._parts: _Parts | None = _Parts(backend, words, *beside)
        self._lora_folder: Path | None = None
        self._budget: Budget = None
        self._limits = Limits()
        self.turns = Turns()
        self.streams: WeakSet[Generator[Progress, None, None]] = WeakSet()

    @property
    def _open(self) -> _Parts:
        parts = self._parts
        if parts is None:
            raise PipelineClosed(
                "this pipeline was closed", remedy="load the model again: ipa.load(…)"
            )
        return parts

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._parts is None

    @property
    def backend(self) -> Backend:
        """The backend. Like all that is loaded, PipelineClosed once it is gone."""
        return self._open.backend

    @property
    def inversions(self) -> Inversions:
        """The learned words."""
        return self._open.inversions

    @property
    def adapters(self) -> Adapters:
        """The IP-Adapters."""
        return self._open.adapters

    @property
    def controls(self) -> Controls:
        """The ControlNets and T2I-Adapters."""
        return self._open.controls

    @property
    def loras(self) -> Loras:
        """The LoRAs."""
        return self._open.loras

    def close(self) -> None:
        """Forget the model and all that is loaded beside it, and give the memory back.

        What the framework kept of freed buffers goes back to the system, too. Every later call is
        `PipelineClosed`; closing again does nothing. A run of another thread is waited for, as long
        as `wait` says; a stream that this thread left in its middle is closed.

        Raises:
            PipelineBusy: Another thread goes on; nothing was closed.
        """
        if self.turns.is_mine:
            for events in list(self.streams):
                if inspect.getgeneratorstate(events) == inspect.GEN_SUSPENDED:
                    events.close()
        with self.turns.computing(self.turns.wait), self.turns.changing(self.turns.wait):
            if self.is_closed:
                return
            name, residency = self.backend.model.name, self.backend.residency
            residency.release([each for each, part in residency.parts().items() if part.is_here])
            self._parts = None
            gc.collect()  # networks and what acts in them know each other
            residency.clear()
        _LOG.info("closed %s", name)

    @property
    def vae_memory(self) -> VaeMemory:
        """See `Pipeline.vae_memory`."""
        return self.backend.vae_memory

    @vae_memory.setter
    def vae_memory(self, memory: VaeMemory) -> None:
        checked = check_vae_memory(memory, self.backend.model.vae)
        with self.changed():
            self.backend.vae_memory = checked

    @property
    def memory_budget(self) -> Budget:
        """See `Pipeline.memory_budget`."""
        return self._budget

    @memory_budget.setter
    def memory_budget(self, budget: Budget) -> None:
        checked = check_budget(budget)
        residency = self.backend.residency
        limit = parse_budget(checked, residency.machine())
        with self.changed():
            self._budget, self._limits = checked, replace(self._limits, budget=limit)
            self.backend.lazy = limit is not None
            if limit is not None:
                release_over(residency, limit)

    @property
    def memory_offers(self) -> tuple[str, ...]:
        """See `Pipeline.memory_offers`."""
        return self._limits.offers

    @memory_offers.setter
    def memory_offers(self, offers: Sequence[str]) -> None:
        checked = check_offers(offers)
        with self.unplanned():
            self._limits = replace(self._limits, offers=checked)

    @property
    def lora_folder(self) -> Path | None:
        """See `Pipeline.lora_folder`."""
        return self._lora_folder

    @lora_folder.setter
    def lora_folder(self, folder: str | Path | None) -> None:
        chosen = lora_folder(folder)
        with self.unplanned():
            self._lora_folder = chosen

    def release(self) -> None:
        """Give the memory of all weights back; what is loaded stays loaded.

        A later call reads its weights again from their files, the same bits. Waits for a run that
        is under way. A backend that keeps everything (torch) keeps them.
        """
        with self.changed():
            residency = self.backend.residency
            residency.release([name for name, part in residency.parts().items() if part.is_here])
        _LOG.info("released the weights of %s", self.backend.model.name)

    def in_words(self) -> str:
        """The model, the backend, and what is loaded beside it, in a line."""
        if self.is_closed:
            return "closed"
        counts: dict[str, Mapping[str, Any]] = {
            "adapters": self.adapters,
            "controls": self.controls,
            "LoRAs": self.loras,
        }
        beside = [f"{title} {', '.join(names)}" for title, names in counts.items() if names]
        return "; ".join([f"{self.backend.model.name} on {self.backend.name}", *beside])

    def info(self) -> dict[str, Any]:
        """What is loaded, JSON-able."""
        model, described = self.backend.model, self.backend.describe()
        return {
            "model": model.name,
            "vae": model.other_vae.name if model.other_vae else None,
            "sites": len(model.sites),
            "adapters": self.adapters.describe(),
            "controlnets": self.controls.describe(ControlNetSpec),
            "t2i_adapters": self.controls.describe(T2IAdapterSpec),
            "loras": self.loras.describe(),
            "textual_inversions": self.inversions.describe(),
            **described,
            "memory": {
                "budget_bytes": self._limits.budget,
                "offers": list(self._limits.offers),
                "here": [n for n, p in self.backend.residency.parts().items() if p.is_here],
            },
            "warnings": [*model.notes, *self._unread(), *described["warnings"]],
        }

    def _unread(self) -> Iterator[str]:
        """What the configs of things beside the model say and nobody knows."""
        for control in self.controls.values():
            yield from control.spec.unread
        for adapter in self.adapters.values():
            yield from adapter.loaded.unread

    def fingerprints(self, call: Mapping[str, Any] | None = None) -> dict[str, dict[str, str]]:
        """Hashes of all weights that are loaded, the same for a model and what was made of it.

        With a call's arguments also of LoRAs that its prompt names; see `.fingerprints`.
        """
        if call is not None and not isinstance(call, Mapping):
            raise RequestError(
                "call must be a dict of the arguments of a call",
                found=shown(call),
                remedy='write {"prompt": "a star"}, or leave it out',
            )
        return fingerprints(self.snapshot()[0], call or {})

    def snapshot(self, *wait: Wait) -> tuple[Snapshot, Backend]:
        """What is loaded now, and the backend that has it, whatever is changed from now on.

        `wait`: seconds to wait for a change that is under way; by default the pipeline's.
        """
        with self.unplanned(*wait):
            loaded = Snapshot(
                model=self.backend.model,
                tokenizers=self.inversions.tokenizers,
                adapters=self.adapters.frozen(),
                controlnets=self.controls.frozen(),
                loras=self.loras.frozen(),
                lora_folder=self._lora_folder,
                limits=self._limits,
                inversions=self.inversions.copy(),
            )
            return loaded, self.backend.frozen()

    @contextmanager
    def unplanned(self, *wait: Wait) -> Iterator[None]:
        """A context in which no run is planned; one that is under way is not disturbed."""
        with self.turns.changing(*(wait or (self.turns.wait,))):
            _ = self._open
            yield

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Change what is loaded: no run is under way, and none is planned from half of it."""
        with self.owned(), self.unplanned():
            yield

    @contextmanager
    def owned(self, *wait: Wait, cancel: CancelSignal | None = None) -> Iterator[None]:
        """Hold the backend for one run; other threads wait.

        Args:
            *wait: Seconds to wait; by default the pipeline's.
            cancel: Asked while waiting.
        """
        (seconds,) = wait or (self.turns.wait,)
        with self.turns.computing(seconds, None if cancel is None else cancel_question(cancel)):
            residency = self.backend.residency
            with told(residency.ran_out, lambda: ("", "")):
                yield

    @contextmanager
    def owned_for(self, *parts: str) -> Iterator[None]:
        """Hold the backend for work with some parts alone, for which a budget makes room."""
        with self.owned():
            if self._limits.budget is not None:
                release_over(self.backend.residency, self._limits.budget, parts)
            yield
