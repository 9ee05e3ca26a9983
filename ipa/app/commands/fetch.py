"""`ipa-mlx fetch`: models and adapters into the hub's cache, for machines that go offline."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from ipa.app.terminal import print_json
from ipa.errors import CheckpointError
from ipa.sources.adapters import resolve_adapter
from ipa.sources.catalogue import ADAPTERS
from ipa.sources.hub import hub_name
from ipa.sources.models import resolve_file, resolve_model, resolve_repository
from ipa.sources.public_models import MODELS, public_model

_ENCODERS = "Image encoders, one for all adapters that need it: 2.5 GB; the larger: 3.7 GB."
_ADAPTER = "IP-Adapter"  # a family of files, as the converters call it


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """The paths of what was fetched: a folder or a file, and an adapter's image encoder."""

    name: str
    path: Path
    image_encoder: Path | None = None


def run_fetch(name: str, *, revision: str | None, variant: str | None, offline: bool) -> Fetched:
    """Download a repository (owner/name), one of its files, or a public adapter (short name).

    Raises:
        CheckpointError: It does not exist, or the hub cannot be reached.
    """
    public = public_model(name)
    repository = public.repository if public else name
    found = hub_name(repository)
    if found is not None and not found.path:
        variant = variant or (public.variant if public else None)
        root = resolve_repository(repository, revision=revision, variant=variant, offline=offline)
        return Fetched(name=name, path=root)
    if found is None and ("/" in name or Path(name).exists()):
        model = resolve_model(name, variant=variant)
        return Fetched(name=name, path=model.single_file.path if model.single_file else model.path)
    if found is not None:
        path = resolve_file(name, revision=revision, offline=offline)
        if not _is_adapter(path):
            return Fetched(name=name, path=path)
    if found is None and name not in ADAPTERS:
        raise _unknown(name)
    files = resolve_adapter(name, revision=revision, offline=offline)
    return Fetched(name=name, path=files.weights, image_encoder=files.image_encoder)


def _unknown(name: str) -> CheckpointError:
    """The error for a word that is no name of anything public."""
    nearest = difflib.get_close_matches(name, [*MODELS, *ADAPTERS], n=2)
    guess = f"did you mean {' or '.join(nearest)}? " if nearest else ""
    return CheckpointError(
        f"{name} is the short name of no public model or adapter",
        remedy=f"{guess}ipa-mlx fetch alone lists {len(MODELS)} models and {len(ADAPTERS)} "
        "adapters; any other is owner/name, or owner/name/folder/file.safetensors",
    )


def _is_adapter(path: Path) -> bool:
    """Whether a file is an adapter that may need an image encoder; False if it is unreadable."""
    import ipa_convert

    try:
        return ipa_convert.inspect(path).family == _ADAPTER
    except CheckpointError:
        return False


def show_catalogue(*, as_json: bool = False) -> None:
    """Print the public models and adapters; names whole, however narrow the terminal is."""
    models = {name: asdict(m) | {"megabytes": m.megabytes} for name, m in MODELS.items()}
    adapters = {name: asdict(public) for name, public in ADAPTERS.items()}
    if as_json:
        print_json({"models": models, "adapters": adapters})
        return
    rows = {name: (m.base, _size(m.megabytes), m.repository) for name, m in MODELS.items()}
    _print_table(("models (-m)", "base", "size", "repository"), rows)
    for repository in dict.fromkeys(public.repository for public in ADAPTERS.values()):
        of_repository = {
            n: (a.base, _size(a.megabytes), a.about)
            for n, a in ADAPTERS.items()
            if a.repository == repository
        }
        typer.echo()
        _print_table(("adapters (-a)", "base", "size", f"for ({repository})"), of_repository)
    typer.echo(f"\n{_ENCODERS}")


def _size(megabytes: float | None) -> str:
    """A size to read; empty where it is not known."""
    if megabytes is None:
        return ""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


def _print_table(titles: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for title in titles:
        table.add_column(title, no_wrap=True)
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=max(Console().width, 80)).print(table)
