"""What weights, masks and windows do. Run: … 07_controls_sheet.py [folder [steps]]."""

import sys
from pathlib import Path

import numpy as np

import ipa
from ipa import ImagePrompt, demo
from ipa.sheets import EMBEDS_SCALINGS, Axis, Sweep, draw_sheet, make_cells, sweep_blocks

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)
pipe = ipa.load("demo")
pipe.load_ip_adapter(demo.adapter("base"))
heart = ipa.open_image(demo.references()[3])
call = {"num_inference_steps": int(sys.argv[2]) if len(sys.argv) > 2 else 8, "guidance_scale": 4}
left = np.tile(np.linspace(1, 0, 64), (64, 1))
one, half = ImagePrompt(heart), ImagePrompt(heart, scale=0.4)
blocks = []
for prompt, axis in (
    (one, Axis("scale", [-0.5, 0, 0.25, 0.5, 0.75, 1, 1.5])),
    (one, Axis("mask", [left > 0.5, left < 0.5, left], ["left half", "right half", "soft left"])),
    (one, Axis("start", [0, 0.25, 0.5, 0.75])),
    (one, Axis("end", [1, 0.75, 0.5, 0.25])),
    (one, Axis("curve", ["linear", "ease_in", "ease_out", "ease_in_out", "fade_in", "fade_out"])),
    (half, Axis("embeds_scaling", list(EMBEDS_SCALINGS))),
):
    sweep = Sweep(axes=[axis], image_prompt=prompt, arguments=call)
    blocks += sweep_blocks(sweep, list(make_cells(pipe, sweep)))
sheet = draw_sheet(blocks, title="What weights, masks and windows do", cell=(80, 80))
sheet.save(folder / "controls_sheet.png")
print(folder / "controls_sheet.png")
