"""What each room may import: the table is the layering, from the foundations to the doors."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import pytest

from architecture.rooms import PACKAGES, ROOT, Import, circles, imports, sources

# What a room may import beside itself. A room is a module or a package with all that is in it.
_GROUND = ("ipa.errors", "ipa.arrays")
_CHECKS = (*_GROUND, "ipa.checks", "ipa.files", "ipa.version", "ipa.watching")
_MODEL = (*_CHECKS, "ipa.model")
_ASKED = (*_MODEL, "ipa.memory", "ipa.request", "ipa.backend")
_DATA = ("ipa.demo", "ipa.bases")
_READY = (*_ASKED, *_DATA, "ipa.prepare", "ipa.sources", "ipa_convert")
_RUN = (*_READY, "ipa.metadata", "ipa.pipeline")
_SHARED = ("ipa.request.scales", "ipa.prepare.text.weights", "ipa.sources.encoders")
RULES: Mapping[str, tuple[str, ...]] = {
    "ipa.errors": (),
    "ipa.arrays": (),
    "ipa.version": (),
    "ipa.old_homes": (),
    "ipa.demo": (),
    "ipa.bases": (),
    "ipa.checks": _GROUND,
    "ipa.files": _GROUND,
    "ipa.watching": _GROUND,
    "ipa.model": _CHECKS,
    "ipa_convert": _MODEL,
    "ipa.memory": _MODEL,
    "ipa.request": _MODEL,
    "ipa.backend": (*_MODEL, "ipa.memory", "ipa.request.scales"),
    "ipa.prepare": (*_ASKED, *_DATA, "ipa_convert"),
    "ipa.sources": (
        *(*_ASKED, *_DATA, "ipa_convert"),
        *("ipa.prepare.samplers.families", "ipa.prepare.text.tokenizer"),
    ),
    "ipa.controls": ("ipa.prepare",),
    "ipa.face_embedder": ("ipa.prepare",),
    "ipa.metadata": _READY,
    "ipa.pipeline": (*_READY, "ipa.metadata"),
    "ipa.sheets": _RUN,
    "ipa.engine": _RUN,
    "ipa.serve": (*_RUN, "ipa.engine", "ipa.controls"),
    "ipa.studio": (*_RUN, "ipa.engine", "ipa.controls", "ipa.sheets", "ipa.serve"),
    "ipa.parity": _RUN,
    "ipa.bench": (*_RUN, "ipa.parity"),
    "ipa.app": ("ipa", "ipa_convert"),
    "ipa_mlx": (
        *_GROUND,
        "ipa.checks",
        "ipa.watching",
        "ipa.model",
        "ipa.memory",
        "ipa.backend",
        "ipa_convert",
        *_SHARED,
    ),
    "ipa_torch": (
        *(*_GROUND, "ipa.checks", "ipa.watching", "ipa.model"),
        *("ipa.memory", "ipa.backend", *_SHARED),
    ),
}
_FRAME = (
    "request_options",
    "session",
    "events",
    "terminal",
    "output",
    "claims",
    "interrupts",
    "preview_file",
    "provenance",
    "replaying",
)
# Inside a package: what each of its rooms may import of the others in it.
INSIDE: Mapping[str, tuple[str, ...]] = {
    "ipa_convert.containers": (),
    "ipa_convert.tables": ("containers",),
    "ipa_convert.lora": ("containers", "tables"),
    "ipa_convert.reading": ("containers", "tables", "lora"),
    "ipa_convert.inspection": ("containers", "tables", "lora", "reading"),
    "ipa_convert.writing": ("containers", "tables", "lora", "reading", "inspection"),
    "ipa.parity.capture": (),
    "ipa.parity.compare": ("capture",),
    "ipa.parity.report": ("capture", "compare"),
    "ipa.serve.guard": ("faults", "limits"),
    "ipa.serve.dialects": ("asked", "faults", "fields", "limits", "offers", "pictures"),
    "ipa.app.options": _FRAME,
    "ipa.app.commands": (*_FRAME, "options", "help", "command", "summary"),
    "ipa_mlx.networks": ("device",),
    "ipa_torch.networks": ("files",),
    "ipa_torch.files": (),
}
# Doors, which import what they show when it is asked for.
DOORS = {f"{package}.__init__" for package in ("ipa", "ipa_mlx", "ipa_torch", "ipa_convert")}
DOORS |= {f"ipa.{name}.__init__" for name in ("sheets", "parity", "pipeline", "prepare.images")}
MOST_FILES = 25  # of a folder; more is a drawer


def inside(module: str, room: str) -> bool:
    """Whether a module is a room or lies in it."""
    return f"{module}.".startswith(f"{room}.")


def room_of(module: str, rooms: Iterable[str]) -> str | None:
    """The room of a module: the longest name that it lies in."""
    return max((room for room in rooms if inside(module, room)), key=len, default=None)


def upward(found: Iterable[Import]) -> list[str]:
    """Imports that the table does not allow, each with its rule."""
    wrong = []
    for one in found:
        room = room_of(one.importer, RULES)
        if one.importer in DOORS or (room and inside(one.imported, room)):
            continue
        allowed = RULES.get(room or "", ())
        if not any(inside(one.imported, name) for name in allowed):
            wrong.append(f"{one}: {room or 'a module without a room'} may import {allowed}")
    return wrong


def upward_inside(found: Iterable[Import]) -> list[str]:
    """The same within packages that have an order of their own."""
    wrong = []
    for one in found:
        room = room_of(one.importer, INSIDE)
        package = (room or "").rpartition(".")[0]
        if room is None or inside(one.imported, room) or not inside(one.imported, package):
            continue
        if one.imported == f"{package}.__init__":
            continue
        allowed = tuple(f"{package}.{name}" for name in INSIDE[room])
        if not any(inside(one.imported, name) for name in allowed):
            wrong.append(f"{one}: of {package}, {room} may import {allowed}")
    return wrong


def arrows(found: Iterable[Import]) -> dict[str, set[str]]:
    """By module, those that it imports."""
    by_module = defaultdict(set)
    for one in found:
        if one.importer not in DOORS and one.imported not in DOORS:
            by_module[one.importer].add(one.imported)
    return by_module


TEXTS = sources()


@pytest.fixture(scope="module")
def found() -> list[Import]:
    return imports(TEXTS)


def test_imports_run_down(found: list[Import]) -> None:
    assert not upward(found)


def test_imports_run_down_inside(found: list[Import]) -> None:
    assert not upward_inside(found)


def test_no_circles(found: list[Import]) -> None:
    assert not circles(arrows(found))


def test_the_tables_name_what_there_is() -> None:
    known = set(TEXTS)
    for room in (*RULES, *INSIDE):
        assert any(inside(module, room) for module in known), room


def test_every_module_has_a_room() -> None:
    """A file in the wrong place is told which places there are."""
    lost = [m for m in TEXTS if room_of(m, RULES) is None and m not in DOORS]
    assert not lost, f"no room for {lost}; the rooms are {sorted(RULES)}"


def test_no_drawers() -> None:
    counts = Counter(
        str(path.parent.relative_to(ROOT))
        for folder in PACKAGES.values()
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    )
    full = {folder: count for folder, count in counts.items() if count > MOST_FILES}
    assert not full, f"more than {MOST_FILES} files in a folder: {full}"


PLANTED = {
    "a request knows a pipeline": ("ipa.request.masks", "from ipa.pipeline.plan import Plan"),
    "a model knows a request, for types": (
        "ipa.model.unet",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from ipa.request.request import Request",
    ),
    "converters know a pipeline, in a function": (
        "ipa_convert.reading.model",
        "def late():\n    from ipa.pipeline import loading",
    ),
    "a backend knows a pipeline": ("ipa_mlx.text", "from ipa.pipeline.run import Run"),
}


def planted(module: str, code: str) -> list[Import]:
    """The imports of a module with other contents."""
    return imports({**dict.fromkeys(TEXTS, ""), module: code})


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_import_is_found(fault: str) -> None:
    module, code = PLANTED[fault]
    (told,) = upward(planted(module, code))
    assert told.startswith(f"{module}:") and "may import" in told


def test_a_planted_upward_import_inside_a_package_is_found() -> None:
    code = "from ..writing.folder import convert_model"
    (told,) = upward_inside(planted("ipa_convert.tables.unet", code))
    assert "ipa_convert.tables may import" in told


def test_a_planted_circle_is_found(found: list[Import]) -> None:
    code = "def late():\n    from ipa.checks import is_finite\n"
    both = [*found, *planted("ipa.errors", code)]
    assert ["ipa.checks", "ipa.errors"] in circles(arrows(both))


def test_a_file_outside_every_room_is_found() -> None:
    assert room_of("ipa.newcomer", RULES) is None


def test_submodules_are_followed() -> None:
    """`from . import b` and `import a.b` are followed as `from a import b` is."""
    texts = {"ipa.request.a": "from . import b\nimport ipa.request.c"}
    texts |= {"ipa.request.b": "", "ipa.request.c": ""}
    told = {one.imported for one in imports(texts)}
    assert told == {"ipa.request.b", "ipa.request.c"}
