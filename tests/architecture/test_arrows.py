"""What is not imported: frameworks by the other half, converters by most of `ipa`.

Which room may import which is in `test_rooms`.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"ipa": "ipa", "ipa_mlx": "ipa_mlx", "ipa_torch": "ipa_torch", "ipa_convert": "convert"}
TORCH = {"torch", "transformers", "diffusers", "accelerate", "peft"}
FORBIDDEN = {
    "ipa": TORCH | {"mlx", "ipa_mlx", "ipa_torch"},
    "ipa_mlx": TORCH | {"ipa_torch"},
    "ipa_torch": {"mlx", "ipa_mlx", "ipa_convert"},
    "ipa_convert": TORCH | {"mlx", "ipa_mlx", "ipa_torch"},
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / FOLDERS[package]).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Absolute names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", FOLDERS)
def test_forbidden_imports(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(package)
        for name in imports(path)
        if name.partition(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


def test_who_reaches_the_converters() -> None:
    """The application; what tells the structure of a lone file, never its weights; what reads the
    embeddings of pictures and words in files of torch.save; what hashes weights, and what
    counts their bytes, for both backends alike."""
    reaching = {
        str(path.relative_to(ROOT / "ipa"))
        for path in sources("ipa")
        if "app" not in path.parts and any(name.startswith("ipa_convert") for name in imports(path))
    }
    assert reaching == {
        "bench/work.py",
        "pipeline/fingerprints.py",
        "prepare/image_prompts/ipadpt.py",
        "prepare/text/textual_inversion.py",
        "sources/base_configs.py",
        "sources/controls.py",
        "sources/encoder_places.py",
        "sources/model_folder.py",
    }


def run(code: str, blocked: set[str]) -> str:
    """Run code in a fresh interpreter in which some packages cannot be imported."""
    block = f"import sys; sys.modules.update({{name: None for name in {sorted(blocked)!r}}})\n"
    done = subprocess.run([sys.executable, "-c", block + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mlx_path_runs_without_torch() -> None:
    code = (
        "import sys, ipa, ipa_mlx\nfrom ipa import demo\nfrom PIL import Image\n"
        "assert 'mlx' not in sys.modules, 'imported before a backend was asked for'\n"
        "pipe = ipa.load('demo', backend='mlx')\n"
        "pipe.load_ip_adapter(demo.adapter('base'))\n"
        "out = pipe('', ip_adapter_image=Image.open(demo.references()[0]), num_inference_steps=1)\n"
        "print(out.images[0].size, sorted(m for m in sys.modules if m.split('.')[0] in "
        f"{sorted(TORCH)!r} and sys.modules[m] is not None))"
    )
    assert run(code, TORCH | {"ipa_torch"}).strip() == "(64, 64) []"


def test_torch_path_runs_without_mlx() -> None:
    code = (
        "import sys, ipa, ipa_torch\nfrom ipa import demo\nfrom PIL import Image\n"
        "assert 'torch' not in sys.modules, 'imported before a backend was asked for'\n"
        "pipe = ipa.load('demo', backend='torch', device='cpu')\n"
        "pipe.load_ip_adapter(demo.adapter('base'))\n"
        "out = pipe('', ip_adapter_image=Image.open(demo.references()[0]), num_inference_steps=1)\n"
        "print(out.images[0].size)"
    )
    assert run(code, {"mlx", "ipa_mlx", "ipa_convert"}).strip() == "(64, 64)"


UNUSED = ("writing", "inspection", "lora", "containers.torch_save", "reading.component_file")


def test_loading_a_model_imports_no_converter_that_it_does_not_use() -> None:
    """Writers, descriptions and LoRAs, and torch's files where safetensors lie."""
    code = (
        "import sys, ipa\nfrom ipa import demo\n"
        "pipe = ipa.load('demo', backend='mlx')\n"
        "pipe.load_ip_adapter(demo.adapter('base'))\n"
        "print(*sorted(sys.modules))"
    )
    loaded = run(code, set()).split()
    assert {"ipa_convert.reading.model", "ipa_convert.tables.ip_adapter"} <= set(loaded)
    rooms = tuple(f"ipa_convert.{room}" for room in UNUSED)
    assert [name for name in loaded if name.startswith(rooms)] == []
    for room in rooms:
        importlib.import_module(room)  # the names are right, or the line above proves nothing


@pytest.mark.parametrize("package", FOLDERS)
def test_import_changes_nothing(package: str) -> None:
    """No output, no environment, no thread, no framework: importing is free."""
    code = (
        "import os, sys, threading\n"
        "before = dict(os.environ)\n"
        f"import {package}\n"
        "assert dict(os.environ) == before\n"
        "assert threading.active_count() == 1\n"
        f"assert not set({sorted(TORCH | {'mlx'})!r}) & sys.modules.keys()\n"
    )
    assert run(code, set()) == ""
