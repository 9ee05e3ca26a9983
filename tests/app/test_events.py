"""`--events json`: what a program reads while a command works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ipa.app.events import EventLines
from ipa.errors import RequestError
from ipa.request.result import Progress

SMALL = ("--steps", "2", "--width", "32", "--height", "32")


def generate(folder: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ipa.app", "generate", "a star", *SMALL, *words]
    command[1:3] = ["-c", "from ipa.app.cli import main; main()"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)


def lines(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(line["v"] == 1 for line in found)
    return found


def test_a_picture_from_loading_to_its_file(tmp_path: Path) -> None:
    done = generate(tmp_path, "--events", "json", "--preview", "p.png", "-o", "a.png")
    assert done.returncode == 0 and done.stdout == "a.png\n"
    told = lines(done.stderr)  # nothing else is there
    stages = list(dict.fromkeys(one["stage"] for one in told if one["event"] == "progress"))
    assert stages == ["load", "encode", "denoise", "decode", "done"]
    load = [one for one in told if one.get("stage") == "load"]
    assert load[-1]["step"] == load[-1]["total"] > 0 and load[-1]["unit"] in {"bytes", "parts"}
    previews = [one["path"] for one in told if one["event"] == "preview"]
    assert previews and set(previews) == {str((tmp_path / "p.png").resolve())}
    (result,) = [one for one in told if one["event"] == "result"]
    assert result["files"] == [str((tmp_path / "a.png").resolve())] and result["seed"] == 0


def test_errors_are_lines_on_a_descriptor_of_ones_own(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    words = ("--steps", "0", "--json", "--events", f"json:{writing}")
    done = generate(tmp_path, *words, pass_fds=(writing,))
    os.close(writing)
    with os.fdopen(reading) as source:
        (error,) = lines(source.read())
    assert done.returncode == error["exit_code"] == 2 and done.stderr == done.stdout == ""
    assert error["event"] == "error" and error["code"] == "request"
    assert error["argument"] == "num_inference_steps" and "--steps" in error["message"]


@pytest.mark.parametrize("text", ["xml", "json:", "json:x", "json:-1", "json:987654", ""])
def test_what_cannot_be(text: str) -> None:
    if text == "json:":
        assert EventLines.asked(text)  # standard error
        return
    with pytest.raises(RequestError, match="events"):
        EventLines.asked(text)


def test_who_reads_may_go() -> None:
    reading, writing = os.pipe()
    told = EventLines(writing)
    os.close(reading)
    for _ in range(3):
        told.progress(Progress(stage="load", step=1, total=2, unit="bytes"))
    os.close(writing)
