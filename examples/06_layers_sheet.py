"""What each choice of layers lets through. Run: … 06_layers_sheet.py [folder [steps]]."""

import sys
from pathlib import Path

import ipa
from ipa import demo
from ipa.sheets import ANYWHERE, Axis, Sweep, draw_sheet, make_cells, sweep_blocks

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 8

pipe = ipa.load("demo")
pipe.load_ip_adapter(demo.adapter("base"))
heart, ring = (ipa.open_image(demo.references()[number]) for number in (3, 0))
references = Axis("reference", [heart, ring], ["heart", "ring"])
call = {"prompt": "a star", "num_inference_steps": steps, "guidance_scale": 4, "seed": 1}

every, alone = Axis("layers", [None, *ANYWHERE]), [f"{number}:1" for number in range(7)]
each = Axis("layers", alone, [f"only number {number}" for number in range(7)])
blocks = []
for axis in (every, each):
    sweep = Sweep(axes=[references, axis], arguments=call)
    blocks += sweep_blocks(sweep, list(make_cells(pipe, sweep)))

path = folder / "layers_sheet.png"
draw_sheet(blocks, title="“a star” with a picture in some layers", cell=(96, 96)).save(path)
print(path)
