"""The sentence that a comparison comes down to."""

from __future__ import annotations

import html
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ipa.backend.stages import explain_phase, explain_stage
from ipa.parity.assertion import FirstDifferenceError
from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.measures import Difference
from ipa.parity.compare.verdict import kind_name, short
from ipa.parity.report.issue_text import issue_text
from ipa.parity.report.machine import json_report, junit
from ipa.parity.report.page.html import page
from parity.synthetic import SITE, comparison, measures, stage_names

BRANCH = f"step.000/unet.down_blocks.1.attentions.0.{SITE}.attn2.image.0"


def one(stage: str, error: float, limit: float, floor: float | None = None) -> Difference:
    return Difference(stage, (1, 2), measures(error), floor, limit, error > limit)


def of(*found: Difference, **other: object) -> Comparison:
    return comparison(differences=found, **other)


def test_they_part() -> None:
    found = of(one("start/latents", 1e-7, 2e-6), one(BRANCH, 0.312, 2e-6)).verdict
    assert found.sentence == (
        f"MLX float16 departs from torch float32 at {BRANCH} (image prompt 0's branch of "
        "cross-attention, in the UNet, at step 0): relative L2 0.31 of 2e-6 allowed; 1 of 2 stages "
        "is bad."
    )
    assert (found.ok, found.bad, found.compared) == (False, 1, 2)


NORM, GATE = "down_blocks.{}.attentions.0.norm", "mid_block.attentions.{}.{}.ff.net.0"


def test_kinds_of_bad_stages_are_counted() -> None:
    """A small departure that comes first hides nothing of what comes after."""
    early = [one(f"step.00{n}/unet.time_proj", 6e-6, 7e-7, 6e-8) for n in range(6)]
    gates = [
        one(f"step.00{step}/unet.{GATE.format(block, SITE)}", 1.3e-4, 7e-7, 6e-8 / (1 + step))
        for step in range(6)
        for block in range(9)
    ]
    norms = [one(f"step.000/unet.{NORM.format(n)}", 2e-6, 7e-7) for n in range(2)]
    found = of(*early, *gates, *norms, one("decode/image", 1e-8, 7e-7)).verdict
    assert [(kind.name, kind.count) for kind in found.kinds] == [
        ("unet.time_proj", 6),
        ("unet.….ff.net.0", 54),
        ("unet.….norm", 2),
    ]
    assert (found.first, found.worst) == (early[0], gates[0])
    assert found.kinds[1].worst is gates[0]
    assert found.sentence.endswith(
        "62 of 63 stages are bad, of 3 kinds: unet.time_proj ×6 (worst 100 × floor), "
        "unet.….ff.net.0 ×54 (worst 2,167 × floor), unet.….norm ×2 (worst 2.9 × limit)."
    )
    alone = of(*gates).verdict.sentence
    assert alone.endswith("all of the kind unet.….ff.net.0 ×54 (worst 2,167 × floor).")


def test_of_many_kinds_the_worst_are_named() -> None:
    found = [
        one(f"step.000/unet.{path}", (n + 2) * 1e-6, 1e-6)
        for n, path in enumerate(("conv_in", "time_proj", "conv_norm_out", "conv_out", "mid_block",
                                  "time_embedding"))
    ]  # fmt: skip
    said = of(*found).verdict.sentence
    assert "of 6 kinds: unet.conv_in ×1 (2 × limit), unet.conv_out ×1" in said
    assert said.endswith("unet.time_embedding ×1 (7 × limit) and 2 more.")


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (f"step.003/unet.up_blocks.2.attentions.1.{SITE}.attn2.image.1@2",
         "unet.….attn2.image"),
        ("step.003/unet.up_blocks.2.resnets.1", "unet.….resnets"),
        ("step.003/unet.mid_block", "unet.….mid_block"),
        ("step.003/unet.mid_block.resnets.0.conv1.input", "unet.….conv1.input"),
        ("text.positive/text_encoder.layers.11.mlp.fc2", "text_encoder.….mlp.fc2"),
        ("text.positive/text_encoder.layers.11", "text_encoder.….layers"),
        (f"condition/image.0.down_blocks.1.attentions.0.{SITE}.attn2.to_k", "image.….attn2.to_k"),
        ("image.2/projector.layers.3.ff.1.net.2", "projector.….ff.1.net.2"),
        ("step.000/latents", "latents"),
        ("block.3.out", "block.out"),
    ],
)  # fmt: skip
def test_kinds(stage: str, name: str) -> None:
    assert kind_name(stage) == name


def test_b_agrees_with_a() -> None:
    near, far = one("start/latents", 3e-3, 1, 4e-3), one("step.012/latents", 1.3e-3, 0.1, 1e-3)
    found = of(near, far).verdict
    assert found.worst is far  # the one that takes most of its limit
    assert found.sentence == (
        "MLX float16 agrees with torch float32: all 2 stages are within their limits, the worst, "
        "step.012/latents (the latents after the step, at step 12), at relative L2 0.0013 of 0.1 "
        "allowed, 1.3 × floor."
    )


def test_equal_is_said_only_of_whole_arrays() -> None:
    same = one("start/latents", 0.0, 1e-6)
    assert "number for number, in 1 stage." in of(same).verdict.sentence
    assert "number for number" not in of(replace(same, sketched=True)).verdict.sentence


def test_nothing_is_claimed_of_what_was_not_compared() -> None:
    nothing = of(only_a=("x/y",))
    assert nothing.verdict.sentence.startswith("Nothing was compared")
    assert not nothing.ok
    said = of(one("start/latents", 0.0, 1e-6), only_a=("x/y",), only_b=("x/z", "x/w")).verdict
    assert said.sentence.endswith("Not compared: 3 that only one run has.")


def test_nan_is_where_they_part_whatever_the_limit_says() -> None:
    fine, lost = one("start/latents", 1e-7, 2e-6), one(BRANCH, 0.0, 2e-6)
    lost = replace(lost, measures=measures(float("nan"), finite=False))
    found = of(fine, lost).verdict
    assert found.first is lost
    assert "at step 0): NaN or infinity; 1 of 2 stages is bad" in found.sentence


def test_every_report_reads_the_same_verdict() -> None:
    parted = comparison(bad_from=40)
    said = parted.verdict.sentence
    assert parted.verdict is parted.verdict  # computed once
    assert json_report(parted)["verdict"] == said
    assert said in html.unescape(page(parted)).replace("\n", " ")
    assert said in issue_text(parted)
    assert ElementTree.fromstring(junit(parted)).get("name") == said
    assert str(FirstDifferenceError(parted)).startswith(said)


def test_every_stage_is_explained() -> None:
    said = {name: explain_stage(name) for name in stage_names(1)}
    assert not [name for name, words in said.items() if "a part" in words or "a stage" in words]
    assert not [name for name in said if explain_phase(name).startswith("in ")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image.2/features.unconditional", "what the encoder says of the picture against it"),
        (f"condition/unet.mid_block.attentions.0.{SITE}.attn2.to_k",
         "the text's keys in cross-attention, in the UNet"),
        (f"condition/image.1.mid_block.attentions.0.{SITE}.attn2.to_v",
         "image prompt 1's values at one cross-attention"),
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
