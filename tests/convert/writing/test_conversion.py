"""A conversion says what it was made from, survives being killed, and can be undone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import ipa
from ipa.errors import CheckpointError
from ipa.model.files import STEMS as ALL_STEMS
from ipa.model.folder import ModelFolder
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_model, verify_model

MISSING = {"text_encoder_2", "controlnet", "t2i_adapter"}  # of SDXL, and no part of a model
STEMS = {name: stem for name, stem in ALL_STEMS.items() if name not in MISSING}
UNET = "unet/diffusion_pytorch_model.safetensors"


def opened(path: Path) -> ModelFolder:
    return open_model_folder(path, name=path.name)


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    """A model that a test may damage, its text tower as old transformers wrote it."""
    folder = tmp_path / "source"
    shutil.copytree(tiny, folder)
    path = folder / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{k}": v for k, v in safetensors.torch.load_file(path).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    safetensors.torch.save_file(tensors, path)
    return folder


def test_there_and_back(source: Path, tmp_path: Path) -> None:
    """Bit for bit; and diffusers' and transformers' own loaders take it."""
    there = convert_model(opened(source), tmp_path / "mlx")
    back = convert_model(opened(there), tmp_path / "back", layout="diffusers")
    for component, stem in STEMS.items():
        before, after = (
            safetensors.torch.load_file(root / component / f"{stem}.safetensors")
            for root in (source, back)
        )
        before.pop("text_model.embeddings.position_ids", None)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
    states = [
        ipa.load(root, backend="torch", device="cpu")._loaded.backend.unet.state_dict()
        for root in (source, back)
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_source(zipped: bool, source: Path, tmp_path: Path) -> None:
    """Files of torch.save give the same bits, and the same files on the way back."""
    expected = convert_model(opened(source), tmp_path / "expected")
    for component, stem in STEMS.items():
        path = source / component / f"{stem}.safetensors"
        name = "pytorch_model.bin" if stem == "model" else f"{stem}.bin"
        tensors = safetensors.torch.load_file(path)
        torch.save(tensors, path.with_name(name), _use_new_zipfile_serialization=zipped)
        path.unlink()
    found = convert_model(opened(source), tmp_path / "found")
    for component, stem in STEMS.items():
        file = f"{component}/{stem}.safetensors"
        assert (found / file).read_bytes() == (expected / file).read_bytes()
    assert verify_model(opened(source), opened(found)) > 100
    manifest = json.loads((found / "conversion.json").read_text())
    assert all(entry["file"].endswith(".bin") for entry in manifest["sources"])


def test_manifest(source: Path, tmp_path: Path) -> None:
    target = convert_model(opened(source), tmp_path / "mlx", dtype="float16")
    found = json.loads((target / "conversion.json").read_text())
    assert (found["layout"], found["tables"]) == ("mlx", "1")
    assert found["dtypes"].keys() == {f"{name}/{stem}" for name, stem in STEMS.items()}
    assert all(counts.keys() == {"F16"} for counts in found["dtypes"].values())
    assert {Path(s["file"]).parent.name for s in found["sources"]} == set(STEMS)
    for entry in found["sources"]:
        content = (source / entry["file"]).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert list(found["dropped"]) == ["text_model.embeddings.position_ids"]
    assert "no weights" in found["dropped"]["text_model.embeddings.position_ids"]


@pytest.mark.parametrize("layout", ["mlx", "diffusers"])
def test_progress_and_verification(layout: str, source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def report(done: int, total: int) -> None:
        seen.append((done, total))

    options = {"dtype": "bfloat16", "on_progress": report}
    target = convert_model(opened(source), tmp_path / "out", layout=layout, **options)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1
    written = len(seen)
    assert verify_model(opened(source), opened(target), **options) == written == len(seen) / 2
    assert seen[-1][0] == seen[-1][1]
    path = target / UNET
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what its source holds"):
        verify_model(opened(source), opened(target), dtype="bfloat16")


def test_a_source_that_changes_meanwhile(source: Path, tmp_path: Path) -> None:
    def touch(done: int, total: int) -> None:
        if done == total:
            os.utime(source / UNET, ns=(1, 1))

    with pytest.raises(CheckpointError, match="changed while it was converted"):
        convert_model(opened(source), tmp_path / "out", on_progress=touch)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


KILLED = """
import os, signal, sys
from pathlib import Path
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_model
source, target, at = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
def report(done, total):
    if done >= at * total:
        os.kill(os.getpid(), signal.SIGKILL)
convert_model(open_model_folder(source, name="source"), target, on_progress=report)
"""


def test_killed_at_any_moment(source: Path, tmp_path: Path) -> None:
    """Never half a folder under its own name; the next run cleans up and ends well."""
    target = tmp_path / "out"
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        command = [sys.executable, "-c", KILLED, str(source), str(target), str(share)]
        assert subprocess.run(command).returncode == -signal.SIGKILL
        assert not target.exists()
        left = [path.name for path in tmp_path.glob(".out.*.partial")]
        assert len(left) == 1, "of earlier runs nothing is left"
    alive = tmp_path / f".out.{os.getpid()}-00000000.partial"
    alive.mkdir()
    assert verify_model(opened(source), opened(convert_model(opened(source), target))) > 100
    assert list(tmp_path.glob(".out.*.partial")) == [alive], "another run's folder stays"
