"""The Hugging Face hub: names on it, and what is fetched from it."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypedDict

from ipa.errors import CheckpointError
from ipa.watching import download_bar, is_watched, watch

_LOG = logging.getLogger("ipa.sources")

Choice: TypeAlias = Callable[[Collection[str]], Collection[str]]
"""A function from the names of all files of a repository to those that are needed."""


_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


# What huggingface_hub raises, the special before the general: what is wrong, and what to do.
_REASONS: tuple[tuple[str, str, str], ...] = (
    (
        "GatedRepoError",
        "is gated: its authors decide who may download it",
        f"open its page on the hub, accept the terms there, then {_LOGIN}",
    ),
    (
        "DisabledRepoError",
        "was disabled on the hub",
        "use another copy of the model, or a local folder",
    ),
    (
        "RepositoryNotFoundError",
        "is neither here nor on the hub, or it is private",
        f"check the spelling of owner/name; for a private repository {_LOGIN}",
    ),
    (
        "RevisionNotFoundError",
        "has no such revision on the hub",
        "leave revision= out, or name a branch, a tag or a commit of it",
    ),
    (
        "HFValidationError",
        "is neither a folder here nor a name on the hub",
        "a name on the hub is owner/name, of letters, digits, '-', '_' and '.'",
    ),
)


_STATUS: dict[int, tuple[str, str]] = {
    401: ("is not open to you", f"your token is wrong or expired: {_LOGIN}"),
    403: ("is not open to you", f"your token lacks the right to read it: {_LOGIN}"),
    429: ("cannot be asked for: too many requests", f"wait a little; to be allowed more, {_LOGIN}"),
}


_WRAPPER = "LocalEntryNotFoundError"  # around whatever stood in the way, if nothing is cached


_UNREACHABLE = (
    "is not here, and cannot be downloaded",
    "check the network and the disk, then try again: what was downloaded whole is kept",
)


class HubOptions(TypedDict, total=False):
    """The keywords of all that may be loaded by a name on the hub.

    revision: Branch, tag or commit; None takes the main branch.
    offline: Take what the local cache has of that revision. It is also taken if the hub does not
        answer.
    """

    revision: str | None
    offline: bool


class FolderOptions(HubOptions, total=False):
    """Those of what may be a folder in diffusers' form.

    variant: "fp16" and the like, in the names of its files; None takes the plain ones.
    """

    variant: str | None


class FileOptions(HubOptions, total=False):
    """Those of a file that may lie inside a folder or repository.

    weight_name: Its name.
    subfolder: Its folder inside.
    """

    weight_name: str | None
    subfolder: str


def hub_only(options: HubOptions) -> HubOptions:
    """The hub's keywords among others."""
    return {"revision": options.get("revision"), "offline": options.get("offline", False)}


def download(
    repository: str,
    choose: Choice,
    *,
    markers: Sequence[str],
    revision: str | None = None,
    offline: bool = False,
) -> Path:
    """Download some files of a repository, or take them from the cache; returns the folder.

    Args:
        repository: owner/name.
        choose: Which files; it raises CheckpointError if a needed one is not there.
        markers: Files of which one lies in the cache if anything does.
        revision: Branch, tag or commit; None takes the main branch.
        offline: Take what the cache has of that revision. It is also taken if the hub does not
            answer.

    Raises:
        CheckpointError: There is no such repository or revision, it is not open to this user, the
            hub cannot be reached, or nothing of it is in the cache.
    """
    try:
        cached = _cached(repository, markers, revision)
        found = cached if offline else _fetched(repository, choose, revision, cached)
    except _failures() as error:
        raise _explained(error, repository) from error
    if found is None:
        raise CheckpointError(
            f"{repository} is not in the hub's cache on this machine",
            found=f"no {' or '.join(markers)} of revision {revision or 'main'}",
            remedy="fetch it once with the network, without offline",
        )
    return found


def _fetched(repository: str, choose: Choice, revision: str | None, cached: Path | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, RevisionNotFoundError

    try:
        # Of the ways to list files the one that does not try again and again without a network.
        info = HfApi().model_info(repository, revision=revision)
    except (HFValidationError, RevisionNotFoundError):
        raise
    except _failures():
        if cached is None:
            raise
        return cached
    names = [file.rfilename for file in info.siblings or ()]
    patterns = [glob.escape(name) for name in choose(names)]
    watching = watch()
    watching.check("download")
    bar = download_bar(watching) if is_watched() else None
    _LOG.info("fetching %d files of %s", len(patterns), repository)
    folder = Path(
        snapshot_download(repository, revision=revision, allow_patterns=patterns, tqdm_class=bar)
    )
    watching.check("download")  # some of the hub's transports tell their bars nothing on the way
    return folder


def _cached(repository: str, markers: Sequence[str], revision: str | None) -> Path | None:
    """The folder of a revision in the cache, which may be a part of it."""
    from huggingface_hub import try_to_load_from_cache

    for marker in markers:
        found = try_to_load_from_cache(repository, marker, revision=revision)
        if isinstance(found, str):
            return Path(found).parents[marker.count("/")]
    return None


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions of downloading: the hub's own, its client's, and the system's."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The client is another package from one version of huggingface_hub to the next; its root of
    # errors is the hub's first base.
    client = HfHubHTTPError.__bases__[0]
    return (client, HFValidationError, OSError)


def _explained(error: BaseException, repository: str) -> CheckpointError:
    if type(error).__name__ == _WRAPPER and error.__cause__ is not None:
        error = error.__cause__
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", 0)
    what, remedy = next(
        ((what, remedy) for kind, what, remedy in _REASONS if kind in kinds),
        _STATUS.get(status, _UNREACHABLE),
    )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return CheckpointError(
        f"{repository} {what}",
        found=": ".join([type(error).__name__, *lines[:1]]),
        remedy=remedy,
    )


_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository (owner/name), and the path of a file in it; empty for the repository itself."""

    repository: str
    path: str = ""

    @property
    def folder(self) -> str:
        """The file's folder in the repository; empty for its root."""
        return self.path.rpartition("/")[0]

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.path.rpartition("/")[2]


def hub_name(name: str | Path) -> HubName | None:
    """Parse owner/name, or owner/name/folder/file.safetensors; None if it is local or neither.

    A file is told by its ending (.safetensors, .bin, .ckpt, .pt, .pth): a mistyped path of a folder
    stays a path.
    """
    text = str(name)
    owner, *rest = parts = text.split("/")
    plain = all(part and not part.startswith((".", "~")) for part in parts)
    if not rest or not plain or "\\" in text or Path(text).exists():
        return None
    is_file = text.lower().endswith(_WEIGHTS)
    if is_file != (len(parts) > 2):
        return None
    return HubName(f"{owner}/{rest[0]}", "/".join(rest[1:]))
