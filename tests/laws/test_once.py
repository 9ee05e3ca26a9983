"""What does not change from step to step is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
from PIL import Image

import ipa
import ipa_mlx.adapters
import ipa_mlx.networks.attention
import ipa_mlx.networks.controlnet
import ipa_mlx.networks.t2i_adapter
import ipa_torch.adapters
from ipa import ImagePrompt
from oracle import controlled, models, t2i_adapters

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


EMBEDDINGS: dict[str, tuple[type, str]] = {
    "mlx": (ipa_mlx.networks.controlnet.ConditioningEmbedding, "__call__"),
    "torch": (diffusers.models.controlnets.controlnet.ControlNetConditioningEmbedding, "forward"),
}
SKETCHES: dict[str, tuple[type, str]] = {
    "mlx": (ipa_mlx.networks.t2i_adapter.T2IAdapter, "__call__"),
    "torch": (diffusers.T2IAdapter, "forward"),
}


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("guess", [False, True])
def test_pictures_of_several_seeds_share_what_is_not_theirs(
    images: int,
    guess: bool,
    backend: str,
    open_pipeline: Open,
    references: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Texts, image prompts, control pictures and the start, over three steps.

    A ControlNet embeds its picture once for one row, where diffusers does it for all, in each step.
    """
    models.build_with_adapters(tmp_path, models.Tiny(unet=t2i_adapters.UNET), seed=8)
    controlled.write_controlnet(tmp_path / "net", t2i_adapters.UNET, seed=3)
    t2i_adapters.write_t2i_adapter(tmp_path / "sketch", 9, **t2i_adapters.FULL)
    pipe = open_pipeline(tmp_path, backend, "linear")
    pipe.load_controlnet(tmp_path / "net")
    pipe.load_t2i_adapter(tmp_path / "sketch")
    owner = type(pipe._loaded.backend)
    calls = {
        name: count(monkeypatch, owner, name)
        for name in ("encode_text", "encode_images", "project", "condition", "encode")
    }
    calls |= {"embed": count(monkeypatch, *EMBEDDINGS[backend])}
    calls |= {"sketch": count(monkeypatch, *SKETCHES[backend])}
    edges = Image.fromarray(controlled.edges((32, 32), 1))
    pipe(
        "a star",
        image_prompts=ImagePrompt(references[0]),
        controls=[
            ipa.Control(edges, name="net", guess_mode=guess),
            ipa.Control(edges, name="sketch"),
        ],
        image=references[1],
        num_inference_steps=4,
        num_images=images,
        width=32,
        height=32,
    )
    found = {name: sum(seen.values()) for name, seen in calls.items()}
    assert found == dict.fromkeys(calls, 1) | {"encode_text": 2}
