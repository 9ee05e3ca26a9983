"""Broken files are refused by their headers, and the message says what to do."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path

import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ipa.errors import CheckpointError
from ipa.model.clip import ClipVisionSpec
from ipa_convert import read_component
from ipa_convert.containers import header
from ipa_convert.containers.safetensors_file import open_safetensors
from oracle import models
from oracle.containers import container, entry

SPEC = ClipVisionSpec.from_config(models.VISION)
ENCODER = models.randomize(
    CLIPVisionModelWithProjection(CLIPVisionConfig(**models.VISION)), 1
).state_dict()
BYTES = safetensors.torch.save({name: value.contiguous() for name, value in ENCODER.items()})
HEADER = 8 + int.from_bytes(BYTES[:8], "little")
NAME = "vision_model.encoder.layers.1.mlp.fc1.weight"
EMPTY = '"shape":[0],"data_offsets":[0,0]'
MIB = 1 << 20
AGAIN, TRUST = "download it again", "a source that you trust"

A, B = entry("F32", [2], 0, 8), entry("F32", [2], 8, 16)
# (bytes, what must be said to be found, remedy)
FILES: dict[str, tuple[bytes, str, str]] = {
    "empty file": (b"", "an empty file", AGAIN),
    "short file": (b"\x10\0\0\0", "begins with", AGAIN),
    "text": (b"hello, this is no checkpoint", "begins with b'hello", AGAIN),
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "a Git LFS pointer",
        "git lfs pull",
    ),
    "web page": (b"<!DOCTYPE html><html></html>", "a web page", "download the file itself"),
    "torch archive": (b"PK\x03\x04" + bytes(600), "an archive without an end", AGAIN),
    "pickle": (b"\x80\x02}q\x00." + bytes(600), "a pickle", ".safetensors file"),
    "GGUF": (b"GGUF" + bytes(600), "a GGUF file", "original safetensors"),
    "tar": (bytes(257) + b"ustar" + bytes(600), "a tar archive", ".safetensors file"),
    "cut in the header": (BYTES[: HEADER // 2], f"{HEADER // 2} bytes", "did not finish"),
    "cut in the header's first byte": (BYTES[:9], f"its header alone needs {HEADER}", AGAIN),
    "cut in the weights": (
        BYTES[:-100],
        f"{len(BYTES) - HEADER - 100} bytes of weights, its header needs {len(BYTES) - HEADER}",
        "did not finish",
    ),
    "header only": (BYTES[:HEADER], "0 bytes of weights", "did not finish"),
    "bytes after the end": (BYTES + b"\0\0\0", "3 bytes after the last tensor", TRUST),
    "header length 1": (container(b"{}", length=1), "a header of 1 bytes", TRUST),
    "header length enormous": (container({}, length=2**63), "begins with", AGAIN),
    "header length beyond the format": (container({}, length=10**8 + 1), "begins with", AGAIN),
    "header length beyond the file": (container({}, length=10**8), "header alone needs", AGAIN),
    "no JSON": (container(b'{"a":'), "not valid JSON", TRUST),
    "text after the JSON": (container(b"{}{}"), "not valid JSON", TRUST),
    "bad UTF-8": (container(b'{"\xff":{}}'), "not valid JSON", TRUST),
    "nested without end": (container(b'{"a":' + b"[" * 200_000), "not valid JSON", TRUST),
    "a number of a million digits": (
        container(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "not valid JSON",
        TRUST,
    ),
    "NaN": (container(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,0]}}'), "NaN", TRUST),
    "float offset": (
        container(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}}', bytes(8)),
        "8.0 in the header",
        TRUST,
    ),
    "boolean dimension": (
        container(b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', bytes(4)),
        "[True]",
        TRUST,
    ),
    "one name twice": (
        container(b'{"a":{"dtype":"F32",%b},"a":{"dtype":"F32",%b}}' % ((EMPTY.encode(),) * 2)),
        "the name 'a' twice",
        TRUST,
    ),
    "one field twice": (
        container(b'{"a":{"dtype":"F32","dtype":"F16",%b}}' % EMPTY.encode()),
        "the name 'dtype' twice",
        TRUST,
    ),
    "overlap": (
        container({"a": A, "b": entry("F32", [2], 4, 12)}, bytes(12)),
        "overlap before b",
        TRUST,
    ),
    "two tensors on the same bytes": (container({"a": A, "b": A}, bytes(8)), "overlap", TRUST),
    "hole": (
        container({"a": A, "b": entry("F32", [2], 12, 20)}, bytes(20)),
        "a hole before b",
        TRUST,
    ),
    "hole before the first": (container({"b": B}, bytes(16)), "a hole before b", TRUST),
    "range backwards": (container({"a": entry("F32", [2], 8, 0)}, bytes(8)), "[8, 0]", TRUST),
    "range negative": (container({"a": entry("F32", [2], -8, 0)}, bytes(8)), "[-8, 0]", TRUST),
    "range of three": (
        container({"a": A | {"data_offsets": [0, 4, 8]}}, bytes(8)),
        "[0, 4, 8]",
        TRUST,
    ),
    "range that wraps around 64 bits": (
        container({"a": entry("U8", [16], 2**64 - 8, 2**64 + 8)}, bytes(8)),
        "a hole before a",
        TRUST,
    ),
    "range of thousands of digits": (
        container(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,%b]}}' % (b"9" * 4300)),
        "999 bytes for a",
        TRUST,
    ),
    "range too short": (
        container({"a": entry("F32", [3], 0, 8)}, bytes(8)),
        "8 bytes for a, but F32 [3] takes 12",
        TRUST,
    ),
    "negative dimensions": (
        container({"a": entry("F32", [-2, -1], 0, 8)}, bytes(8)),
        "[-2, -1]",
        TRUST,
    ),
    "dimension too large": (container({"a": entry("F32", [0, 2**31], 0, 0)}), "2147483648", TRUST),
    "dimensions that overflow": (container({"a": entry("F32", [2**30] * 4, 0, 0)}), "takes", TRUST),
    "dimensions that overflow beside one of nothing": (
        container({"a": entry("F32", [2**31 - 1] * 7 + [0], 0, 0)}),
        "with the shape [2147483647",
        TRUST,
    ),
    "too many dimensions": (
        container({"a": entry("F32", [1] * 9, 0, 4)}, bytes(4)),
        "[1, 1",
        TRUST,
    ),
    "unknown type": (
        container({"a": entry("F4", [2], 0, 1)}, bytes(1)),
        "unknown type 'F4'",
        TRUST,
    ),
    "type that is no string": (
        container({"a": A | {"dtype": ["F32"]}}, bytes(8)),
        "unknown type ['F32']",
        TRUST,
    ),
    "type without an end": (
        container({"a": A | {"dtype": "x" * 5000}}, bytes(8)),
        "unknown type 'xxx",
        TRUST,
    ),
    "field missing": (container({"a": {"dtype": "F32", "shape": [0]}}), "exactly", TRUST),
    "field too many": (container({"a": A | {"strides": [1]}}, bytes(8)), "exactly", TRUST),
    "entry that is no object": (container({"a": [1]}), "exactly", TRUST),
    "name with a line break": (container({"a\nb": A}, bytes(8)), r"'a\nb'", TRUST),
    "name too long": (container({"a" * 257: A}, bytes(8)), "with the name 'aaa", TRUST),
    "name without characters": (container({"": A}, bytes(8)), "with the name ''", TRUST),
    "half a surrogate pair": (container({"\ud800": A}, bytes(8)), r"'\ud800'", TRUST),
    "metadata that is no object": (container({"__metadata__": 1}), "__metadata__", TRUST),
    "metadata with a number": (container({"__metadata__": {"a": 1}}), "__metadata__", TRUST),
    "too many tensors": (
        container(b"{" + b'"a":{"data_offsets":0},' * 100_001 + b'"z":0}'),
        "more than 100000 tensors",
        TRUST,
    ),
}


def refused(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_component("image_encoder", path, SPEC)
    return caught.value


@pytest.mark.parametrize("case", FILES)
def test_broken_files(case: str, tmp_path: Path) -> None:
    data, found, remedy = FILES[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    error = refused(tmp_path)
    assert str(path) in error.what
    assert found in error.found
    assert remedy in error.remedy
    assert len(str(error)) < len(str(path)) + 400, "a message, not a dump"


def test_the_sound_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(BYTES)
    converted = read_component("image_encoder", tmp_path, SPEC)
    assert len(converted) == len(ENCODER)


def test_a_header_whose_length_begins_like_a_pickle(tmp_path: Path) -> None:
    text = json.dumps({"a": A}).encode().ljust(0x80)
    (tmp_path / "a.safetensors").write_bytes(container(text, bytes(8)))
    assert list(open_safetensors(tmp_path / "a.safetensors").tensors) == ["a"]


def test_what_the_format_allows(tmp_path: Path) -> None:
    """Empty tensors (markers), blanks around the header, numbers at odd addresses."""
    fields = {
        "marker": entry("F32", [0], 0, 0),
        "byte": entry("U8", [1], 0, 1),
        "odd": entry("F32", [2], 1, 9),
        "no dimensions": entry("F32", [], 9, 13),
    }
    body = b"\7" + struct.pack("<3f", 1.5, -2.5, 3.5)
    (tmp_path / "a.safetensors").write_bytes(container(json.dumps(fields).encode() + b"  ", body))
    tensors = open_safetensors(tmp_path / "a.safetensors").tensors
    assert tensors["marker"].array().shape == (0,)
    assert tensors["odd"].array().tolist() == [1.5, -2.5]
    assert tensors["no dimensions"].array().shape == ()
    assert tensors["no dimensions"].array() == 3.5
    assert not tensors["odd"].array().flags.writeable


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, HEADER - 1), value=st.integers(0, 255))
def test_any_damage_to_a_header(
    position: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A changed byte is refused as a CheckpointError, or leaves a file that tiles its buffer."""
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(BYTES[:position] + bytes([value]) + BYTES[position + 1 :])
    try:
        tensors = open_safetensors(path).tensors
    except CheckpointError as error:
        assert str(path) in error.what
        return
    assert sum(t.array().nbytes for t in tensors.values()) == len(BYTES) - HEADER


BOMBS = {
    "lists": b'{"a":[' + b"[]," * 400_000 + b"0]}",
    "dicts": b'{"a":[' + b'{"a":0},' * 150_000 + b"0]}",
    "names": b"{" + b",".join(b'"%d":0' % i for i in range(120_000)) + b"}",
    "text that an emoji makes wide": b'{"__metadata__":{"a":"%b%b"}}'
    % ("🙂".encode(), b"a" * 1_500_000),
}


@pytest.mark.parametrize("case", BOMBS)
def test_memory_of_headers(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most about twice the file, beside an allowance: 32 MiB, here one so that it shows."""
    monkeypatch.setattr(header, "_ALLOWANCE", MIB)
    path = tmp_path / "model.safetensors"
    path.write_bytes(container(BOMBS[case]))
    tracemalloc.start()
    try:
        assert "takes too much memory" in refused(tmp_path).found
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = path.stat().st_size
    assert peak < 2 * size + 2 * MIB, f"{peak / MIB:.1f} MiB for {size / MIB:.1f} MiB"


def test_a_header_with_much_metadata(tmp_path: Path) -> None:
    """What LoRA trainers write of their data sets: some MiB that are no attack."""
    tags = json.dumps({"ss_tag_frequency": {f"tag {i}": i for i in range(100_000)}})
    fields = {"__metadata__": {"ss": tags, "title": "🙂"}, "a": A}
    (tmp_path / "a.safetensors").write_bytes(container(fields, bytes(8)))
    assert list(open_safetensors(tmp_path / "a.safetensors").tensors) == ["a"]
