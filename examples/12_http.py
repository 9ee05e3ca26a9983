"""A picture as the prompt, over HTTP: python examples/12_http.py [folder] [steps]."""

import base64
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from ipa import demo

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out")
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 8
folder.mkdir(exist_ok=True)

# As `ipa-mlx serve` in a terminal; port 0 takes a free one, which its first line tells.
command = [sys.executable, "-c", "from ipa.app.cli import main; main()", "serve", "--port", "0"]
server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
try:
    address = server.stderr.readline().split()[-1]
    style = base64.b64encode(demo.references()[3].read_bytes()).decode()
    body = {
        "prompt": "a star",
        "image_prompts": [{"image": style, "scale": 0.8}],
        "steps": steps,
    }
    request = urllib.request.Request(
        f"{address}v1/images/generations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        told = json.load(answer)
    target = folder / "http.png"
    target.write_bytes(base64.b64decode(told["data"][0]["b64_json"]))
    print(target)
finally:
    server.terminate()
