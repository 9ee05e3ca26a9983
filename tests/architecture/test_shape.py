"""The shape of the house: mirrors, package list, sizes, silence. It decays if nobody looks."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"ipa": "ipa", "ipa_mlx": "ipa_mlx", "ipa_torch": "ipa_torch", "ipa_convert": "convert"}
MAX_FILE, MAX_FUNCTION, MAX_PARAMETERS = 450, 40, 9
# What diffusers and transformers bring themselves, so that the reference has no file for it.
MLX_ONLY = {
    "bench/graph.py": "the graphs of torch are its own affair",
    "blas.py": "a fast BLAS for MLX's Linux wheel",
    "device.py": "torch runs the same layers on every device",
    "graph": "the graphs of torch are its own affair",
    "memory": "the reference does not foretell its memory",
    "networks/clip.py": "transformers has its own towers",
    "networks/layers.py": "torch has its own layers",
    "networks/norms.py": "torch has its own norms",
    "networks/projectors.py": "diffusers has its own projectors",
    "compiled.py": "torch is run as it is",
    "networks/unfolding.py": "a way around one gap of MLX",
    "networks/unet.py": "diffusers has its own UNet",
    "networks/unet_blocks.py": "diffusers has its own blocks",
    "networks/unet_down.py": "diffusers has its own UNet and ControlNet",
    "networks/vae.py": "diffusers has its own autoencoder",
    "networks/watching.py": "torch has hooks",
    "networks/weights.py": "the reference reads originals in `files`",
}
TORCH_ONLY = {
    "networks/shallow.py": "diffusers runs its networks whole; MLX's do parts of themselves",
    "startup.py": "MKL and OpenMP ask the environment; MLX has its `blas.py`",
    "files": "originals, which the converters read for MLX",
}
# Names that both backends have in files of the same name.
SHARED_NAMES = {
    "adapters.py": {"Adapters", "ImageAdapter"},
    "backend.py": {"load"},
    "conditioning.py": {"Conditioning"},
    "networks/context.py": {"Context", "KeyValue"},
    "loras.py": {"Loras"},
    "sampler.py": {"advance", "guide"},
    "stages.py": {"Stages"},
    "__init__.py": {"load", "open_backend"},
}


def modules() -> list[Path]:
    return [p for folder in PACKAGES.values() for p in sorted((ROOT / folder).rglob("*.py"))]


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def names(path: Path) -> set[str]:
    body = ast.parse(path.read_text("utf-8")).body
    return {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def test_files_are_short() -> None:
    long = {str(p.relative_to(ROOT)): len(p.read_text("utf-8").splitlines()) for p in modules()}
    assert not {name: lines for name, lines in long.items() if lines > MAX_FILE}


def test_functions_are_short() -> None:
    """Counted without the docstring."""
    long = {}
    for path in modules():
        for node in functions(path):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            parameters = len(node.args.args) + len(node.args.kwonlyargs)
            is_command = path.name == "cli.py" or "commands" in path.parts  # a parameter per option
            if lines > MAX_FUNCTION or (parameters > MAX_PARAMETERS and not is_command):
                long[f"{path.relative_to(ROOT)}:{node.name}"] = (lines, parameters)
    assert not long


def test_every_module_says_what_it_is() -> None:
    mute = [
        str(p.relative_to(ROOT))
        for p in modules()
        if not ast.get_docstring(ast.parse(p.read_text("utf-8")))
    ]
    assert not mute


def test_values_are_frozen_in_the_shared_half() -> None:
    loose = []
    for path in [*(ROOT / "ipa").rglob("*.py"), *(ROOT / "convert").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                loose += [
                    f"{path.relative_to(ROOT)}:{node.name}"
                    for decorator in node.decorator_list
                    if "dataclass" in ast.unparse(decorator)
                    and "frozen=True" not in ast.unparse(decorator)
                ]
    assert not loose


def test_only_the_application_prints() -> None:
    loud = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules()
        if "app" not in path.parts
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "sys.stdout.write"}
    ]
    assert not loud


def files_of(package: str, own: Mapping[str, str]) -> set[str]:
    inside = {p.relative_to(ROOT / package) for p in (ROOT / package).rglob("*.py")}
    return {str(p) for p in inside if str(p) not in own and p.parts[0] not in own}


def test_backends_mirror_each_other() -> None:
    assert files_of("ipa_mlx", MLX_ONLY) == files_of("ipa_torch", TORCH_ONLY)


@pytest.mark.parametrize("file", SHARED_NAMES)
def test_backends_share_names(file: str) -> None:
    for package in ("ipa_mlx", "ipa_torch"):
        assert SHARED_NAMES[file] <= names(ROOT / package / file), package


def test_no_test_folder_hides_a_package() -> None:
    """tests/ is on the path for its oracles: a folder there would be imported instead."""
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir()}
    assert not folders & {*PACKAGES, "mlx", "torch", "numpy", "PIL"}


def test_packages_are_listed() -> None:
    """A sub-package that pyproject.toml forgets is silently absent from the wheel."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    present = set()
    for package, folder in PACKAGES.items():
        for init in (ROOT / folder).rglob("*.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            present.add(".".join((package, *parts)))
    assert listed == present
