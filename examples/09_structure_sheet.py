"""Structure by edges, style by a picture. Run: … 09_structure_sheet.py [folder [steps]]."""

import sys
from pathlib import Path

import ipa
from ipa import Control, ImagePrompt, demo
from ipa.controls import edges
from ipa.sheets import SheetBlock, SheetCell, SheetRow, draw_sheet

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
folder.mkdir(exist_ok=True)
pipe = ipa.load("demo")
pipe.load_ip_adapter(demo.adapter("base"))
pipe.load_controlnet(demo.controlnet())
call = {"num_inference_steps": int(sys.argv[2]) if len(sys.argv) > 2 else 25, "guidance_scale": 4}
pictures = {path.stem.replace("-", " "): ipa.open_image(path) for path in demo.references()}
names = list(pictures)
styles, shapes = [names[i] for i in (2, 3, 5, 7)], [names[i] for i in (1, 0, 3, 4)]


def made(style, shape):
    """A cell of the sheet; either name may be None."""
    prompts = [ImagePrompt(pictures[style], scale=0.8)] if style else []
    controls = [Control(pictures[shape], preprocessor=edges)] if shape else []
    text = f"a {shape.split()[2]}" if shape else ""
    return SheetCell(pipe(text, image_prompts=prompts, controls=controls, seed=1, **call).images[0])


rows = [SheetRow("style from", [None] * 3 + [SheetCell(pictures[name]) for name in styles])]
for name in [None, *shapes]:
    given = [SheetCell(pictures[name]), SheetCell(edges(pictures[name]))] if name else [None] * 2
    title = f"“a {name.split()[2]}”" if name else "no outlines, no words"
    rows.append(SheetRow(title, [*given, *(made(style, name) for style in [None, *styles])]))
titles = ["outlines from", "its edges", "no style", *(name.split(" on ")[0] for name in styles)]
sheet = draw_sheet([SheetBlock(titles, rows)], title="Structure and style", cell=(96, 96))
sheet.save(folder / "structure_sheet.png")
print(folder / "structure_sheet.png")
