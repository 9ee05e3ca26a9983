"""Captures: kept, written, read, and compared; bad ones refused before any number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ipa.errors import CaptureError, IncompatibleCaptures, RequestError
from ipa.parity.capture.capture import Capture, Header
from ipa.parity.capture.capture_file import read, write
from ipa.parity.capture.choice import Choice
from ipa.parity.capture.collector import Collector
from ipa.parity.capture.floors import Floors
from ipa.parity.capture.sketch import Sketch
from ipa.parity.compare.captures import compare
from ipa.parity.compare.limits import Limits
from ipa.parity.compare.measures import measure

WEIGHTS = {"float32": "aa", "float16": "bb", "bfloat16": "cc"}
HEADER: dict[str, Any] = {
    "model": "demo",
    "backend": "torch",
    "dtype": "float32",
    "device": "cpu",
    "request": {"prompt": "a star", "seed": 3, "seeds": [3], "image_prompts": [{"scale": 0.5}]},
    "environment": {"chip": "ours"},
    "fingerprints": {"unet": WEIGHTS, "vae": WEIGHTS},
    "timings_s": {"denoise": 1.5},
}


def stages(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """What a run of two steps tells, in order."""
    shapes = {
        "start/latents": (1, 4, 8, 8),
        "step.000/unet.conv_in": (2, 64, 8, 8),
        "step.000/unet.time_embedding": (2, 300),
        "step.000/latents": (1, 4, 8, 8),
        "step.001/unet.conv_in": (2, 64, 8, 8),
        "step.001/latents": (1, 4, 8, 8),
        "decode/image": (1, 3, 16, 16),
    }
    made = {name: draw.random(shape, dtype=np.float32) for name, shape in shapes.items()}
    made["step.000/unet.time_embedding"][1] = made["step.000/unet.time_embedding"][0]
    return made


def collected(told: dict[str, np.ndarray], **choice: Any) -> Collector:
    """A collector that was told all of them, as a run does."""
    collector = Collector(Choice(**choice))
    for stage, array in told.items():
        if collector.wants(stage):
            collector(stage, array)
    collector.check()
    return collector


def captured(told: dict[str, np.ndarray], changes: dict[str, Any] | None = None, **choice: Any):
    return Capture(Header(**HEADER | (changes or {})), collected(told, **choice).stages)


def test_there_and_back(draw: np.random.Generator, tmp_path: Path) -> None:
    whole = captured(stages(draw), {"embedding": (0.5, 1.0)}, max_bytes=80_000)
    path = tmp_path / "a.safetensors"
    for capture in (whole, captured(stages(draw), sketched=True, dtype="float16")):
        write(path, capture)
        found = read(path)
        assert found.header == capture.header
        assert [*found.stages] == [*capture.stages]
        for name, kept in capture.stages.items():
            other = found.stages[name]
            assert isinstance(other, Sketch) == isinstance(kept, Sketch)
            arrays = [x.projection if isinstance(x, Sketch) else x for x in (kept, other)]
            assert arrays[0].dtype == arrays[1].dtype
            assert np.array_equal(*arrays)
            if isinstance(kept, Sketch):
                assert (other.shape, other.moments) == (kept.shape, kept.moments)
    assert [*tmp_path.iterdir()] == [path]
    assert load_file(path).keys() == whole.stages.keys()  # any reader of safetensors reads it


def test_what_is_kept(draw: np.random.Generator) -> None:
    told = stages(draw)
    assert [*collected(told, patterns=("*.conv_in",), steps=frozenset({1})).stages] == [
        *("start/latents", "step.001/unet.conv_in", "decode/image")
    ]
    sketched = collected(told, sketched=True)
    assert [n for n, kept in sketched.stages.items() if not isinstance(kept, Sketch)] == [
        # Always whole; and those of no more numbers than a sketch has.
        *("start/latents", "step.000/latents", "step.001/latents", "decode/image")
    ]
    assert sketched.stages["step.000/unet.time_embedding"].shape == (1, 300)  # equal rows
    within = collected(told, max_bytes=80_000)  # the numbers alone take 79,000
    kinds = {name: isinstance(kept, Sketch) for name, kept in within.stages.items()}
    assert [name for name, is_sketch in kinds.items() if is_sketch] == ["step.000/unet.conv_in"]


def test_float16_is_taken_where_it_loses_no_more_than_half_a_bit() -> None:
    ones = np.ones((1, 300), np.float32)
    told = {"step.000/latents": ones / 3, "step.000/guided": ones * 1e5, "decode/image": ones}
    told["step.000/denoised"] = ones * 1e-7  # below the smallest step of a float16 but one
    kept = collected(told, dtype="float16").stages
    kinds = {name.partition("/")[2]: array.dtype.name for name, array in kept.items()}
    assert kinds == {
        **{"latents": "float16", "guided": "float32"},
        **{"image": "float16", "denoised": "float32"},
    }


def test_bad_choices(draw: np.random.Generator) -> None:
    told = stages(draw)
    with pytest.raises(RequestError, match=r"nearest.*step\.000/unet\.conv_in"):
        collected(told, patterns=("step.000/unet.conv_im",))
    with pytest.raises(RequestError, match="no such step; found: 7; remedy: steps 0 to 1"):
        collected(told, steps=frozenset({0, 7}))
    for bad in ({"patterns": ()}, {"dtype": "int8"}, {"max_bytes": 9}, {"steps": frozenset()}):
        with pytest.raises(RequestError):
            Choice(**bad)
    many = {f"step.000/unet.{n}": np.zeros((1, 500), np.float32) for n in range(80)}
    with pytest.raises(CaptureError, match="no room even for sketches"):
        collected(many, max_bytes=1 << 16)


def test_a_pattern_of_no_stage_is_told_after_the_first_step(draw: np.random.Generator) -> None:
    collector = Collector(Choice(patterns=("decode/*", "step.*/unet.conv_im")))
    told = stages(draw)
    first = [name for name in told if not name.startswith(("step.001", "decode"))]
    assert [collector.wants(name) for name in first] == [True, False, False, False]
    with pytest.raises(RequestError, match="conv_im"):
        collector.wants("step.001/unet.conv_in")
    later = Collector(Choice(patterns=("step.001/*", "decode/vae.*")))  # may yet be
    assert [later.wants(name) for name in [*first, "step.001/latents"]][-1]


def test_equal_runs_and_one_that_goes_wrong(draw: np.random.Generator) -> None:
    told = stages(draw)
    a = captured(told, {"embedding": (1.0, 0.0)})
    same = compare(a, captured(told, {"backend": "mlx", "embedding": (1.0, 0.0)}))
    assert same.ok
    assert [one.stage for one in same.differences] == [*told]
    assert all(one.measures.relative_l2 == 0 for one in same.differences)
    assert (same.pictures.ssim, same.pictures.clip_cosine) == (1.0, 1.0)
    wrong = told | {"step.000/latents": told["step.000/latents"] * 1.01}
    wrong["step.001/unet.conv_in"] = told["step.001/unet.conv_in"] * 1.02
    del wrong["step.000/unet.conv_in"]
    for options in ({}, {"dtype": "float16"}, {"sketched": True}):
        found = compare(a, captured(wrong | {"start/extra": told["start/latents"]}, **options))
        assert found.first_bad is not None
        assert found.first_bad.stage == "step.000/latents"
        assert found.first_bad.measures.slope == pytest.approx(1.01, abs=2e-3)
        assert (found.only_a, found.only_b) == (("step.000/unet.conv_in",), ("start/extra",))
        assert compare(a, captured(wrong, **options), Limits(by_stage=dict.fromkeys(told, 0.1))).ok


def test_rounding_on_keeping_is_no_fault(draw: np.random.Generator) -> None:
    told = stages(draw)
    found = compare(captured(told), captured(told, dtype="float16"))
    assert found.ok
    assert max(one.measures.relative_l2 for one in found.differences) > 1e-4  # of float32


def test_rows_that_one_backend_computes_once(draw: np.random.Generator) -> None:
    told = {"start/latents": draw.random((1, 4, 8, 8), dtype=np.float32)}
    told["step.000/unet.time_proj"] = draw.random((1, 400), dtype=np.float32)
    rows = np.repeat(told["step.000/unet.time_proj"], 2, axis=0)
    rows[1, 0] += 1e-6  # nearly equal
    b = told | {"step.000/unet.time_proj": rows}
    for first, second in ((told, b), (b, told)):
        assert len(compare(captured(first), captured(second)).differences) == 2
    both = compare(captured(told, sketched=True), captured(b, sketched=True))
    assert both.only_a == both.only_b == ("step.000/unet.time_proj",)


def test_other_runs_are_listed_before_any_number(draw: np.random.Generator) -> None:
    told = stages(draw)
    request = HEADER["request"] | {"seed": 4, "seeds": [4], "image_prompts": [{"scale": 0.6}]}
    changes = {
        "request": request,
        "fingerprints": {"unet": {"float32": "dd", "float16": "ee"}, "vae": WEIGHTS | {"x": "y"}},
    }
    a, b = captured(told), captured(told, changes)
    with pytest.raises(IncompatibleCaptures) as caught:
        compare(a, b)
    assert caught.value.differences == (
        ("weights.unet", "aa", "dd"),
        ("seed", "3", "4"),
        ("image_prompts.0.scale", "0.5", "0.6"),
    )
    assert "seed: 3 and 4" in str(caught.value)
    batch = captured(told, {"request": HEADER["request"] | {"seeds": [4]}})
    with pytest.raises(IncompatibleCaptures, match="seeds: "):
        compare(a, batch)
    with pytest.raises(IncompatibleCaptures) as caught:
        compare(a, b, allow=("seed", "weights"))
    assert [name for name, _, _ in caught.value.differences] == ["image_prompts.0.scale"]
    assert compare(a, b, allow=("seed", "weights.unet", "image_prompts")).ok
    with pytest.raises(IncompatibleCaptures, match="none of them in both"):
        compare(a, Capture(b.header, {"decode/x": told["start/latents"]}), allow=("seed",))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("capture") / "a.safetensors"
    write(path, captured(stages(np.random.default_rng(3)), sketched=True))
    return path.read_bytes()


def test_damaged_files(file: bytes, tmp_path: Path, draw: np.random.Generator) -> None:
    """Cut, or with bytes changed in its header: one error of ours, or a capture that reads."""
    path = tmp_path / "a.safetensors"
    size = int.from_bytes(file[:8], "little")
    for cut in (0, 5, 200, size, len(file) - 1):
        path.write_bytes(file[:cut])
        with pytest.raises(CaptureError):
            read(path)
    refused = 0
    for place in draw.integers(0, size + 8, 400):
        path.write_bytes(file[:place] + bytes([draw.integers(256)]) + file[place + 1 :])
        try:
            found = read(path)
            assert all(found.stages[name].shape for name in found.stages)
        except CaptureError:
            refused += 1
    assert refused > 200


def flipped(file: bytes, place: int) -> bytes:
    return file[:place] + bytes([file[place] ^ 0x40]) + file[place + 1 :]


@pytest.mark.parametrize("sketched", [False, True])
def test_damaged_numbers(sketched: bool, tmp_path: Path, draw: np.random.Generator) -> None:
    """One bit of any number, and of what the header says of numbers, is found."""
    path = tmp_path / "a.safetensors"
    told = stages(draw)
    write(path, captured(told, sketched=sketched))
    file = path.read_bytes()
    begin = 8 + int.from_bytes(file[:8], "little")
    for place in draw.integers(begin, len(file), 30):
        path.write_bytes(flipped(file, int(place)))
        with pytest.raises(CaptureError, match="its numbers are not those that were written"):
            [found.shape for found in read(path).stages.values()]
    place = file.index(b"a star")
    path.write_bytes(file[:place] + b"a stab" + file[place + 6 :])
    with pytest.raises(CaptureError, match="its metadata are not those that were written"):
        read(path)


def rewritten(path: Path, *left_out: str) -> None:
    """A capture as older versions wrote it."""
    with safe_open(path, framework="numpy") as file:
        metadata = {k: v for k, v in file.metadata().items() if k not in left_out}
    save_file(load_file(path), path, metadata=metadata)


def test_captures_without_checksums_are_read_and_said(
    tmp_path: Path, draw: np.random.Generator
) -> None:
    told, path = stages(draw), tmp_path / "a.safetensors"
    write(path, captured(told))
    assert compare(read(path), captured(told)).notes == compare(*[captured(told)] * 2).notes
    rewritten(path, "sum", "sums", "floors")
    found = compare(read(path), captured(told))
    assert found.ok
    assert any("older version, without checksums" in note for note in found.notes)


def test_a_sketch_that_is_not_finite(tmp_path: Path, draw: np.random.Generator) -> None:
    """Also in a capture without checksums: distances to it would be told as none."""
    told, path = stages(draw), tmp_path / "a.safetensors"
    good = captured(told, sketched=True)
    write(path, good)
    lost = load_file(path)
    lost["step.000/unet.conv_in"][:] = np.nan
    with safe_open(path, framework="numpy") as file:
        metadata = {k: v for k, v in file.metadata().items() if k not in {"sum", "sums"}}
    save_file(lost, path, metadata=metadata)
    for pair in ((read(path), good), (good, read(path))):
        with pytest.raises(CaptureError, match="the sketch of finite numbers is not finite"):
            compare(*pair)
    sketch = good.stages["step.000/unet.conv_in"]
    broken = replace(sketch, projection=sketch.projection * np.float32("nan"))
    assert not measure(sketch, broken).finite


def test_nan_in_a_run_is_kept(tmp_path: Path, draw: np.random.Generator) -> None:
    told, path = stages(draw), tmp_path / "a.safetensors"
    lost = told | {"step.000/latents": told["step.000/latents"] * np.float32("nan")}
    end = [*told].index("step.001/unet.conv_in")
    lost = dict([*lost.items()][:end])
    for sketched in (False, True):
        collector = Collector(Choice(sketched=sketched))
        for stage, array in lost.items():
            collector(stage, array)
        why = "step 1 of 2 gave NaN or infinity."
        write(path, Capture(Header(**HEADER | {"unfinished": why}), collector.stages))
        found = compare(captured(told), read(path))
        assert found.first_bad is not None
        assert found.first_bad.stage == "step.000/latents"
        assert f"torch float32 ended early: {why}" in found.notes
        assert found.only_a == ("step.001/unet.conv_in", "step.001/latents", "decode/image")


def floors(told: dict[str, np.ndarray], each: float) -> Floors:
    return Floors(dict.fromkeys(told, each), dict.fromkeys(told, each / 4))


def test_floors_are_carried(tmp_path: Path, draw: np.random.Generator) -> None:
    """What is beyond a limit by floors is far within a flat one."""
    told, path = stages(draw), tmp_path / "a.safetensors"
    own = {"float32": floors(told, 1e-6), "float16": Floors(forced={"start/latents": 3e-4})}
    write(path, replace(captured(told), floors=own))
    a = read(path)
    assert a.floors == own
    off = {name: array * np.float32(1 + 1e-6) for name, array in told.items()}
    near, far = captured(off), dict(off)
    assert compare(a, near).ok
    far["step.000/latents"] = told["step.000/latents"] * np.float32(1 + 1.2e-5)
    for pair in ((a, captured(far)), (captured(far), a)):  # whichever of the two carries them
        found = compare(*pair)
        assert found.first_bad is not None
        assert found.first_bad.stage == "step.000/latents"
    flat = compare(captured(told), captured(far))
    assert flat.ok
    assert any("limits are flat" in note for note in flat.notes)
    wide = replace(captured(far), floors={"float32": floors(told, 1e-5)})
    assert compare(a, wide).ok  # of two machines, what either loses


def test_names_that_may_differ_are_checked(draw: np.random.Generator) -> None:
    a = captured(stages(draw))
    for name in ("seed", "weights", "weights.unet", "image_prompts", "image_prompts.0.scale"):
        assert compare(a, a, allow=(name,)).ok
    for name, near in (
        ("sed", "seed"),
        ("weights.vea", r"weights\.vae"),
        ("xyzzy", "one of"),
        ("scale", r"image_prompts\.0\.scale"),
    ):
        with pytest.raises(RequestError, match=f"is called '{name}'.*{near}"):
            compare(a, a, allow=(name,))


def test_pairs_of_a_request_are_lists_in_a_file(tmp_path: Path, draw: np.random.Generator) -> None:
    """As SDXL's sizes are."""
    pair = {"request": HEADER["request"] | {"original_size": (1024, 1000)}}
    live = captured(stages(draw), pair)
    write(tmp_path / "a.safetensors", live)
    assert read(tmp_path / "a.safetensors").header.request["original_size"] == [1024, 1000]
    assert compare(read(tmp_path / "a.safetensors"), live).ok


def test_foreign_and_newer_files(file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(CaptureError, match=r"a\.safetensors"):
        read(path)
    save_file({"unet": np.ones(3, np.float32)}, path)
    with pytest.raises(CaptureError, match="is no capture"):
        read(path)
    path.write_bytes(file.replace(b'"format_version":"1"', b'"format_version":"2"'))
    assert b'"format_version":"2"' in path.read_bytes()
    with pytest.raises(CaptureError, match="newer version; found: format 2"):
        read(path)
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    assert header["__metadata__"]["format"] == "ipa-mlx capture"


def test_nothing_half_written(file: bytes, tmp_path: Path, draw: np.random.Generator) -> None:
    class Broken(dict[str, np.ndarray]):
        """Fails in the middle, as a disk does."""

        def __getitem__(self, name: str) -> np.ndarray:
            raise OSError("no space left")

    path = tmp_path / "a.safetensors"
    path.write_bytes(file)
    with pytest.raises(CaptureError, match="no space left"):
        write(path, Capture(Header(**HEADER), Broken(stages(draw))))
    assert path.read_bytes() == file
    assert [*tmp_path.iterdir()] == [path]
    for bad in (tmp_path / "a.pt", tmp_path / "none" / "a.safetensors"):
        with pytest.raises(CaptureError):
            write(bad, captured(stages(draw)))
