"""A worker process that is killed in the middle of a job. Run: … 11_supervisor.py [folder]."""

import os
import signal
import sys
import time
from pathlib import Path

from ipa import Supervisor, demo

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs").absolute()
folder.mkdir(exist_ok=True)

with Supervisor(scratch=folder) as supervisor:
    sha256 = supervisor.put(demo.references()[3])
    entry = {"image": {"sha256": sha256}, "scale": 0.7}
    request = {"prompt": "a star", "image_prompts": [entry], "num_inference_steps": 8}
    task = supervisor.submit({"adapters": ["base=demo:base"], "request": request})
    while not task.is_running:
        time.sleep(0.01)
    os.kill(supervisor.pid or 0, signal.SIGKILL)
    answer = task.result()  # of the next worker
    print(answer["info"]["warnings"][-1])
    print(answer["images"][0]["path"])
