"""What to look at next, by where two runs part and by how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from ipa.parity.compare.comparison import Comparison
from ipa.parity.compare.measures import Difference, Measures
from ipa.parity.compare.verdict import MOST_KINDS, Verdict, short

# By the name of the stage, the more particular first: what goes wrong there.
_USUAL = (
    (
        r"start/latents",
        "The two did not start alike: compare the seed, the sampler's first noise level and the "
        "picture to start from in the request.",
    ),
    (
        r"/pixels",
        "Compare how the reference picture is resized (bicubic, with antialiasing), cropped and "
        "normalised.",
    ),
    (r"\.mask$", "Compare the rule by which the mask is resized to the site, and its threshold."),
    (
        r"(attn2\.image\.\d+|condition/image\..*)$",
        "Compare this site's image keys and values: exchanged with each other or with another "
        "site's of the same shape, kept from before a change, or of another adapter. Then the "
        "scale, the mask and the attention's own scale where heads are padded.",
    ),
    (
        r"unconditional(@\d+)?$",
        "Compare what stands against the picture: zeros, a black picture or a grey one.",
    ),
    (
        r"(tokens\.conditional|projector\.)",
        "Compare the projector's weights: square matrices transposed, norms before or after.",
    ),
    (
        r"features\.conditional",
        "Compare which layer's states are taken: the last or the one before.",
    ),
    (r"(states|pooled)$", "Compare which layer of the text encoder is taken, and the last norm."),
    (r"(activation_fn|net\.0|\.input)(@\d+)?$", "Compare the activation: gelu, quick gelu, SiLU."),
    (
        r"time_(proj|embedding)",
        "Compare the timestep itself, by one step too, and sine with cosine.",
    ),
    (r"norm", "Compare the norm's epsilon, its number of groups and what it is computed over."),
    (r"(to_[qkv]|[qkv]_proj|attended|attn)", "Compare the attention's scale, heads and masks."),
    (
        r"/guided",
        "Compare the guidance scale, and which half of the batch is the unconditional one.",
    ),
    (
        r"/(denoised|latents)",
        "Compare the sampler's row for this step: its coefficients, its timestep, its noise.",
    ),
    (r"vae\.decoder\.conv_in\.input", "Compare the VAE's scale and shift factors."),
    (r"(conv|proj|linear|samplers)", "Compare the layer's weight, its bias, padding and stride."),
)

_FACTOR, _ALIKE, _UNLIKE = 1e-3, 0.999, 0.2
_FEW = 1e-3
"""The ratio of median to largest error below which few numbers make the error."""


def advice(comparison: Comparison) -> tuple[str, ...]:
    """Advice in sentences: what the numbers say of the fault, what is usual there, what to run.

    Where nothing is bad, what that does and does not show.
    """
    of = comparison.verdict
    if of.first is None:
        return tuple(_of_a_good_run(comparison))
    return tuple(_of_a_bad_run(comparison, of, of.first))


def _of_a_good_run(comparison: Comparison) -> Iterator[str]:
    far = comparison.verdict.worst
    if far is None:
        yield "Choose stages that both runs have."
        return
    if far.ratio is not None:
        yield "Near 1 × floor, the two differ by no more than their precision makes them."
    elif far.measures.relative_l2:
        yield (
            "No noise floor was measured, so the limits are fixed ones: a run of either side in "
            "its lower precision would tell what rounding alone makes."
        )
    yield "No stage is beyond its limit: there is nothing to look for."
    if comparison.only_a or comparison.only_b:
        yield "Stages that only one run has prove nothing: they are listed at the end."


def _of_a_bad_run(comparison: Comparison, of: Verdict, first: Difference) -> Iterator[str]:
    yield from _by_numbers(first.measures)
    yield from _usual(first)
    total = of.bad
    if comparison.mode == "teacher-forced":
        for kind in of.kinds[1:MOST_KINDS]:
            what = " ".join(_usual(kind.worst))
            yield f"Also {kind.name}, {kind.count:,} of them: {what}".strip()
    if comparison.mode == "teacher-forced":
        yield (
            f"Every stage was given the input of {comparison.a.name}, so each of the {total:,} bad "
            "stages has an error of its own."
        )
    elif total > 1:
        yield (
            f"{total:,} stages are beyond their limits; those after the first may only have "
            "inherited it. With teacher forcing each error stays where it is made."
        )


def _usual(one: Difference) -> Iterator[str]:
    found = (what for pattern, what in _USUAL if re.search(pattern, one.stage))
    yield from islice(found, 1)


def _by_numbers(of: Measures) -> Iterator[str]:
    if not of.finite:
        yield "Look for an overflow: the same run in float32 shows whether it is the precision's."
        return
    if of.cosine > _ALIKE and abs(of.slope - 1) > _FACTOR:
        yield f"The two point the same way, but b is {short(of.slope, 4)} times a: a factor."
    elif of.cosine < _UNLIKE:
        yield (
            f"The two are hardly alike (cosine {short(of.cosine)}): other weights, another input, "
            "or another order of rows or channels."
        )
    if of.quantiles[0] < _FEW * of.max_abs:
        yield "Most numbers agree and a few are far off: look at edges, single channels or rows."
