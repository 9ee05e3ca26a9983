"""What does not change from step to step is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ipa
import ipa_mlx.adapters
import ipa_mlx.networks.attention
import ipa_torch.adapters
from ipa import ImagePrompt

Open = Callable[..., ipa.Pipeline]


def count(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> Counter[str]:
    """How often a method is called."""
    seen, method = Counter[str](), getattr(owner, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        seen[name] += 1
        return method(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)
    return seen


@pytest.mark.parametrize("steps", [1, 3])
def test_keys_and_values_are_made_once_a_generation(
    steps: int,
    tiny: Path,
    backend: str,
    open_pipeline: Open,
    references: list,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of pictures on both backends; of the text on MLX (diffusers' modules make them anew)."""
    pipe = open_pipeline(tiny, backend, "linear", "plus")
    package: Any = {"mlx": ipa_mlx, "torch": ipa_torch}[backend]
    images = count(monkeypatch, package.adapters.ImageAdapter, "keys_values")
    tokens = count(monkeypatch, package.adapters.ImageAdapter, "tokens")
    text = count(monkeypatch, ipa_mlx.networks.attention.CrossAttention, "keys_values")
    prompts = [ImagePrompt(references[n], adapter=a) for n, a in enumerate(("linear", "plus"))]
    pipe("a star", image_prompts=prompts, num_inference_steps=steps, width=32, height=32)
    assert images["keys_values"] == tokens["tokens"] == 2
    assert text["keys_values"] == (pipe.info()["sites"] if backend == "mlx" else 0)
