"""What a user installs: the wheel holds every package and the demo, and no top-level `convert`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_contents(tmp_path: Path) -> None:
    # A copy, so that no build/ folder is left in the checkout, nor read from it.
    ignore = shutil.ignore_patterns(".*", "build", "dist", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "source", ignore=ignore)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(tmp_path / "source")], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.partition("/")[0] for name in names if not name.partition("/")[0].endswith("info")}
    assert top == {"ipa", "ipa_mlx", "ipa_torch", "ipa_convert"}
    for package in top:
        folder = package.replace("ipa_convert", "convert")
        present = {
            f"{package}/{p.relative_to(ROOT / folder)}" for p in (ROOT / folder).rglob("*.py")
        }
        assert present <= names
    assert "ipa/demo/model/unet/diffusion_pytorch_model.safetensors" in names
    assert "ipa/demo/model/tokenizer/merges.txt" in names
    assert sum(name.startswith("ipa/demo/references/") for name in names) == 8
