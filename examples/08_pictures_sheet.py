"""What is done to pictures before the adapter. Run: … 08_pictures_sheet.py [folder [steps]]."""

import sys
from pathlib import Path

import numpy as np

import ipa
from ipa import ImagePrompt, demo
from ipa.sheets import COMBINE_MODES, Axis, Sweep, draw_sheet, make_cells, sweep_blocks

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)
pipe = ipa.load("demo")
for name in ("base", "plus"):
    pipe.load_ip_adapter(demo.adapter(name), name=name)
star, circle, heart = (ipa.open_image(demo.references()[number]) for number in (1, 2, 3))
call = {"num_inference_steps": int(sys.argv[2]) if len(sys.argv) > 2 else 8, "guidance_scale": 4}
left = np.tile(np.arange(64) < 32, (64, 1))
given = heart, [heart, star], circle.resize((128, 64))
one, pair, wide = (ImagePrompt(pictures, adapter="base") for pictures in given)
noises = [None, circle, *(f"noise:{kind}:0.5" for kind in ("fade", "dissolve", "shuffle"))]
kinds = ["none", "a circle", "half fade", "half dissolve", "half shuffle"]
blocks = []
for prompt, axis in (
    (one, Axis("negative", noises, kinds)),
    (pair, Axis("combine", list(COMBINE_MODES))),
    (wide, Axis("fit", ["center-crop", "squash", "pad", "left", "right", "tile"])),
    (one, Axis("encoder_mask", [None, left, ~left], ["none", "left", "right"])),
    (ImagePrompt(heart, adapter="plus"), Axis("enhance_tiles", [1, 2, 3])),
):
    sweep = Sweep(axes=[axis], image_prompt=prompt, arguments=call)
    blocks += sweep_blocks(sweep, list(make_cells(pipe, sweep)))
draw_sheet(blocks, title="To pictures", cell=(80, 80)).save(folder / "pictures_sheet.png")
print(folder / "pictures_sheet.png")
