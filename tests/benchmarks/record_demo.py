"""Record the demo's run against which every machine and backend holds itself (`make recorded`).

torch in float32 makes it; what rounding makes of its stages is measured with float64 and float16.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ipa import demo
from ipa.parity.capture.capture import Capture
from ipa.parity.capture.capture_file import write
from ipa.parity.capture.choice import Choice
from ipa.parity.compare.comparing_tap import floors
from ipa.parity.recorded import SKETCHED, WHOLE, arguments, open_demo
from ipa.parity.recording import capture


def main() -> None:
    pipe = open_demo("torch", "float32", "cpu")
    whole = capture(pipe, arguments(), Choice(patterns=WHOLE))
    told = capture(pipe, arguments(), Choice(patterns=(*WHOLE, *SKETCHED), sketched=True))
    stages = {name: whole.stages.get(name, kept) for name, kept in told.stages.items()}
    made = Capture(told.header, stages)
    known = {
        dtype: _rounded(made, other) for dtype, other in (("float32", "float64"), ("float16",) * 2)
    }
    folder = demo.recorded()
    folder.mkdir(exist_ok=True)
    write(folder / "run.safetensors", made)
    with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as file:
        json.dump(known, file, indent=0)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(folder / "floors.json")
    print(
        f"{len(stages)} stages; {[path.stat().st_size for path in sorted(folder.iterdir())]} bytes"
    )


def _rounded(made: Capture, dtype: str) -> dict[str, float]:
    pipe = open_demo("torch", dtype, "cpu")
    found = floors(made.stages, lambda tap: pipe(**arguments(), tap=tap), forced=True)
    return {stage: float(f"{value:.2e}") for stage, value in found.items()}


if __name__ == "__main__":
    main()
