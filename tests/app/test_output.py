"""Names of what is written, and what becomes of pictures that cannot be: nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ipa import RequestError, demo
from ipa.app.claims import claim, free_paths
from ipa.app.cli import app
from ipa.app.output import Saving, save_png

PROGRAM = Path(sys.executable).with_name("ipa-mlx")
QUICK = ("--steps", "1", "--guidance", "1", "--width", "32", "--height", "32")
MOUNTS = ("unshare", "--user", "--map-root-user", "--mount")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type `ipa-mlx …` in an empty folder that holds style.png."""
    monkeypatch.chdir(tmp_path)
    Image.open(demo.references()[3]).save("style.png")
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def noise(side: int, seed: int = 0) -> Image.Image:
    """A picture that does not compress."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_names_are_numbered(call: Callable[..., Result], tmp_path: Path) -> None:
    """The default's and those that are typed; standard output says the name that it got."""
    first = call("generate", "-p", "a ring", *QUICK)
    kept = (tmp_path / "out.png").read_bytes()
    again = call("generate", "-p", "a star", *QUICK)
    typed = call("generate", "-p", "a star", *QUICK, "-o", "out.png")
    assert [done.stdout for done in (first, again, typed)] == [
        "out.png\n",
        "out-2.png\n",
        "out-3.png\n",
    ]
    assert "out.png exists already and is kept; out-3.png is written" in typed.stderr
    assert "exists already" not in again.stderr
    assert (tmp_path / "out.png").read_bytes() == kept
    over = call("generate", "-p", "a star", *QUICK, "-o", "out.png", "--overwrite")
    assert over.stdout == "out.png\n" and (tmp_path / "out.png").read_bytes() != kept


def test_several_are_numbered_after_the_largest(call: Callable[..., Result]) -> None:
    words = ("generate", "-p", "a ring", *QUICK, "--num-images", 2)
    assert call(*words).stdout.split() == ["out-1.png", "out-2.png"]
    Path("out-7.png").write_bytes(b"")
    assert call(*words).stdout.split() == ["out-8.png", "out-9.png"]
    assert call(*words, "--overwrite").stdout.split() == ["out-1.png", "out-2.png"]


def test_sheets_and_views_are_numbered(call: Callable[..., Result], tmp_path: Path) -> None:
    sweep = ("sweep", "-i", "style.png", "--scales", "0,1", *QUICK[:4])
    assert [call(*sweep).stdout for _ in range(2)] == ["sweep.png\n", "sweep-2.png\n"]
    for _ in range(2):
        view = ("--show-reference", "seen", "--influence", "where.npz")
        done = call("generate", "-i", "style.png", *QUICK, *view)
        assert done.exit_code == 0, done.output
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"seen.png", "seen-2.png", "where.npz", "where-2.npz"}
    explain = ("explain", "-i", "style.png", "-o", "bars.png", "--steps", 2)
    assert call(*explain).exit_code == call(*explain).exit_code == 0
    assert (tmp_path / "bars-2.png").is_file()


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
@pytest.mark.parametrize("option", ["-o", "--show-reference", "--preview"])
def test_an_input_is_never_written(
    option: str, more: tuple[str, ...], call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is called; told before weights are read."""
    monkeypatch.setattr("ipa.app.options.loading.load", None)
    before = Path("style.png").read_bytes()
    os.link("style.png", "other.png")
    for name in ("style.png", "other.png", "./style.png"):
        done = call("generate", "-i", "style.png:0.5", *QUICK, option, name, *more)
        assert done.exit_code == 2, done.output
        assert "is one of the pictures that this command reads" in done.stderr
    done = call("sweep", "-i", "style.png", "-o", "style.png", *more)
    assert done.exit_code == 2 and "that this command reads" in done.stderr
    assert Path("style.png").read_bytes() == before


def test_a_picture_that_was_made_by_the_default_name_can_be_gone_on_from(
    call: Callable[..., Result],
) -> None:
    Path("style.png").rename("out.png")
    done = call("generate", "--image", "out.png", "-n", 2)
    assert (done.stdout, done.exit_code) == ("out-2.png\n", 0), done.output


def test_a_name_without_a_suffix(call: Callable[..., Result]) -> None:
    for typed, written in (("heart", "heart.png"), ("v1.5", "v1.5.png")):
        assert call("generate", "-p", "a ring", *QUICK, "-o", typed).stdout == f"{written}\n"
    done = call("generate", "-o", "heart.gif")
    assert done.exit_code == 2 and "use a name that ends in .png, .jpg" in done.stderr


def test_home_is_expanded(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a shell does not: in quotes, and after NAME=."""
    monkeypatch.setenv("HOME", str(tmp_path))
    adapter = tmp_path / "adapter.safetensors"
    adapter.write_bytes(demo.adapter("base").read_bytes())
    (tmp_path / "image_encoder").symlink_to(demo.adapter("base").parent / "image_encoder")
    monkeypatch.chdir("/")
    done = call(
        *("generate", "-o", "~/x.png", "-i", "base=~/style.png:0.5", "--mask", "1=~/style.png"),
        *("-a", "base=~/adapter.safetensors", "--image", "~/style.png", "-n", 2),
    )
    assert done.exit_code == 0, done.output
    assert (tmp_path / "x.png").is_file()


def test_many_at_once_get_a_name_each(tmp_path: Path) -> None:
    """Real processes, all of which ask for one name; each writes a picture of its own."""
    code = (
        "import sys; from pathlib import Path; from PIL import Image;"
        "from ipa.app.output import save_png; sys.stdin.read(1);"
        "[save_png(Image.new('RGB', (1, 1), (int(sys.argv[1]), n, 0)), Path('x.png'))"
        " for n in range(20)]"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)], cwd=tmp_path, stdin=subprocess.PIPE
        )
        for number in range(3)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"!")
        process.stdin.close()
    assert [process.wait(120) for process in started] == [0, 0, 0]
    found = {Image.open(path).getpixel((0, 0)) for path in tmp_path.iterdir()}
    assert found == {(process, n, 0) for process in range(3) for n in range(20)}


def test_names_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """exFAT and some networks have none."""

    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    for number, name in enumerate(["x.png", "x-2.png", "x-3.png"]):
        (tmp_path / "new").write_bytes(bytes([number]))
        assert claim(tmp_path / "new", tmp_path / "x.png") == tmp_path / name
    assert (tmp_path / "x.png").read_bytes() == b"\0"
    assert free_paths(tmp_path / "x.png", 1) == [tmp_path / "x-4.png"]


def test_pictures_that_cannot_be_written_are_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is gone when the first picture is finished, and there again for the second."""
    spare, gone = tmp_path / "spare", tmp_path / "gone"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    saving = Saving(gone / "x.png")
    saving.save(noise(8, 1), gone / "x-1.png", {"request": {"seed": 1}})
    gone.mkdir()
    saving.save(noise(8, 2), gone / "x-2.png")
    with pytest.raises(RequestError, match=r"1 finished picture could not be .*: kept as (.*);"):
        saving.finish()
    (kept,) = saving.rescued
    assert kept.is_relative_to(spare) and kept.name == "x-1.png"
    assert np.array_equal(np.asarray(Image.open(kept)), np.asarray(noise(8, 1)))
    assert json.loads(Image.open(kept).text["ipa-mlx"])["request"] == {"seed": 1}
    assert [path.name for path in gone.iterdir()] == ["x-2.png"]


def test_a_full_disk(tmp_path: Path) -> None:
    """A disk of 64 KiB in a mount namespace of its own: what fits is there, the rest is kept."""
    if sys.platform != "linux" or subprocess.run([*MOUNTS, "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    (tmp_path / "full").mkdir()
    (tmp_path / "spare").mkdir()
    script = (
        "mount -t tmpfs -o size=64k tmpfs full && head -c 40000 /dev/zero > full/other;"
        f"{PROGRAM} generate -p x --num-images 3 --steps 1 -o full/o.png;"
        "echo code $?; cp -r full written; rm full/other;"
        f"head -c 60000 /dev/zero > full/other; {PROGRAM} sweep -i {demo.references()[0]} "
        "--scales 0,1 --steps 1 -o full/s.png; echo code $?"
    )
    done = subprocess.run(
        [*MOUNTS, "bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path / "spare")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n").count("code 2") == 2, done.stdout + done.stderr
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    written = {path.name for path in (tmp_path / "written").glob("*.png")}
    spare = {path.name: path for path in (tmp_path / "spare").rglob("*.png")}
    assert written | spare.keys() == {"o-1.png", "o-2.png", "o-3.png", "s.png"}
    assert all(str(path) in done.stderr for path in spare.values())
    for path in spare.values():
        Image.open(path).load()


def test_no_room_anywhere(tmp_path: Path) -> None:
    """A limit on files' sizes holds in the temporary folder too: an error, and no half a file."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            save_png(noise(64), tmp_path / "x.png")
        except RequestError as error:
            os._exit(7 if "1 lost: no room in" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert list(tmp_path.iterdir()) == []
