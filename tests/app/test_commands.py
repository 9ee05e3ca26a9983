"""The other commands: demo, inspect, versions; and Ctrl-C."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from PIL import Image, ImageDraw, ImageFont
from rich.markup import render
from typer.testing import CliRunner

from ipa import demo
from ipa.app.cli import app
from ipa.app.commands.demo import Reference, columns
from ipa.sheets import sheet
from ipa.sheets.sheet import TITLE

PROGRAM = Path(sys.executable).with_name("ipa-mlx")


def test_demo(tmp_path: Path) -> None:
    words = ["demo", "-o", str(tmp_path / "sheet.png"), "--references", "2", "--json"]
    done = CliRunner().invoke(app, [*words, "--backend", "mlx"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["sheet"] == str(tmp_path / "sheet.png")
    assert found["backend"]["backend"] == "mlx"
    assert [row["scale"] for row in found["likeness"]] == [0.25, 0.5, 0.75, 1.0]
    assert found["likeness"][-1]["own"] > 0.7 > 0.5 > found["likeness"][-1]["others"]
    picture = Image.open(tmp_path / "sheet.png")
    assert picture.size == (8 + 8 * 136, 8 + 22 + 2 * 158)
    assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 1000


def test_demo_on_the_reference_says_where_the_sheet_is(tmp_path: Path) -> None:
    words = ["demo", "-o", str(tmp_path / "s.png"), "--references", "2", "--backend", "torch"]
    done = CliRunner().invoke(app, words)
    assert str(tmp_path / "s.png") in done.stdout
    assert "own reference" in done.stdout and "0.25" in done.stdout
    assert "14 pictures" in done.stdout and "on torch (cpu, float32)" in done.stdout


def test_demo_checks_the_output_first(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["demo", "-o", str(tmp_path / "none" / "s.png")])
    assert (done.exit_code, done.stdout) == (2, "")


def test_every_label_has_its_letters() -> None:
    """A font without a letter draws a box, the same for each of them."""
    references = [Reference.open(path) for path in demo.references()]
    pairs = [(a, b) for a in references for b in references]
    texts = [column.title for column in columns()]
    texts += [column.label(a, b) for column in columns() for a, b in pairs]
    font = ImageFont.load_default(TITLE)
    box = bytes(font.getmask("\uffff"))
    for letter in set("".join(texts)) - {" "}:
        assert bytes(font.getmask(letter)) != box, letter


def test_sheets_take_any_picture() -> None:
    pictures = [Image.new("L", (3, 90), 100), Image.new("RGBA", (400, 20), (9, 9, 9, 0))]
    made = sheet.contact_sheet([pictures], ["one", "two"])
    assert made.size == (8 + 2 * 136, 8 + 22 + 136)
    ImageDraw.Draw(made)  # it is a picture of its own


def test_inspect_a_model() -> None:
    done = CliRunner().invoke(app, ["inspect", str(demo.model()), "--json"])
    found = json.loads(done.stdout)
    assert (found["kind"], found["family"]) == ("model", "Stable Diffusion model")
    assert {part["name"].split("/")[0] for part in found["parts"]} >= {"unet", "vae", "ip_adapter"}
    assert found["bytes"] == sum(part["bytes"] for part in found["parts"])


def test_inspect_says_which_encoder_an_adapter_needs() -> None:
    done = CliRunner().invoke(app, ["inspect", str(demo.adapter("plus"))])
    assert done.exit_code == 0
    for words in ("IP-Adapter, resampler", "hidden_size 128", "65 tensors", "2.1 MB (F16)"):
        assert words in done.stdout


def test_inspect_shows_every_part_of_a_model() -> None:
    shown = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["inspect", str(demo.model())]).stdout
    for words in ("Stable Diffusion model", "unet/diffusion_pytorch_model", "11.2 MB F16"):
        assert words in shown


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q\x00.", b"<!DOCTYPE html>", None])
def test_inspect_refuses_what_is_no_checkpoint(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    done = CliRunner().invoke(app, ["inspect", str(path)])
    assert done.exit_code == 3 and "model.safetensors" in done.stderr


def test_versions() -> None:
    short = CliRunner().invoke(app, ["--version"]).stdout
    assert short.startswith("ipa-mlx ") and short.count("\n") == 1
    long = CliRunner().invoke(app, ["--version", "--verbose"]).stdout
    assert long.startswith(short)
    assert "mlx: device:" in long and "torch: device:" in long and "python " in long


def test_help_names_every_command() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert all(name in text for name in ("demo", "generate", "sweep", "inspect", "accelerate"))


def test_no_word_of_a_help_is_lost() -> None:
    """Brackets would be markup of the terminal's: `[default: …]` was not shown."""
    groups, texts = [typer.main.get_group(app)], list[str]()
    while groups:
        for command in groups.pop().commands.values():
            groups += [command] if isinstance(command, typer.core.TyperGroup) else []
            texts += [getattr(option, "help", None) or "" for option in command.params]
    assert len(texts) > 100
    assert [text for text in texts if render(text).plain != text] == []


def test_a_second_interrupt_ends_a_long_step(tmp_path: Path) -> None:
    """Two Ctrl-C in a real terminal, within one call into C++ of many seconds."""
    words = ("--steps", "9", "--width", "640", "--height", "640")
    process, leader = in_a_terminal(tmp_path, "generate", "-p", "a ring", *words)
    shown = read_until(leader, b"/9", b"")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    shown = read_until(leader, b"Ctrl-C again to quit now", shown)
    assert b"stopping after this step" in shown
    process.send_signal(signal.SIGINT)
    shown = read_until(leader, None, shown)
    os.close(leader)
    assert process.wait(60) == 130
    assert b"cancelled" not in shown, "the step did not end"
    assert b"Traceback" not in shown and shown.rstrip().endswith(b"\x1b[?25h"), shown[-200:]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_it_starts_is_quiet() -> None:
    """A real signal in the middle of the imports."""
    code = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer.core':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from ipa.app.entry import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def in_a_terminal(folder: Path, *words: str) -> tuple[subprocess.Popen[bytes], int]:
    """The command, started in a folder, and what reads the terminal that it believes to have."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, *words],
        cwd=folder,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(follower)
    return process, leader


def read_until(leader: int, wanted: bytes | None, shown: bytes) -> bytes:
    """What a terminal shows up to some text; None is to the end."""
    while wanted is None or wanted not in shown:
        chunk = _read(leader)
        if not chunk:
            break
        shown += chunk
    return shown


def test_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C in a real terminal, in the middle of the steps: code 130, no file, no trace."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, "generate", "-p", "a ring", "--steps", "900", "-o", "out.png"],
        cwd=tmp_path,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(follower)
    shown = b""
    deadline = time.monotonic() + 60
    while b"/900" not in shown and time.monotonic() < deadline:
        shown += os.read(leader, 4096)
    assert b"/900" in shown, "a bar counts the steps"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    while chunk := _read(leader):
        shown += chunk
    os.close(leader)
    assert process.wait(60) == 130
    assert b"stopping after this step;" in shown
    assert b"cancelled" in shown and b"Traceback" not in shown
    assert list(tmp_path.iterdir()) == []


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 4096)
    except OSError:  # Linux: the other end has closed
        return b""


def test_convert_and_back(tmp_path: Path) -> None:
    """The demo as MLX loads it, and back as diffusers does; each value compared."""
    run = CliRunner().invoke
    done = run(app, ["convert", "demo", str(tmp_path / "mlx"), "--verify"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'mlx'} (model, 16") and "602 tensors" in done.stdout
    words = ["convert", str(tmp_path / "mlx"), str(tmp_path / "back"), "--to", "diffusers"]
    found = json.loads(run(app, [*words, "--verify", "--json"]).stdout)
    assert (found["target"], found["verified"]) == (str(tmp_path / "back"), 602)
    assert run(app, ["generate", "-m", str(tmp_path / "mlx"), "-o", str(tmp_path / "x.png"), "-n2"])
    assert (tmp_path / "x.png").is_file()


def test_convert_to_few_bits(tmp_path: Path) -> None:
    run, target = CliRunner().invoke, str(tmp_path / "mlx")
    done = run(app, ["convert", "demo", target, "--quantize", "4", "--verify", "--json"])
    assert json.loads(done.stdout)["verified"] == 784  # two more for each of 91 matrices
    words = ["generate", "-n2", "-o", str(tmp_path / "x.png"), "--json"]
    found, on_loading = (
        json.loads(run(app, [*words, *more]).stdout)["quantization"]
        for more in (["-m", target], ["-m", "demo", "--quantize", "4"])
    )
    assert found["unet"] == {"bits": 4, "group_size": 64, "layers": 49}
    assert on_loading.keys() > found.keys()  # the adapter's encoder
    back = run(app, ["convert", target, str(tmp_path / "back"), "--to", "diffusers"])
    assert back.exit_code == 3 and "cannot be undone" in back.stderr


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["convert", "none/at/all", "out"], 3, "no such model folder"),
        (["convert", "demo", "."], 3, "exists already"),
        (["convert", "demo", "out", "--dtype", "int8"], 2, "float32, float16, bfloat16"),
        (["convert", "demo", "out", "--to", "onnx"], 2, "mlx, diffusers"),
        (["convert", "demo", "out", "--quantize", "3"], 2, "4 or 8 bits"),
        (["generate", "--quantize", "3"], 2, "4 or 8 bits"),
        (["generate", "--quantize", "8", "--backend", "torch"], 2, "takes no quantize"),
    ],
)
def test_convert_mistakes(
    words: list[str], code: int, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == code and part in done.stderr
    assert list(tmp_path.iterdir()) == []
