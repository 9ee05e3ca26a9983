"""The sentence that a comparison comes down to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.parity.comparison import Comparison
from ipa.parity.difference import Difference
from ipa.parity.explanation import explain_phase, explain_stage
from ipa.parity.figures import short
from ipa.parity.verdict import parting, verdict, worst
from parity_lab.synthetic import SITE, TORCH, comparison, measures, stage_names

BRANCH = f"step.000/unet.down_blocks.1.attentions.0.{SITE}.attn2.image.0"


def one(stage: str, error: float, limit: float, floor: float | None = None) -> Difference:
    return Difference(stage, (1, 2), measures(error), floor, limit, error > limit)


def of(*found: Difference, **other: object) -> Comparison:
    return comparison(differences=found, **other)


def test_they_part() -> None:
    said = verdict(of(one("start/latents", 1e-7, 2e-6), one(BRANCH, 0.312, 2e-6)))
    assert said == (
        f"They part at step 0 in {BRANCH[9:]} (image prompt 0's branch of cross-attention, "
        "in the UNet): relative L2 0.31, limit 2e-6. Everything before agrees."
    )


def test_the_first_stage_has_nothing_before_it() -> None:
    said = verdict(of(one("start/latents", 0.1, 2e-6), one(BRANCH, 1e-7, 2e-6)))
    assert said.endswith("(the latents that the run starts from): relative L2 0.1, limit 2e-6. "
                         "It is the first stage of all.")  # fmt: skip


def test_b_follows_a_by_its_floor() -> None:
    near, far = one("start/latents", 3e-3, 1, 4e-3), one("step.012/latents", 1.3e-3, 1, 1e-3)
    assert worst(of(near, far)) is far
    assert verdict(of(near, far)) == (
        "MLX float16 follows torch float32 in 2 stages: at most 1.3 times what float16 itself "
        "loses; worst at step 12 in latents (the latents after the step)."
    )
    turned = of(near, far, a=replace(TORCH, dtype="bfloat16"), b=TORCH)
    assert "1.3 times what bfloat16 itself loses" in verdict(turned)


def test_without_a_floor_the_share_of_the_limit_counts() -> None:
    near, far = one("start/latents", 3e-3, 1.0), one("decode/image", 1e-3, 2e-3)
    assert worst(of(near, far)) is far
    assert "relative L2 at most 0.001, limit 0.002; worst while the picture" in verdict(
        of(near, far)
    )


def test_equal_is_said_only_of_whole_arrays() -> None:
    same = one("start/latents", 0.0, 1e-6)
    assert "number for number, in 1 stage." in verdict(of(same))
    assert "number for number" not in verdict(of(replace(same, sketched=True)))


def test_nothing_is_claimed_of_what_was_not_compared() -> None:
    assert verdict(of(only_a=("x/y",))).startswith("Nothing was compared")
    said = verdict(of(one("start/latents", 0.0, 1e-6), only_a=("x/y",), only_b=("x/z", "x/w")))
    assert said.endswith("Not compared: 3 stages that only one run has.")


def test_nan_is_where_they_part_whatever_the_limit_says() -> None:
    fine, lost = one("start/latents", 1e-7, 2e-6), one(BRANCH, 0.0, 2e-6)
    lost = replace(lost, measures=measures(float("nan"), finite=False))
    assert parting(of(fine, lost)) is lost
    assert "not every number of MLX float16 or torch float32 is finite there" in verdict(
        of(fine, lost)
    )


def test_every_stage_is_explained() -> None:
    said = {name: explain_stage(name) for name in stage_names(1)}
    assert not [name for name, words in said.items() if "a part" in words or "a stage" in words]
    assert not [name for name in said if explain_phase(name).startswith("in ")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image.2/features.unconditional", "what the encoder says of the picture against it"),
        ("condition/text.keys.down_blocks.1.x", "the text's keys at one cross-attention"),
        (f"condition/image.1.mid_block.{SITE}.attn2.to_v", "image prompt 1's values at one cross-"
         "attention"),
        ("decode/vae.decoder.mid_block.attentions.0.to_q", "self-attention's queries, in the VAE's "
         "decoder"),
        ("image.0/image_encoder.layers.3.mlp.fc1@2", "the feed-forward's first projection, in the "
         "image encoder (run 2 in its phase)"),
        ("step.000/unet.nobody.knows", "a part, in the UNet"),
        ("nobody", "a stage of the run"),
    ],
)  # fmt: skip
def test_explanations(name: str, words: str) -> None:
    assert explain_stage(name) == words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.3123, "0.31"), (2e-6, "2e-6"), (1.25e12, "1.2e12"), (float("inf"), "inf"), (0.0, "0"),
     (12.0, "12"),
        (287.6, "288"), (1e-10, "1e-10"), (float("nan"), "nan")],
)  # fmt: skip
def test_figures(value: float, text: str) -> None:
    assert short(value) == text
