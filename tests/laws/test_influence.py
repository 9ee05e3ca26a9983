"""Influence on both backends: held to its definition at one site, then laws of whole runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch

import ipa_mlx.conditioning
import ipa_mlx.influence
import ipa_torch.influence
import ipa_torch.networks.context
from ipa import ImagePrompt, Pipeline, RequestError
from ipa.backend.protocol import Branch, ImageTokens
from ipa.backend.text import TextStates
from oracle.influence import SiteWeights, Source, shares
from oracle.sealed import once

Open = Callable[..., Pipeline]
CALL: dict[str, Any] = {
    "num_inference_steps": 2,
    "guidance_scale": 3.0,
    "width": 96,
    "height": 64,
    "output_type": "latent",
    "seed": 5,
}
# Largest difference of a share in float32 to the oracle: measured 1.1e-7, and of a sum to 1 1.8e-7.
ROUNDING = 5e-7
STORED = 2.5e-4  # of float16 in [0, 1], in which an Influence is kept
LEFT = np.tile(np.arange(96) < 48, (64, 1))


@pytest.fixture(scope="module")
def opened(open_pipeline: Open) -> Open:
    """Pipelines with two adapters, each loaded once; no test changes them."""
    return once(lambda *which: open_pipeline(*which, "linear", "plus"))


@pytest.fixture(scope="module")
def pipe(tiny: Path, backend: str, opened: Open) -> Pipeline:
    return opened(tiny, backend)


def run(pipe: Pipeline, *prompts: ImagePrompt, **changes: Any) -> Any:
    return pipe("a star", image_prompts=prompts, **(CALL | {"influence": True} | changes))


def prompt(image: Any, adapter: str = "linear", **options: Any) -> ImagePrompt:
    return ImagePrompt(image, adapter=adapter, **options)


class Site:
    """One cross-attention of a backend, given random input."""

    rank, count, length = 2, 2, 24

    def __init__(self, runtime: Any, seed: int = 3) -> None:
        self.runtime, self.site = runtime, runtime.model.sites[self.rank]
        draw, width = np.random.default_rng(seed).standard_normal, runtime.model.unet.context_width
        self.x = draw((2 * self.count, self.length, self.site.width), np.float32)
        self.text = draw((2, 77, width), np.float32)
        self.tokens = {n: draw((2, 1, t, width), np.float32) for n, t in TOKENS.items()}
        self.array = mx.array if runtime.name == "mlx" else torch.from_numpy

    def branch(self, adapter: str, mask: Any = None, pictures: int = 1) -> Branch:
        tokens = ImageTokens(*(self.array(rows) for rows in self.tokens[adapter]))
        masks = None if mask is None else [mask] * len(self.runtime.model.sites)
        return Branch(adapter, tokens, masks, pictures)

    def measure(self, branches: Sequence[Branch], scales: Sequence[float]) -> np.ndarray:
        """(1 + P, N, L) of the backend."""
        text = [TextStates(self.array(row[None])) for row in self.text]
        held = self.runtime.condition(text, branches, guided=True)
        table = [[scale] * len(self.runtime.model.sites) for scale in scales]
        if self.runtime.name == "mlx":
            own = ipa_mlx.influence.Recorder(held.pictures)
            context = held.context(table, own)
            out = self.runtime.unet.cross_attentions[self.rank](mx.array(self.x), context)
            return own.read(out, self.count)[self.rank]
        recorder, held = ipa_torch.influence.Recorder(held.pictures, self.count), held.repeated(2)
        context = ipa_torch.networks.context.Context(held.images, table, recorder=recorder)
        with torch.inference_mode():
            x = torch.from_numpy(self.x)
            self.runtime.attentions[self.rank](x, held.text, ip_hidden_states=context)
        return recorder.read()[self.rank]

    def expected(
        self, folder: Path, branches: Sequence[Branch], scales: Sequence[float]
    ) -> np.ndarray:
        """The same by definition: the conditional half alone."""
        known = SiteWeights.read(folder, self.site.path, self.site.number, list(TOKENS))
        heads = self.runtime.model.unet.heads
        sources = [Source(self.text[1], known.to_k, known.to_v)]
        for branch, scale in zip(branches, scales, strict=True):
            tokens = self.tokens[branch.adapter][0, 0]
            mask = None if branch.masks is None else branch.masks[self.rank]
            given = (*known.images[branch.adapter], scale, mask, branch.pictures)
            sources.append(Source(tokens, *given))
        level = self.runtime.model.unet.channels.index(self.site.width)
        found = [shares(x, known.to_q, sources, heads[level]) for x in self.x[self.count :]]
        return np.stack(found, axis=1)


TOKENS = {"linear": 8, "plus": 18}  # of two pictures, and of three


@pytest.fixture
def site(pipe: Pipeline) -> Site:
    return Site(pipe._loaded.backend)


def test_one_site_is_the_definition(site: Site, tiny: Path) -> None:
    """Joint softmax, soft and negative weights, masks, one prompt off; no more than rounding."""
    ramp = np.linspace(-0.05, 1.1, site.length, dtype=np.float32)
    branches = [site.branch("linear", pictures=2), site.branch("plus", ramp, 3)]
    for scales in ([1.0, 1.0], [-0.4, 0.7], [0.0, 30.0]):
        found = site.measure(branches, scales)
        expected = site.expected(tiny, branches, scales)
        assert np.abs(found - expected).max() < ROUNDING
        assert np.abs(found.sum(axis=0) - 1.0).max() < ROUNDING
        assert expected[3:].min() < 0.02 and expected[3:].std() > 0.01  # the case says something
    assert (found[1:3] == 0.0).all()


def test_outside_a_mask_nothing_is_its_own(site: Site) -> None:
    """Exactly 0; and of a mask of zeros everywhere, of λ = 0 too."""
    half = (np.arange(site.length) < 10).astype(np.float32)
    found = site.measure([site.branch("linear", half, 2), site.branch("plus")], [1.0, 0.0])
    assert (found[1:3, :, 10:] == 0.0).all() and (found[1:3, :, :10] > 0.0).all()
    assert (found[3:] == 0.0).all() and (found[0, :, 10:] == 1.0).all()


def test_parts_of_pictures_add_up_to_the_branch(pipe: Pipeline) -> None:
    """Values by picture, in both frameworks' own attention."""
    draw = np.random.default_rng(2).standard_normal
    q, k, v = (draw((1, 3, n, 8), np.float32) for n in (24, 12, 12))
    if pipe.info()["backend"] == "mlx":
        module, q, k, v = ipa_mlx.influence, *map(mx.array, (q, k, v))
    else:
        module, q, k, v = ipa_torch.influence, *map(torch.from_numpy, (q, k, v))
    each = [np.array(module.attend(q, k, part)) for part in module.values_by_picture(v, 3)]
    assert np.abs(sum(each) - np.array(module.attend(q, k, v))).max() < 1e-6  # measured 2.4e-7
    assert min(np.abs(part).max() for part in each) > 0.1


@pytest.mark.parametrize("model", ["tiny", "tiny_xl"])
def test_measuring_changes_no_bit(
    model: str,
    backend: str,
    opened: Open,
    references: list,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And where nobody asks, no recorder is even made."""
    pipe = opened(request.getfixturevalue(model), backend)
    cases: list[tuple[list[ImagePrompt], dict[str, Any]]] = [
        ([prompt(references[:2], mask=LEFT), prompt(references[2], "plus")], {"num_images": 2}),
        ([prompt(references[:2], mask=[LEFT, None])], {"guidance_scale": 1.0}),
        ([], {}),
    ]
    with_it = [run(pipe, *prompts, **changes) for prompts, changes in cases]
    monkeypatch.delattr(f"ipa_{backend}.prediction.Recorder")
    for (prompts, changes), measured in zip(cases, with_it, strict=True):
        plain = run(pipe, *prompts, influence=False, **changes)
        assert plain.influence is None and "influence" not in plain.info
        assert np.array_equal(plain.latents, measured.latents)
        for found in measured.influence.shares:
            assert ((found >= 0) & (found <= 1)).all()
    with pytest.raises(NameError):
        run(pipe)


def test_both_backends_measure_the_same(
    tiny: Path, tiny_xl: Path, opened: Open, references: list
) -> None:
    for folder in (tiny, tiny_xl):
        prompts = [prompt(references[:2], mask=LEFT), prompt(references[2], "plus", scale=0.4)]
        one, other = (
            run(opened(folder, name), *prompts, num_images=2).influence for name in ("mlx", "torch")
        )
        assert one.pictures == other.pictures == (2, 1)
        for a, b in zip(one.shares, other.shares, strict=True):
            assert a.shape == b.shape
            # One last place of float16: measured 2.4e-4.
            assert np.abs(a.astype(np.float64) - b).max() < 2 * STORED


def test_masks_weights_and_windows_are_seen(pipe: Pipeline, references: list) -> None:
    """Each in its place, to exact zeros: half of the picture, a step, a section, a prompt."""
    found = run(
        pipe,
        prompt(references[0], mask=LEFT),
        prompt(references[1], "plus", scale={"up": 1.0}, start=0.3, end=0.7),
        prompt(references[2], scale=0.0),
        num_inference_steps=3,
    ).influence
    assert found.pictures == (1, 1, 1) and (found.steps, found.images) == (3, 1)
    fine = [1]  # its grid is the latents'
    masked = found.map(0, sites=fine)
    assert masked.shape == found.size == (8, 12)
    assert (masked[:, 7:] == 0.0).all() and masked[:, :5].min() > 0.05
    assert not found.map(1, steps=[0, 2]).any() and not found.map(1, sites="down").any()
    assert found.map(1, steps=[1], sites="up").min() > 0.05
    assert not found.map(2).any()
    whole = found.text() + found.map(0) + found.map(1) + found.map(2)
    assert np.abs(whole - 1.0).max() < 1e-6


def test_the_same_picture_twice_shares_evenly(pipe: Pipeline, references: list) -> None:
    once = run(pipe, prompt(references[0])).influence
    twice = run(pipe, prompt([references[0]] * 2)).influence
    assert np.abs(twice.map(0) - once.map(0)).max() < STORED
    assert np.abs(twice.map(0, 0) - twice.map(0, 1)).max() < STORED
    assert np.abs(twice.map(0) - twice.map(0, 0) - twice.map(0, 1)).max() < 1e-6


def test_pictures_with_masks_of_their_own_are_of_one_prompt(
    pipe: Pipeline, references: list
) -> None:
    """As if they were prompts of their own; embeds count by rows, combined pictures as one."""
    halves = prompt(references[:2], mask=[LEFT, ~LEFT], scale=[1.0, 0.5])
    mean = prompt(references[:2], combine="average")
    embeds = prompt(pipe.encode_image_prompt(references[:3], adapter="plus"), "plus")
    joint = run(pipe, halves, mean, embeds).influence
    assert joint.pictures == (2, 1, 3)
    single = [
        prompt(image, mask=mask, scale=scale)
        for image, mask, scale in zip(references[:2], (LEFT, ~LEFT), (1.0, 0.5), strict=True)
    ]
    apart = run(pipe, *single, mean, embeds).influence
    assert all(np.array_equal(a, b) for a, b in zip(joint.shares, apart.shares, strict=True))
    assert np.array_equal(joint.map(0, 1), apart.map(1))
    assert np.array_equal(joint.map(2, 2), apart.map(3, 2))
    assert joint.mean(0) == pytest.approx(apart.mean(0) + apart.mean(1), abs=1e-6)


def test_batch_is_single_runs_and_only_the_conditional_half_counts(
    pipe: Pipeline, references: list
) -> None:
    batch = run(pipe, prompt(references[:2]), num_images=2, negative_prompt="blue").influence
    for number in range(2):
        alone = run(pipe, prompt(references[:2]), seed=5 + number, guidance_scale=1.0).influence
        first = batch.map(0, 1, image=number, steps=[0])
        assert np.abs(first - alone.map(0, 1, steps=[0])).max() < STORED
    assert np.abs(batch.map(0, image=0) - batch.map(0, image=1)).max() > 0.01


def test_described_for_machines(pipe: Pipeline, references: list) -> None:
    result = run(pipe, prompt(references[:2]), prompt(references[2], "plus"), num_images=2)
    described = json.loads(json.dumps(result.info))["influence"]
    assert len(described) == 2
    for image, own in enumerate(described):
        first, second = own["image_prompts"]
        assert first["share"] == pytest.approx(result.influence.mean(0, image=image), abs=1e-5)
        assert sum(first["pictures"]) == pytest.approx(first["share"], abs=3e-5)
        assert own["text"] + first["share"] + second["share"] == pytest.approx(1.0, abs=3e-5)


def test_bad_input(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="True or False"):
        run(pipe, influence="yes")


def test_mlx_evaluates_once_more_a_step(
    tiny: Path, opened: Open, references: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once a site: the shares of all sites are one graph with the UNet's output."""
    pipe, evaluate, calls = opened(tiny, "mlx"), mx.eval, []
    monkeypatch.setattr(mx, "eval", lambda *arrays: (calls.append(len(arrays)), evaluate(*arrays)))
    run(pipe, prompt(references[0]), influence=False)
    plain, calls[:] = len(calls), []
    run(pipe, prompt(references[0]))
    assert len(calls) == plain + CALL["num_inference_steps"]
