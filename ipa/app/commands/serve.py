"""`ipa-mlx serve` and `ipa-mlx mcp`: the engine for other programs, over HTTP and MCP."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ipa.app.options.model import Backend, Device, Dtype, Quantize
from ipa.app.options.offers import (
    Adapters,
    ControlNets,
    Folder,
    Inversions,
    Loras,
    Models,
    T2IAdapters,
)
from ipa.app.terminal import explained, say
from ipa.errors import RequestError

if TYPE_CHECKING:
    from ipa.serve.desk import Desk
    from ipa.serve.offers import Offers

_LOG = logging.getLogger("ipa.serve")
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    model: Models = None,
    adapter: Adapters = None,
    controlnet: ControlNets = None,
    t2i_adapter: T2IAdapters = None,
    lora: Loras = None,
    textual_inversion: Inversions = None,
    folder: Folder = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; another than this machine needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="IPA_MLX_TOKEN",
            help="What clients must show; made and kept where it is needed and none is given.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name that the server goes by, such as host.docker.internal; may be repeated.",
        ),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, max=1024, help="Jobs that may wait.")] = 16,
    backend: Backend = None,
    dtype: Dtype = None,
    device: Device = None,
    quantize: Quantize = None,
) -> None:
    """Serve pictures over HTTP: an API of its own, OpenAI's and A1111's, on this machine."""
    with explained():
        server = needing("ipa.serve.server", "serve")
        parts = parts_of(adapter, controlnet, t2i_adapter, lora, textual_inversion)
        options = given_options(backend=backend, dtype=dtype, device=device, quantize=quantize)
        offers = offers_of(model, parts, folder, options)
        if host not in _LOCAL and token is None:
            place = Path(typer.get_app_dir("ipa-mlx")) / "serve-token"
            token = server.kept_token(place)
            say("[bold]token:[/]", f"{token} (kept in {place})")
        desk = desk_of(offers, queue)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        opened = server.Server(
            desk, host=host, port=port, token=token, allow_hosts=allow_host or ()
        )
        load_first(desk)
        opened.run(lambda: say("[bold]serving:[/]", f"http://{host}:{opened.port}/"))


def mcp(
    model: Models = None,
    adapter: Adapters = None,
    controlnet: ControlNets = None,
    lora: Loras = None,
    folder: Folder = None,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="A folder whose pictures may be named by path; may be repeated."
        ),
    ] = None,
    backend: Backend = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
) -> None:
    """Be tools of a language model (MCP, standard input and output): generate, encoder_view."""
    with explained():
        tools = needing("ipa.serve.tools", "mcp")
        parts = parts_of(adapter, controlnet, None, lora, None)
        options = given_options(backend=backend, dtype=dtype, quantize=quantize)
        desk = desk_of(offers_of(model, parts, folder, options))
        try:
            tools.make_tools(desk, pictures or ()).run("stdio")
        finally:
            desk.close()


def needing(module: str, extra: str) -> Any:
    """A module that needs an extra, imported. Raises RequestError where that is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RequestError(
            f"this command needs the extra [{extra}]",
            found=str(error),
            remedy=f"pip install 'ipa-mlx[{extra}]'",
        ) from error


def parts_of(
    adapter: Sequence[str] | None,
    controlnet: Sequence[str] | None,
    t2i_adapter: Sequence[str] | None,
    lora: Sequence[str] | None,
    textual_inversion: Sequence[str] | None,
) -> dict[str, Sequence[str]]:
    """What is offered beside models, by kind."""
    return {
        "adapters": adapter or (),
        "controlnets": controlnet or (),
        "t2i_adapters": t2i_adapter or (),
        "loras": lora or (),
        "textual_inversions": textual_inversion or (),
    }


def given_options(**options: Any) -> dict[str, Any]:
    """Those options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def offers_of(
    model: Sequence[str] | None,
    parts: dict[str, Sequence[str]],
    folder: Path | None,
    options: dict[str, Any],
) -> Offers:
    """What is offered; without a word about models the demo, with what belongs to it."""
    if model is None and folder is None:
        model = ["demo"]
        parts = parts | {"adapters": parts["adapters"] or ["demo:base", "demo:plus"]}
        parts |= {"controlnets": parts["controlnets"] or ["demo:edges"]}
    from ipa.serve.offers import Offers

    return Offers.of(model or [], parts, folder, options)


def desk_of(offers: Offers, queue: int = 16) -> Desk:
    """A desk with an engine of its own."""
    from ipa.serve.desk import Desk
    from ipa.serve.limits import Limits

    return Desk(offers, Limits(queue=queue))


def load_first(desk: Desk) -> None:
    """Begin to load what most requests will need; what fails is told, and again to who asks."""
    job = desk.load(desk.offers.model(None))

    def tell(_: Any) -> None:
        error = job.exception()
        if error is not None:
            _LOG.error("the first model cannot be loaded: %s", error)

    job.add_done_callback(tell)
