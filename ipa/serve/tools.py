"""Tools for language models: the engine over MCP, on standard input and output.

The package mcp keeps what anything prints away from its line. Pictures come in base64, or as paths
in folders that were named when it was started, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from mcp.server.mcpserver import Context, Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from ipa.engine.needs import KINDS

from .asked import Asked, make_job
from .desk import Desk, Record
from .faults import Fault, fault_of
from .images import encoded

_MOST_BYTES = 64 << 20
_SHORTEST = 256  # characters of a picture's base64; a path is shorter

Pictures = Annotated[
    list[str], Field(description="Paths of PNG, JPEG or WebP files in allowed folders, or base64.")
]


def make_tools(desk: Desk, folders: Sequence[Path] = ()) -> MCPServer:
    """The tools over a desk.

    Args:
        desk: Where jobs go.
        folders: Whose pictures may be named by path.
    """
    server = MCPServer("ipa-mlx", instructions=_INSTRUCTIONS)
    roots = [folder.resolve() for folder in folders]
    _add_generate(server, desk, roots)
    _add_encoder_view(server, desk, roots)

    @server.tool()
    def list_models() -> dict[str, list[str]]:
        """What may be named: models, and by kind what stands beside them; the first is usual."""
        offered = {kind: list(desk.offers.parts[kind]) for kind in KINDS}
        return {"models": list(desk.offers.models), **offered}

    return server


_INSTRUCTIONS = (
    "Makes pictures on this machine. A picture can be a prompt: give it to generate, alone or "
    "with words; layers=style takes its style alone."
)


def _add_generate(server: MCPServer, desk: Desk, roots: Sequence[Path]) -> None:
    @server.tool(structured_output=False)
    async def generate(
        context: Context[Any, Any],
        prompt: str = "",
        pictures: Pictures | None = None,
        scale: Annotated[float, Field(description="The pictures' weight: 0 to 1.")] = 0.7,
        layers: Annotated[
            str | None, Field(description='"style" or "layout" of the pictures alone.')
        ] = None,
        adapter: str | None = None,
        negative_prompt: str | None = None,
        model: str | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> list[Any]:
        """Make a picture of words, of pictures ("in the style of this file"), or of both."""
        given = {"negative_prompt": negative_prompt, "width": width, "height": height}
        given |= {"num_inference_steps": steps}
        request: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
        request |= {"prompt": prompt, "seed": seed}
        if pictures:
            entry = {"image": _files(pictures, roots), "scale": scale}
            entry |= {"adapter": adapter} if adapter else {}
            request["image_prompts"] = [entry | ({"layers": layers} if layers else {})]
        record = await _made(desk, Asked(request=request, model=model), context)
        told = [
            Image(data=encoded(image, "png", record.kept.info)) for _, image in record.kept.images
        ]
        return [*told, *record.warnings, *record.kept.info.get("warnings", ())]


def _add_encoder_view(server: MCPServer, desk: Desk, roots: Sequence[Path]) -> None:
    @server.tool(structured_output=False)
    async def encoder_view(picture: str, adapter: str | None = None) -> list[Any]:
        """What the image encoder sees of a picture: the square that it is cut to."""
        entry: dict[str, Any] = {"image": _files([picture], roots)}
        asked = Asked(
            request={"image_prompts": [entry | ({"adapter": adapter} if adapter else {})]}
        )
        try:
            job = await run_in_threadpool(make_job, asked, desk.offers, desk.shelf, desk.limits)
            (prompt,) = job.arguments["image_prompts"]
            views = await desk.engine.call(job.needs, lambda pipe: pipe.encoder_views(prompt))
        except Exception as error:
            raise ToolError(fault_of(error).sentence) from error
        return [Image(data=encoded(view)) for view in views]


async def _made(desk: Desk, asked: Asked, context: Context[Any, Any]) -> Record:
    """Have a job done, with its progress told; a call that is cancelled cancels it."""
    try:
        record = await run_in_threadpool(desk.submit, asked, "mcp")
    except Fault as fault:
        raise ToolError(fault.sentence) from fault
    try:
        async for event in record.job:
            if event.stage == "denoise":
                await context.report_progress(event.step, event.total)
        await record.job
    except Exception as error:
        raise ToolError(fault_of(error, record.names).sentence) from error
    finally:
        record.job.cancel()  # nothing, where it has ended
    return record


def _files(given: Sequence[str], roots: Sequence[Path]) -> list[str | bytes]:
    return [_file(one, roots) for one in given]


def _file(given: str, roots: Sequence[Path]) -> str | bytes:
    """A picture's base64 as it is, or the bytes of a file that may be read. Raises ToolError."""
    if len(given) >= _SHORTEST or given.startswith("data:"):
        return given
    path = Path(given).expanduser().resolve()
    try:
        if not any(path.is_relative_to(root) for root in roots):
            allowed = ", ".join(map(str, roots)) or "none: start with --pictures FOLDER"
            raise Fault(403, "this file is in no folder of pictures", found=given, remedy=allowed)
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise Fault(404, "there is no such picture", found=given, remedy="see the path")
        return path.read_bytes()
    except (Fault, OSError) as error:
        raise ToolError(fault_of(error).sentence) from error
