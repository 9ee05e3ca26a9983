"""Whole runs, ours and diffusers', of one table of cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

import ipa
from oracle import models
from oracle.pipelines import diffusers_pipeline, run_diffusers

Pictures = list[Image.Image]
Key = TypeVar("Key")


@dataclass(frozen=True)
class Case:
    """One run: adapters with the indices of their pictures, and arguments."""

    model: str
    adapters: tuple[str, ...] = ()
    pictures: tuple[tuple[int, ...], ...] = ()
    scale: Any = None
    prompt: str = "a red star"
    arguments: dict[str, Any] = field(default_factory=dict)

    def images(self, references: Pictures) -> list[Pictures] | None:
        """diffusers' nested list; None without pictures."""
        return [[references[i] for i in group] for group in self.pictures] or None


def build(
    models_by_name: Mapping[str, models.Tiny], factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder of each model with its adapters; every one has weights of its own."""
    return {
        name: models.build_with_adapters(factory.mktemp(name), tiny, seed=seed)
        for seed, (name, tiny) in enumerate(models_by_name.items())
    }


def once(run: Callable[[Key], np.ndarray]) -> Callable[[Key], np.ndarray]:
    """What diffusers gives for a case by its key; each is run once for both backends."""
    known: dict[Key, np.ndarray] = {}

    def cached(name: Key) -> np.ndarray:
        if name not in known:
            known[name] = run(name)
        return known[name]

    return cached


def theirs(case: Case, folder: Path, references: Pictures, shared: Mapping[str, Any]) -> np.ndarray:
    """The final latents of diffusers' own pipeline; what is None there is left out."""
    arguments = {k: v for k, v in (shared | case.arguments).items() if v is not None}
    pipe = diffusers_pipeline(folder, [folder / f"{name}.safetensors" for name in case.adapters])
    return run_diffusers(
        pipe,
        case.prompt,
        images=case.images(references),
        scale=case.scale,
        **arguments,
    )


def ours(
    case: Case, pipe: ipa.Pipeline, references: Pictures, shared: Mapping[str, Any]
) -> np.ndarray:
    """The same of a pipeline with the case's adapters loaded."""
    if case.scale is not None:
        pipe.set_ip_adapter_scale(case.scale)
    arguments = {**shared, **case.arguments, "output_type": "latent"}
    return pipe(case.prompt, ip_adapter_image=case.images(references), **arguments).latents
