"""Fresh processes that import nothing again: forks of one that has imported the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Neither a framework nor huggingface_hub is imported here: the latter reads its environment then.
SERVER = """
import json, os, sys, traceback
from ipa.app.cli import main
def begin(place):
    os.environ.clear()
    os.environ.update(told["environment"])
    os.chdir(told["folder"])
    for number, name in enumerate((os.devnull, place + "/out", place + "/err")):
        flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
        os.dup2(os.open(name, flags), number)
def work():
    if told["code"] is None:
        main()
    else:
        exec(told["code"], {"__name__": "__main__"})
def end(status):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
for line in sys.stdin:
    told = json.loads(line)
    sys.argv = ["ipa-mlx", *told["words"]]
    child = os.fork()
    if child == 0:
        try:
            begin(told["place"])
            work()
            end(0)
        except SystemExit as left:
            end(left.code or 0)
        except BaseException:
            traceback.print_exc()
            end(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Forks:
    """A process that waits, to be forked."""

    process: subprocess.Popen[str]

    def run(
        self,
        words: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        code: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The command line `ipa-mlx words`, or a program with these arguments, in a fork."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with tempfile.TemporaryDirectory() as place:
            told = {"words": [*words], "environment": {**environment}, "folder": str(folder)}
            self.process.stdin.write(json.dumps(told | {"code": code, "place": place}) + "\n")
            self.process.stdin.flush()
            status = int(self.process.stdout.readline())
            out, err = (Path(place, name).read_text("utf-8") for name in ("out", "err"))
        return subprocess.CompletedProcess(words, status, out, err)


@contextmanager
def forks() -> Iterator[Forks]:
    """For as long as the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", SERVER], text=True, **pipes) as process:
        yield Forks(process)
        assert process.stdin is not None
        process.stdin.close()
