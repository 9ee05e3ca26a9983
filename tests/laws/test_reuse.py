"""What must hold of deep-feature reuse on every backend; trajectories are held to DeepCache's."""

from __future__ import annotations

import re
from contextlib import nullcontext
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ipa
from ipa import Cancelled, ImagePrompt, RequestError
from oracle import controlled, models
from oracle.measure import relative

CALL: dict[str, Any] = {
    "num_inference_steps": 4,
    "guidance_scale": 3.0,
    "width": 32,
    "height": 32,
    "seed": 4,
    "output_type": "latent",
}
REUSE: dict[str, Any] = {"cache_interval": 2, "cache_branch": 1}
EDGES = Image.fromarray(controlled.edges((32, 32), 1))


class Names(list[str]):
    """A tap: the stages of a run."""

    def wants(self, stage: str) -> bool:
        return True

    def __call__(self, stage: str, array: np.ndarray) -> None:
        self.append(stage)

    def at(self, step: int) -> set[str]:
        head = f"step.{step:03d}/"
        return {name.removeprefix(head) for name in self if name.startswith(head)}


@pytest.fixture(scope="module")
def opened(tiny: Path, open_pipeline: Any) -> dict[str, ipa.Pipeline]:
    return {name: open_pipeline(tiny, name, "linear", "plus") for name in ("mlx", "torch")}


@pytest.fixture
def pipe(backend: str, opened: dict[str, ipa.Pipeline]) -> ipa.Pipeline:
    return opened[backend]


def test_off_is_as_before(
    pipe: ipa.Pipeline, references: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, and no state is made; nor where no step is left to reuse anything."""
    prompt = ImagePrompt(references[0], adapter="linear", scale=0.7)
    plain = pipe("a star", image_prompts=prompt, **CALL)
    reused = pipe("a star", image_prompts=prompt, **REUSE, **CALL)
    assert not np.allclose(reused.latents, plain.latents, atol=1e-3)
    assert "reused_steps" not in plain.info
    monkeypatch.delattr("ipa.pipeline.plan.DeepPart")
    off = pipe("a star", image_prompts=prompt, cache_interval=1, cache_branch=3, **CALL)
    assert np.array_equal(off.latents, plain.latents)
    assert "cache_branch has no effect" in " ".join(off.info["warnings"])
    single = pipe("a star", cache_interval=9, **(CALL | {"num_inference_steps": 1}))
    assert single.info["reused_steps"] == 0
    assert "cache_interval has no effect" in " ".join(single.info["warnings"])
    with pytest.raises(NameError):
        pipe("a star", **REUSE, **CALL)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({}, 2),
        ({"cache_interval": 3}, 2),
        ({"cache_interval": 9}, 3),
        ({"scheduler": "heun"}, 3),  # of 7 evaluations
        ({"guidance_start": 0.25}, 1),  # step 1 is guided and full: step 0 was neither
        ({"guidance_end": 0.5}, 2),
        ({"guidance_start": 0.25, "guidance_scale": 1.0}, 2),
    ],
)
def test_a_run_says_how_many_steps_reused(
    pipe: ipa.Pipeline, arguments: dict[str, Any], count: int
) -> None:
    call = CALL | REUSE | arguments
    found, again = pipe("a star", **call), pipe("a star", **call)
    assert found.info["reused_steps"] == count
    assert found.info["request"]["cache_interval"] == call["cache_interval"]
    assert found.info["request"]["cache_branch"] == 1
    assert np.array_equal(found.latents, again.latents)


def test_two_runs_do_not_mix(
    pipe: ipa.Pipeline, references: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step in turn, were they let; nor does one that was cancelled leave anything."""
    calls: list[dict[str, Any]] = [
        {
            "image_prompts": ImagePrompt(references[0], adapter="linear"),
            "cache_interval": 3,
            **CALL,
        },
        {"guidance_scale": 1.0, **REUSE, **{k: v for k, v in CALL.items() if k[0] != "g"}},
    ]
    alone = [pipe("a star", **call).latents for call in calls]
    asked = iter([False] * 3 + [True] * 9)
    with pytest.raises(Cancelled):
        pipe("a circle", cancel=lambda: next(asked), **(calls[0] | {"cache_interval": 9}))
    monkeypatch.setattr("ipa.pipeline.loaded.Loaded.owned", lambda self, *_, **__: nullcontext())
    runs = zip_longest(*(pipe.stream("a star", **call) for call in calls))
    last = [event for pair in runs for event in pair if event is not None and event.result]
    found = {event.result.info["request"]["cache_interval"]: event.result for event in last}
    assert np.array_equal(found[3].latents, alone[0])
    assert np.array_equal(found[2].latents, alone[1])


def test_weights_of_a_reused_step_act_in_its_layers(
    pipe: ipa.Pipeline, references: list[Image.Image]
) -> None:
    """Of a step that reuses: branch 2 computes the first block down and the last one up."""
    call = CALL | {"cache_interval": 4, "cache_branch": 2}
    without = pipe("a star", **call).latents
    for layers, acts in (({"mid": 1.0}, False), ({"down": 1.0}, True), ({"up": 1.0}, True)):
        late = ImagePrompt(references[0], adapter="linear", scale=layers, start=0.25)
        found = pipe("a star", image_prompts=late, **call).latents
        assert np.array_equal(found, without) is not acts, layers
    early = ImagePrompt(references[0], adapter="linear", scale={"mid": 1.0}, end=0.25)
    assert relative(pipe("a star", image_prompts=early, **call).latents, without) > 1e-3


def test_both_backends_are_one(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image]
) -> None:
    """Masks, curves, two adapters, an interval of guidance and two pictures, at every branch."""
    prompts = [
        ImagePrompt(references[0], adapter="linear", mask=np.tri(32), curve="fade_out"),
        ImagePrompt(references[1], adapter="plus", scale=0.5, start=0.25, end=0.8),
    ]
    for branch in (0, 3, 4, 7):
        own = {"cache_interval": 3, "cache_branch": branch, "guidance_end": 0.6, "num_images": 2}
        call = CALL | own | {"num_inference_steps": 5}
        a, b = (
            opened[name]("a star", image_prompts=prompts, **call).latents
            for name in ("mlx", "torch")
        )
        assert relative(a, b) < 1e-5, branch


def test_influence_of_what_is_not_computed_is_that_of_the_last_full_step(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image]
) -> None:
    prompt = ImagePrompt(references[0], adapter="linear", scale=0.7)
    kept = []
    for pipe in opened.values():
        plain = pipe("a star", image_prompts=prompt, **REUSE, **CALL)
        found = pipe("a star", image_prompts=prompt, influence=True, **REUSE, **CALL)
        assert np.array_equal(plain.latents, found.latents)
        assert found.influence is not None and found.influence.steps == 4
        kept.append(found.influence)
        for site, shares in zip(found.influence.sites, found.influence.shares, strict=True):
            # Branch 1 computes the first layer down and the last two up.
            is_first = site.path.startswith("down_blocks.0.attentions.0")
            is_last = re.match(r"up_blocks\.2\.attentions\.[12]", site.path) is not None
            for full, reused in ((0, 1), (2, 3)):
                is_same = np.array_equal(shares[full], shares[reused])
                assert is_same is not (is_first or is_last), site.path
            assert not np.array_equal(shares[0], shares[2])
    for a, b in zip(kept[0].shares, kept[1].shares, strict=True):
        assert np.abs(a.astype(np.float64) - b).max() < 5e-4  # float16, as in `test_influence`


def test_a_reused_step_reports_what_it_computes(
    opened: dict[str, ipa.Pipeline], references: list[Image.Image]
) -> None:
    """Of branch 4: the first block whole, of the second one layer; and the same stages on both."""
    prompt = ImagePrompt(references[0], adapter="linear", scale=0.7)
    call = CALL | {"cache_interval": 2, "cache_branch": 4, "num_inference_steps": 2}
    seen = {name: Names() for name in opened}
    for name, pipe in opened.items():
        watched = pipe("a star", image_prompts=prompt, tap=seen[name], **call)
        unwatched = pipe("a star", image_prompts=prompt, **call)
        assert np.array_equal(watched.latents, unwatched.latents)
    for step in range(2):
        only = seen["mlx"].at(step) ^ seen["torch"].at(step)
        whole = Names(name for name in seen["torch"] if name.startswith("step.000"))
        assert only <= {n for n in whole.at(0) if n not in seen["mlx"].at(0)}, step
    full, reused = seen["mlx"].at(0), seen["mlx"].at(1)
    assert reused < full
    gone = {name for name in full - reused if re.fullmatch(r"unet\.\w+_blocks?(\.\d)?", name)}
    blocks = ("down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.1")
    assert gone == {f"unet.{name}" for name in blocks}
    assert {"unet.down_blocks.1.resnets.0", "unet.up_blocks.1.resnets.2"} <= reused
    assert not {"unet.down_blocks.1.resnets.1", "unet.up_blocks.1.resnets.0"} & reused


def test_a_controlnet_runs_as_far_as_its_residuals_are_used(
    backend: str, tiny: Path, open_pipeline: Any, tmp_path: Path
) -> None:
    controlled.write_controlnet(tmp_path / "net", models.UNET, seed=3)
    pipe = open_pipeline(tiny, backend)
    pipe.load_controlnet(tmp_path / "net")
    call = CALL | {"num_inference_steps": 2, "cache_interval": 2}
    parts = {}
    for name, weights, branch in (
        ("all", (1.0,) * 10, 1),
        ("none of the first", (0.0, 0.0, *(1.0,) * 8), 1),
        ("first", (1.0,) * 10, 0),
    ):
        seen, control = Names(), ipa.Control(EDGES, name="net", scale=weights)
        pipe("a star", controls=control, tap=seen, **call, cache_branch=branch)
        assert "controlnet.net.mid_block" in seen.at(0)
        parts[name] = {n for n in seen.at(1) if n.startswith("controlnet.net.")}
    assert parts["none of the first"] == set()
    assert parts["first"] < parts["all"]
    assert "controlnet.net.down_blocks.0.resnets.0" in parts["all"] - parts["first"]
    assert not {n for n in parts["all"] if ".resnets.1" in n or "mid_block" in n}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"cache_interval": 0}, "cache_interval must be an integer from 1"),
        ({"cache_interval": 1.5}, "cache_interval must be an integer"),
        ({"cache_interval": True}, "cache_interval must be an integer"),
        ({"cache_branch": -1}, "cache_branch must be an integer from 0"),
        ({"cache_interval": 2, "cache_branch": 9}, "cache_branch must be from 0 to 8"),
    ],
)
def test_what_does_not_fit_is_refused(
    pipe: ipa.Pipeline, arguments: dict[str, Any], match: str
) -> None:
    with pytest.raises(RequestError, match=match):
        pipe("a star", **(CALL | arguments))
