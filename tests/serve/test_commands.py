"""The commands `serve` and `mcp`, as processes with clients, and what they cost those without."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from typer.testing import CliRunner

from ipa import demo
from ipa.app.cli import app
from oracle.served import border, picture_of, reference

EXTRA = ("fastapi", "starlette", "uvicorn", "python_multipart", "multipart", "mcp", "pydantic")


def test_nobody_else_pays_for_it() -> None:
    """Neither `import ipa` nor the command line imports the server or its packages."""
    code = (
        "import sys, ipa, ipa.app.cli\nipa.Engine\n"
        f"print([m for m in sys.modules if m.split('.')[0] in {EXTRA!r} or "
        "m.startswith('ipa.serve')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["serve", "mcp"])
def test_without_the_extra_it_says_what_to_install(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fastapi", "uvicorn", "mcp", "mcp.server.mcpserver"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("ipa.serve")]:
        monkeypatch.delitem(sys.modules, name)
    done = CliRunner().invoke(app, [command])
    assert done.exit_code == 2
    assert f"pip install 'ipa-mlx[{command}]'" in " ".join(done.output.split())


def test_two_of_one_name_are_refused_before_anything_is_loaded() -> None:
    done = CliRunner().invoke(app, ["serve", "-m", "a=x", "-m", "a=y"])
    assert done.exit_code == 2 and "one name" in done.output


def test_a_server_of_its_own(tmp_path: Path) -> None:
    """Open to others, so with a token that it makes; it ends at SIGTERM."""
    home = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "NO_COLOR": "1"}
    home.pop("IPA_MLX_TOKEN", None)
    code = "from ipa.app.cli import app; app()"
    command = [sys.executable, "-c", code, "serve", "--host", "0.0.0.0", "--port", "0"]
    with subprocess.Popen(command, env=home, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        token = re.search(r"token: (\S+)", process.stderr.readline())
        port = re.search(r"serving: http://0\.0\.0\.0:(\d+)/", process.stderr.readline())
        assert token is not None and port is not None
        request = urllib.request.Request(f"http://127.0.0.1:{port[1]}/v1/models")
        request.add_header("Authorization", f"Bearer {token[1]}")
        with urllib.request.urlopen(request) as told:
            assert [one["id"] for one in json.load(told)["data"]] == ["demo"]
        process.terminate()
        assert process.wait(30) in (0, -15)


async def speak(folder: Path) -> None:
    code = "from ipa.app.cli import app; app()"
    command = ["-c", code, "mcp", "--pictures", str(demo.references()[0].parent)]
    parameters = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
    async with stdio_client(parameters) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        listed = {tool.name for tool in (await session.list_tools()).tools}
        assert listed == {"generate", "encoder_view", "list_models"}
        steps: list[float] = []

        async def progress(step: float, total: float | None, message: str | None) -> None:
            steps.append(step)

        style = str(demo.references()[3])
        call = {"pictures": [style], "scale": 1.0, "steps": 6, "seed": 1}
        told = await session.call_tool("generate", call, progress_callback=progress)
        assert not told.is_error, told
        image = picture_of(told.content[0].data)  # type: ignore[union-attr]
        assert abs(border(image) - border(reference(3))).mean() < 0.1
        assert steps == [1, 2, 3, 4, 5, 6]
        seen = await session.call_tool("encoder_view", {"picture": style})
        assert picture_of(seen.content[0].data).size == (64, 64)  # type: ignore[union-attr]
        models = await session.call_tool("list_models", {})
        assert json.loads(models.content[0].text)["models"] == ["demo"]  # type: ignore[union-attr]
        (folder / "secret.png").write_bytes(demo.references()[0].read_bytes())
        for wrong in (str(folder / "secret.png"), f"{style}/../../../__init__.py", "/etc/passwd"):
            refused = await session.call_tool("generate", {"pictures": [wrong]})
            assert refused.is_error
            assert "remedy" in refused.content[0].text  # type: ignore[union-attr]
        refused = await session.call_tool("generate", {"steps": 0})
        assert refused.is_error and "num_inference_steps" in refused.content[0].text  # type: ignore[union-attr]


def test_tools_of_a_language_model(tmp_path: Path) -> None:
    asyncio.run(speak(tmp_path))
