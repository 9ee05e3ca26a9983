"""A worker that speaks the protocol and misbehaves as it is told: by words in a job's prompt.

"die": SIGKILL itself; "die once": unless a file says that it did; "hang": never say a word again;
"rubbish": print what is no message; "twice": answer twice; "half": half a line, then die; "no
memory": say that memory ran out; "much memory": unless the job is frugal; "slow": take a second.
With "NO-START" as its argument it dies at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def say(**message: object) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def progress(number: object) -> None:
    params = {"id": number, "seq": 1, "stage": "denoise", "step": 1, "total": 2, "eta_s": 0.1}
    say(method="job/progress", params=params)


def generate(number: object, prompt: str, frugal: bool) -> None:
    progress(number)
    marker = Path(sys.argv[1], "died")
    if prompt == "die" or (prompt == "die once" and not marker.exists()):
        marker.touch()
        print("last words", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if prompt == "no memory" or (prompt == "much memory" and not frugal):
        data = {"type": "OutOfMemory", "code": "memory", "what": "memory ran out"}
        say(id=number, error={"code": -32002, "message": "memory ran out", "data": data})
        return
    if prompt == "half":
        sys.stdout.write('{"jsonrpc": "2.0", "id"')
        sys.stdout.flush()
        os._exit(7)
    if prompt == "hang":
        time.sleep(60)
    if prompt == "rubbish":
        print("Fetching 3 files: 100%")
        print('["a list"]', flush=True)
    if prompt == "slow":
        time.sleep(1)
    info = {"pid": os.getpid(), "was_frugal": frugal}
    answer = {"state": "completed", "images": [prompt], "info": info}
    say(id=number, result=answer)
    if prompt == "twice":
        say(id=number, result={**answer, "images": ["second"]})


def main() -> None:
    if "NO-START" in sys.argv:
        sys.exit(3)
    for line in sys.stdin:
        message = json.loads(line)
        name, number = message["method"], message["id"]
        if name == "generate":
            params = message["params"]
            generate(number, params["request"]["prompt"], params.get("frugal", False))
        else:
            say(id=number, result={})


main()
