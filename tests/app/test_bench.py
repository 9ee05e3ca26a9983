"""`ipa-mlx bench` and `doctor --bench`: real processes on the demo's sizes, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from typer.testing import CliRunner

from ipa.app.cli import app
from ipa.app.commands.doctor import bench as doctor_bench
from ipa.app.commands.doctor import examination as doctor
from ipa.bench import public, worker
from ipa.bench.cases import STAGES, Case, does
from ipa.bench.process import Outcome, run_process
from ipa.bench.report import FORMAT
from ipa.bench.rounds import Turn
from ipa.bench.stages import open_ours
from ipa.bench.work import operations, weights
from ipa_mlx.bench.peers import EXAMPLES

OWN = """
import numpy as np

def open_stage(stage, base, *, height, width, batch, dtype):
    if stage != "step":
        return None
    a = np.ones((height, width), np.float32)
    return lambda: [a @ a.T for _ in range(20 * batch)]
"""


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["bench", "--base", "demo", *words])


def test_arms_of_a_step(tmp_path: Path) -> None:
    """Five arms, all in JSON and the chart; a program of one's own among them.

    Repeats in turn are `tests/bench`'s.
    """
    own, kept, chart = (tmp_path / name for name in ("own.py", "b.json", "b.svg"))
    own.write_text(OWN)
    words = ["--arm", "mlx", "--arm", "diffusers", "--arm", "mine", "--peer", f"mine={own}"]
    counts = ["--adapters", "0", "--adapters", "2", "--repeats", "1", "--runs", "2"]
    done = call("step", *words, *counts, "-o", str(kept), "--chart", str(chart), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(kept.read_text())
    assert found == json.loads(done.stdout)
    assert found["format"] == FORMAT
    mlx, both, theirs, adapted, mine = (
        f"{program} demo step 64²"
        for program in (*("mlx", "mlx", "diffusers", "diffusers", "mine"),)
    )
    both, adapted = f"{both}, 2 base adapters", f"{adapted}, 2 base adapters"
    order = [(turn["repeat"], turn["arms"]) for turn in found["order"]]
    assert order == [(0, arms) for arms in ([mlx, both], [theirs], [mine], [adapted])]
    arms = {arm["name"]: arm for arm in found["arms"]}
    assert list(arms) == [mlx, both, theirs, mine, adapted]
    for arm in arms.values():
        assert [len(runs) for runs in arm["seconds"]] == [2]
        assert len(arm["first_seconds"]) == len(arm["machine_gflops"]) == 1
        assert 0 < arm["low"] <= arm["median"] <= arm["high"]
        assert arm["share_of_machine"] > 0 and arm["process_peak_bytes"] > 0
    assert arms[both]["ratio_to"] == mlx and arms[adapted]["ratio_to"] == theirs
    assert arms[theirs]["ratio_to"] == arms[mine]["ratio_to"] == mlx
    assert arms[mlx]["peak_bytes"] > arms[mlx]["held_bytes"] > 0
    assert arms[both]["operations"] > arms[mlx]["operations"] == arms[theirs]["operations"]
    assert {"chip", "mlx", "torch", "load", "BLAS", "torch threads"} <= found["conditions"].keys()
    assert "mine demo step 64², 2 base adapters" in done.stderr  # it does not do that
    texts = [text.text or "" for text in ElementTree.parse(chart).findall(".//{*}text")]
    assert {mlx, both, theirs, mine} <= set(texts)


def test_a_series_has_its_growth() -> None:
    done = call("decode", "--arm", "mlx", "--size", "32", "--size", "64", "--repeats", "1")
    assert done.exit_code == 0, done.output
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| mlx decode")]
    assert row.split(" | ")[:3] == ["| mlx decode", "pixels", "1024, 4096"]


@pytest.mark.parametrize("program", ["mlx", "torch", "diffusers"])
def test_every_stage_runs(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, which the command would not: each by itself takes seconds to start."""
    monkeypatch.setattr(worker, "PRODUCT", (64, 64, 64))  # the machine's rate is not asked here
    for stage in STAGES:
        count = int(program != "diffusers" and stage in ("condition", "step", "generation"))
        case = Case(
            program=program,
            stage=stage,
            base="demo",
            width=32,
            height=32,
            adapters=count,
            adapter="plus" if count else "base",
        )
        if does(case):
            found = worker.measured((case,), 1)
            assert found["cases"][0]["seconds"][0] > 0, stage


def test_channels_last_is_the_same_step() -> None:
    """The variant changes how networks lie in memory, and no more than rounding of what they give.

    Measured 1.7e-6 on one machine.
    """
    case = Case(program="torch", stage="step", base="demo", width=64, height=64)
    outputs = []
    for program in ("torch", "torch-channels-last"):
        backend, _ = open_ours((replace(case, program=program),), public.open_base("demo"))
        unet = backend.unet  # type: ignore[attr-defined]
        weight = unet.conv_in.weight
        assert weight.is_contiguous() == (program == "torch")
        given = (torch.ones(2, 4, 16, 16), 501, torch.ones(2, 77, unet.config.cross_attention_dim))
        with torch.inference_mode():
            outputs.append(unet(*given).sample)
    assert (outputs[0] - outputs[1]).norm() < 1e-5 * outputs[0].norm()


def test_sdxl_at_its_true_structure_is_counted() -> None:
    """2.57 billion parameters; a row at 128² latents is known as 2.98 T multiply-adds, which leaves
    out the products of attention: 10 layers of 4096 tokens and 60 of 1024."""
    step = Case(program="mlx", stage="step", base="sdxl", width=1024, height=1024)
    assert weights(step, "float16") == 2 * 2_567_463_684
    attention = 4 * (10 * 4096**2 * 640 + 60 * 1024**2 * 1280)
    assert 5.9e12 < operations(step) / 2 - attention < 6.0e12


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["--arm", "tinygrad"], 2, "there is no such arm; found: 'tinygrad'; remedy: one of mlx"),
        (["walk"], 2, "there is no such stage; found: 'walk'"),
        (["--base", "sd9"], 2, "there is no such base model; found: 'sd9'"),
        (["--repeats", "0"], 2, "repeats must be from 1 to 1000; found: 0"),
        (["--runs", "0"], 2, "runs must be from 1 to 1000; found: 0"),
        (["--limit", "0"], 2, "limit must be more than 0 seconds"),
        (["--limit", "nan"], 2, "limit must be more than 0 seconds"),
        (["--size", "512x"], 2, "a size is a side or WIDTHxHEIGHT"),
        (["--size", "65"], 2, "sizes must be multiples of 4; found: 65x65"),
        (["--batch", "0"], 2, "batch must be from 1 to 64"),
        (["--adapters", "-1"], 2, "adapters must be from 0 to 32"),
        (["--adapter-kind", "minus"], 2, "there is no such adapter kind"),
        (["--peer", "x"], 2, "--peer takes NAME=PATH"),
        (["--peer", "mlx=."], 2, "a peer needs a name of its own"),
        (["--peer", "x=/nothing/here"], 2, "the peer x is not there"),
        (["--peer", "x=."], 2, "has no program that is known here"),
        (["condition", "--arm", "diffusers"], 2, "nothing is left to measure"),
        (["-o", "/nothing/here.json"], 2, "/nothing does not exist"),
        (["--model", "no-such-model", "--arm", "mlx"], 3, "no such model"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    words: list[str],
    code: int,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ipa.bench.rounds.run_process", None)
    done = call(*words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert part in " ".join(done.stderr.split())


def test_an_arm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipa.bench.cases.importlib.util.find_spec", lambda name: None)
    done = call("--arm", "diffusers")
    assert done.exit_code == 4
    assert "the arm diffusers needs diffusers" in done.stderr


def test_an_error_in_a_process_is_the_arms(tmp_path: Path) -> None:
    """Nothing is kept of a measurement in which nothing was measured."""
    done = call("--arm", "mlx", "--dtype", "float5", "-o", str(tmp_path / "b.json"))
    assert done.exit_code == 4
    assert "no arm could be measured" in done.stderr and "float5" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("base", ["sd15", "sd2", "sdxl"])
def test_the_examples_unet_is_told_what_its_loader_tells_it(base: str) -> None:
    """From the published config; its own default would attend at the wrong levels."""
    config = json.loads((public.open_base(base).path / "unet" / "config.json").read_text())
    told = EXAMPLES[base]
    assert told["up_block_types"] == tuple(config["up_block_types"][::-1])
    defaults = {"num_attention_heads": (5, 10, 20, 20), "cross_attention_dim": (1024,) * 4}
    heads = config["attention_head_dim"]
    levels = len(config["block_out_channels"])
    found = {name: told.get(name, usual) for name, usual in defaults.items()}
    assert found["num_attention_heads"] == (
        tuple(heads) if isinstance(heads, list) else (heads,) * levels
    )
    assert found["cross_attention_dim"] == (config["cross_attention_dim"],) * levels


def test_random_adapters_are_what_public_files_are() -> None:
    """Their structures are those that files are recognised by."""
    for base, kind, tokens in (("sd15", "base", 4), ("sd15", "plus", 16), ("sdxl", "base", 4)):
        model = public.open_base(base)
        spec = public.adapter(kind, model)
        assert (spec.tokens, spec.context_width) == (tokens, model.unet.context_width)
        assert spec.fits_encoder(public.image_encoder(kind, model))


def asked(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["doctor", "--json", *words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_doctor_times_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "STEPS", 1)
    monkeypatch.setattr(doctor_bench, "REPEATS", 1)
    told = asked("--backend", "mlx", "--bench", "--small")
    plain, one = told["bench"]["arms"]
    assert one["name"] == "mlx demo step 64², 1 base adapter"
    assert one["ratio_to"] == plain["name"]
    assert told["bench"]["conditions"]["MLX_CONV_WINOGRAD"] == "not set"


def test_kernels_of_steps_are_counted(tmp_path: Path) -> None:
    """With an adapter more than without, in every site one attention; nothing is run."""
    kept = tmp_path / "k.json"
    words = ["--arm", "mlx", "--adapters", "0", "--adapters", "1", "--graph"]
    done = call("step", *words, "-o", str(kept))
    assert done.exit_code == 0, done.output
    plain, one = json.loads(kept.read_text())["steps"]
    sites = len(public.open_base("demo").sites)
    gained = sum(one["attentions"].values()) - sum(plain["attentions"].values())
    assert gained == sites
    assert sum(one["kernels"].values()) > sum(plain["kernels"].values())
    assert one["convolutions"] == plain["convolutions"]
    head = "| kernels | mlx demo step 64² | mlx demo step 64², 1 base adapter |"
    assert head in done.stdout.splitlines()
    none = call("decode", "--arm", "mlx", "--graph")
    assert none.exit_code == 2 and "only steps on MLX" in none.stderr


CPU, GPU = {"device": "Device(cpu, 0)"}, {"device": "Device(gpu, 0)"}
GIB = 2**30


def test_doctor_asks_for_what_a_machine_has() -> None:
    names = [[case.name for case in group] for group in trials("mlx", GPU)]
    assert names[:2] == [
        ["mlx sd15 step 512²", "mlx sd15 step 512², 1 base adapter"],
        ["mlx sdxl step 1024²", "mlx sdxl step 1024², 1 base adapter"],
    ]
    switched = {name for group in names[2:] for name in group}
    assert "mlx sd15 step 512², MLX_CONV_WINOGRAD=0" in switched
    routes = {f"mlx sd15 step 512², IPA_MLX_CONV_ROUTE={route}" for route in ("mlx", "unfold")}
    assert routes < switched
    assert "mlx sd15 step 512², float32, MLX_ENABLE_TF32=1" in switched
    assert len(trials("torch", {"device": "cuda"})) == 2
    sizes = [group[0].width for group in trials("mlx", CPU)]
    assert sizes == [256, 512, 1024]  # the smallest first: nothing tells how long it takes


def trials(backend: str, facts: dict[str, str]) -> list[tuple[Case, ...]]:
    return doctor_bench.trials(backend, facts, is_small=False)


def test_doctor_leaves_out_what_has_no_room() -> None:
    sd, xl = trials("mlx", GPU)[:2]
    assert doctor_bench.too_large(sd, GPU, 8 * GIB) == ""
    assert doctor_bench.too_large(xl, GPU, 16 * GIB) == ""
    told = doctor_bench.too_large(xl, GPU, 8 * GIB)
    assert told == "it needs about 6.3 GiB, and there are 8 in all"
    assert "float32" not in told and doctor_bench.too_large(trials("mlx", CPU)[2], CPU, 16 * GIB)


def test_doctor_says_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 12 GiB, and a first step that takes long: what follows is estimated by it."""
    monkeypatch.setattr(doctor_bench.os, "sysconf", lambda name: 12 * GIB if "PHYS" in name else 1)
    seen = []

    def run(group: Any, runs: int, *, limit: float, cancel: Any) -> Outcome:
        seen.append(group[0].name)
        case = {"first": 9.0, "seconds": [9.0, 9.0], "peak": 1, "held": 1}
        cases = [case | {"process_peak": None, "process_held": None}] * len(group)
        return Outcome(60.0, {"facts": {}, "loading": 1, "gflops": [100.0], "cases": cases})

    monkeypatch.setattr("ipa.bench.rounds.run_process", run)
    bar = type("Bar", (), {"describe": lambda self, text: None})()
    wish = doctor_bench.Wish(limit=50.0)
    found = doctor_bench.measured(wish, "mlx", CPU, bar, None)
    assert set(seen) == {"mlx sd15 step 256²"}  # that it took 60 s is of a stopped clock
    reasons = dict(found.left_out)
    assert "it takes about" in reasons["mlx sd15 step 512²"]
    assert "GiB" in reasons["mlx sdxl step 1024²"]
    lines = "\n".join(doctor_bench.lines(found))
    assert "- left out: mlx sdxl step 1024², 1 base adapter: it needs about" in lines


def test_the_estimate_of_what_was_not_measured_yet() -> None:
    """A step of four times the pixels takes about that much longer than the one before."""
    small, large = trials("mlx", CPU)[:2]
    work = [operations(case) for case in small]
    cases = [
        {
            "first": 1,
            "seconds": [w / 50e9],
            "peak": 1,
            "held": 1,
            "process_peak": 1,
            "process_held": 1,
        }
        for w in work
    ]
    found = {"facts": {}, "loading": 1, "gflops": [100.0], "cases": cases}
    turns = [Turn(0, small, Outcome(30.0, found))]
    expected = doctor_bench.estimate(large, turns, CPU)
    running = sum(operations(case) for case in large) * (1 + doctor_bench.RUNS) / 50e9
    assert expected is not None and running < expected < running + 20
    assert doctor_bench.estimate(large, [], CPU) is None


def test_limits_that_are_none() -> None:
    done = CliRunner().invoke(app, ["doctor", "--bench", "--limit", "-1"])
    assert done.exit_code == 2 and "limit must be more than 0 seconds" in done.stderr


def test_the_worker_is_a_process() -> None:
    """What it finds comes back whole, and its settings reach it."""
    case = Case(
        program="mlx",
        stage="text",
        base="demo",
        settings=(("OMP_NUM_THREADS", "1"),),
        width=32,
        height=32,
    )
    found = run_process((case,), 1)
    assert not found.failure
    assert found.found["facts"]["OMP_NUM_THREADS"] == "1"
