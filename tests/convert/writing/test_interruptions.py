"""Whatever interrupts a conversion: a whole folder or none, a plain message, and the next run."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ipa.app.terminal import EXIT_CODES
from ipa.errors import CheckpointError
from ipa.model.folder import ModelFolder
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_model, verify_model
from ipa_convert.containers import atomic as appearing
from ipa_convert.writing import folder

UNET = "unet/diffusion_pytorch_model.safetensors"
PROGRAM = Path(sys.executable).with_name("ipa-mlx")
KILLS = 20
NOBODY = 65534
LONG = 60.0  # seconds that none takes

# A conversion in a process of its own: it says when it begins, and a CheckpointError is its last
# line. `setup` is run after everything is imported.
DRIVER = """
import os, resource, sys
from pathlib import Path
from ipa.errors import CheckpointError
from ipa.sources.model_folder import open_model_folder
from ipa_convert import convert_model
source, target = Path(sys.argv[1]), Path(sys.argv[2])
report = None
exec(sys.argv[3])
print("go", flush=True)
try:
    convert_model(open_model_folder(source, name="source"), target, on_progress=report)
except CheckpointError as error:
    sys.exit(f"refused: {error}")
"""


def opened(path: Path) -> ModelFolder:
    return open_model_folder(path, name=path.name)


def driver(source: Path, target: Path, setup: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(source), str(target), setup]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, **pipes)


def refusal(source: Path, target: Path, setup: str) -> str:
    """The message of a conversion that must be refused, without a trace of Python."""
    process = driver(source, target, setup)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, f"{process.returncode}: {said}"
    assert said.startswith("refused: ") and "Traceback" not in said
    return said


def leftovers(place: Path) -> list[str]:
    return [p.name for p in place.iterdir() if "partial" in p.name]


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Path:
    """A model that a test may damage."""
    return Path(shutil.copytree(tiny, tmp_path / "source"))


# One process that has imported everything: for each line, another one of its own that converts.
# It prints that one's number at once, and how it ended when it has.
FORKS = (
    DRIVER[: DRIVER.index("exec(")]
    + """
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        convert_model(open_model_folder(source, name="source"), target)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
)


@pytest.fixture
def convert_for(tiny: Path, tmp_path: Path) -> Iterator[Callable[[float], int]]:
    """A conversion to "out" that is killed after so many seconds: how its process ended."""
    command = [sys.executable, "-c", FORKS, str(tiny), str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None
        commands, answers = process.stdin, process.stdout

        def run(seconds: float) -> int:
            commands.write("\n")
            commands.flush()
            number = int(answers.readline())
            if seconds < LONG:
                time.sleep(seconds)
                with suppress(ProcessLookupError):  # it has ended before
                    os.kill(number, signal.SIGKILL)
            return int(answers.readline())

        yield run
        commands.close()


def test_killed_at_random_moments(
    convert_for: Callable[[float], int], tiny: Path, tmp_path: Path
) -> None:
    """At twenty, over its whole life and a bit beyond; the next run ends well and cleans up."""
    target, draw = tmp_path / "out", random.Random(11)
    began = time.monotonic()
    assert convert_for(LONG) == 0
    life = time.monotonic() - began
    shutil.rmtree(target)
    killed = halves = 0
    for number in range(KILLS):
        moment = life * 1.1 * (number + draw.random()) / KILLS
        ended = convert_for(moment)
        killed += ended == -signal.SIGKILL
        life = min(life, moment) if ended == 0 else life  # what else ran made the first one long
        halves += bool(leftovers(tmp_path))
        if not target.exists():
            convert_model(opened(tiny), target)
        assert verify_model(opened(tiny), opened(target)) > 100
        assert [p.name for p in tmp_path.iterdir()] == ["out"], "what was killed is cleaned up"
        shutil.rmtree(target)
    assert killed >= KILLS // 2 and halves >= KILLS // 4, "they hit it while it was writing"


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """A small disk of its own, for as long as the block."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if done.returncode:
        pytest.skip(f"no right to mount a small disk: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


class Roomy:
    """What a disk says that promises more than it has."""

    free = 1 << 40


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.75, 0.97])
def test_a_disk_that_fills_up(
    share: float, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one, at several moments: among configs, among tensors, near the end."""
    size = sum(p.stat().st_size for p in tiny.glob("*/*.safetensors"))
    monkeypatch.setattr(appearing.shutil, "disk_usage", lambda path: Roomy)
    with mounted(tmp_path / "disk", f"size={max(16384, int(share * size))}") as disk:
        with pytest.raises(CheckpointError, match="could not be written") as caught:
            convert_model(opened(tiny), disk / "out")
        assert "No space left" in caught.value.found
        assert "free space" in caught.value.remedy
        assert list(disk.iterdir()) == []
        target = convert_model(opened(tiny), tmp_path / "elsewhere")
        assert verify_model(opened(tiny), opened(target)) > 100


def test_a_disk_that_is_too_small(tiny: Path, tmp_path: Path) -> None:
    """It is asked before anything is written."""
    with mounted(tmp_path / "disk", "size=1m") as disk:
        with pytest.raises(CheckpointError, match="the disk is too small") as caught:
            convert_model(opened(tiny), disk / "out")
        assert "0.0 GB free" in caught.value.found
        assert list(disk.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 1000, 100_000, 5_000_000])
def test_files_that_may_not_grow(limit: int, tiny: Path, tmp_path: Path) -> None:
    """A quota, as far as any user can set one: each file ends at so many bytes."""
    setup = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))"
    said = refusal(tiny, tmp_path / "out", setup)
    assert "could not be written" in said and "File too large" in said and "free space" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fsync", "rename", "mkdir", "copyfile", "write_text", "replace"])
def test_a_step_that_fails(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call that asks the disk for something."""
    owner = {"fsync": os, "copyfile": shutil}.get(name, Path)

    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full)
        with pytest.raises(CheckpointError, match="could not be written") as caught:
            convert_model(opened(tiny), tmp_path / "out")
    assert "No space left" in caught.value.found and "free space" in caught.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_flushed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network disks refuse it: the folder is whole and under its name all the same."""

    def refuse(place: Path) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(appearing, "_flush_folder", refuse)
    target = convert_model(opened(tiny), tmp_path / "out")
    assert verify_model(opened(tiny), opened(target)) > 100


def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    """The command itself: one line and the code of a checkpoint that cannot be had."""
    with mounted(tmp_path / "disk", "size=64m,ro") as disk:
        command = [PROGRAM, "convert", "demo", str(disk / "out")]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == EXIT_CODES[CheckpointError] == 3
    assert "could not be written" in done.stderr and "Read-only file system" in done.stderr
    assert "permissions" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.fixture
def public(tiny: Path) -> Iterator[Path]:
    """A copy of the model that any user may read; pytest's own folders are private."""
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(tiny, Path(place) / "source")
        for path in (Path(place), *Path(place).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield Path(place)


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_of_somebody_else(mode: int, public: Path) -> None:
    """One that may be read and not written, and one that may not even be looked into."""
    locked = public / "locked"
    locked.mkdir()
    locked.chmod(mode)
    setup = f"os.seteuid({NOBODY})" if os.geteuid() == 0 else ""  # root may do anything
    said = refusal(public / "source", locked / "out", setup)
    locked.chmod(0o755)
    assert "could not be written" in said and "Permission denied" in said
    assert "permissions" in said
    assert list(locked.iterdir()) == []


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def replace(path: Path) -> None:
    """By a file of the same size and time."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-3] ^= 1
    path.with_suffix(".new").write_bytes(content)
    os.utime(path.with_suffix(".new"), ns=(before.st_atime_ns, before.st_mtime_ns))
    path.with_suffix(".new").replace(path)


def change_a_byte(path: Path) -> None:
    """And set the clock back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def spoil(path: Path) -> None:
    """With values that are refused before the change is looked for."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * (path.stat().st_size // 2))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "change",
    [grow, cut, empty, replace, change_a_byte, spoil, Path.unlink],
    ids=lambda f: f.__name__,
)
def test_a_source_that_changes(
    change: Callable[[Path], None], share: float, source: Path, tmp_path: Path
) -> None:
    """After the first tensor, in the middle, after the last; the UNet's file comes first."""
    pending = [change]

    def report(done: int, total: int) -> None:
        if done >= share * total and pending:
            pending.pop()(source / UNET)

    with pytest.raises(CheckpointError, match="changed while it was converted") as caught:
        convert_model(opened(source), tmp_path / "out", on_progress=report)
    assert UNET in caught.value.what and caught.value.remedy
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_source_that_is_cut_ends_no_process(share: float, source: Path, tmp_path: Path) -> None:
    """Who touches a map of a file that has been cut is killed (SIGBUS); in a process of its own."""
    setup = (
        "def report(done, total):\n"
        f"    if done >= {share} * total:\n"
        f"        os.truncate(source / {UNET!r}, 100)\n"
    )
    assert "changed while it was converted" in refusal(source, tmp_path / "out", setup)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_source_that_changes_before_its_values_are_read(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the headers and the first tensor: the marks of the files are older than both."""
    check = folder.check_space

    def late(place: Path, needed: int) -> None:
        change_a_byte(source / UNET)
        check(place, needed)

    monkeypatch.setattr(folder, "check_space", late)
    with pytest.raises(CheckpointError, match="changed while it was converted"):
        convert_model(opened(source), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]
