"""A program, and a person at a command line, on a machine whose hub is `oracle.hub`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .forks import Forks
from .hub import LocalHub

NOBODY = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # a hub that does not answer
# A fresh process: huggingface_hub reads its environment once, on import.
PROGRAM = """
import json, sys
import ipa
answers = []
for code in sys.argv[1:]:
    answer = {}
    try:
        exec(code)
    except ipa.IpaError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    answers.append(answer)
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Client:
    """A machine with a cache of its own."""

    hub: LocalHub
    cache: Path
    forks: Forks

    def run(self, *codes: str, **environment: str) -> list[Any]:
        """What each piece of code left in `answer`, or the error that it raised."""
        done = self._fresh(codes, environment, Path.cwd(), PROGRAM)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def ipa_mlx(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command line, typed in the cache's own folder."""
        return self._fresh(words, environment, self.cache.parent)

    def _fresh(
        self, words: Sequence[str], more: Mapping[str, str], folder: Path, code: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = os.environ | self.hub.environment(self.cache) | more
        return self.forks.run(words, environment=environment, folder=folder, code=code)

    def weights(self) -> list[str]:
        """The files of weights that the hub was asked for, sorted."""
        return sorted(f for f in self.hub.fetched if f.endswith((".safetensors", ".bin", ".ckpt")))
