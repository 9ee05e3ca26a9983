"""One seed, two backends, one picture. Run: python examples/04_same_seed_two_backends.py [folder].

Needs the extra [torch].
"""

import sys
from pathlib import Path

import numpy as np

import ipa
from ipa import demo

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)
reference = ipa.open_image(demo.references()[1])

pictures = {}
for backend in ("mlx", "torch"):
    pipe = ipa.load("demo", backend=backend, dtype="float32")
    pipe.load_ip_adapter(demo.adapter("base"))
    result = pipe(ip_adapter_image=reference, num_inference_steps=8, guidance_scale=4, seed=7)
    pictures[backend] = np.asarray(result.images[0]).astype(int)
    path = folder / f"same_seed_{backend}.png"
    result.images[0].save(path)
    print(path)

difference = np.abs(pictures["mlx"] - pictures["torch"])
print(f"largest difference of a colour: {difference.max()} of 255")
