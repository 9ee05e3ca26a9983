"""The folder of a studio: pictures that were made, those they were made of, and a bin."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

from ipa.errors import PictureMissingError, RequestError
from ipa.files import take_name, write_whole
from ipa.serve.desk import random_id

NAME = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
"""The name of a picture that was made: when, and what keeps two of one second apart."""

_HASH = re.compile(r"[0-9a-f]{64}")
_MADE_OF, _BIN = "made of", "bin"


def usual_folder() -> Path:
    """Where a studio keeps pictures if nobody says otherwise: ipa-mlx in the user's Pictures."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Pictures" / "ipa-mlx"
    return _xdg_pictures(home) / "ipa-mlx"


def _xdg_pictures(home: Path) -> Path:
    """The folder of pictures that a Linux desktop names, by the rules of xdg-user-dirs."""
    try:
        text = (home / ".config" / "user-dirs.dirs").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return home / "Pictures"
    named = re.search(r'^XDG_PICTURES_DIR="(.+)"$', text, re.MULTILINE)
    return Path(named[1].replace("$HOME", str(home))) if named else home / "Pictures"


class Folder:
    """A studio's folder, made when something is written to it.

    Args:
        root: Where it lies.

    Raises:
        RequestError: Something else lies there.
    """

    def __init__(self, root: Path) -> None:
        if root.exists() and not root.is_dir():
            raise RequestError(
                "the studio's folder is a file",
                found=str(root),
                remedy="name another: --folder DIR",
            )
        self.root = root

    def names(self) -> list[str]:
        """The names of all pictures that were made, the newest first."""
        if not self.root.is_dir():
            return []
        found = (path.stem for path in self.root.glob("*.png"))
        return sorted((name for name in found if NAME.fullmatch(name)), reverse=True)

    def add(self, file: bytes) -> str:
        """Write a picture that was made, whole or not at all; returns its name.

        Raises:
            RequestError: It cannot be written, such as on a full disk.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{random_id()[:6]}"
        self._write(self.root / f"{name}.png", file)
        return name

    def path(self, name: str) -> Path:
        """The file of a picture. Raises PictureMissingError if there is none."""
        path = self.root / f"{name}.png"
        if not NAME.fullmatch(name) or not path.is_file():
            raise PictureMissingError(
                "this picture is not in the studio's folder",
                found=name[:40],
                remedy="it was deleted or moved; look in the bin beside the others",
            )
        return path

    def bin(self, name: str) -> None:
        """Move a picture to the bin. Raises RequestError if that cannot be."""
        self._move(self.path(name), self.root / _BIN / f"{name}.png")

    def take_back(self, name: str) -> None:
        """Move a picture out of the bin again. Raises RequestError if that cannot be."""
        binned = self.root / _BIN / f"{name}.png"
        if not NAME.fullmatch(name) or not binned.is_file():
            raise PictureMissingError("this picture is not in the bin", found=name[:40])
        self._move(binned, self.root / f"{name}.png")

    def keep(self, sha256: str, file: bytes) -> None:
        """Keep a picture that others are made of, by the hash of its pixels."""
        path = self._kept(sha256)
        if not path.exists():
            self._write(path, file)

    def kept(self, sha256: str) -> bytes | None:
        """The file of a picture that others are made of; None if it is not here."""
        if not _HASH.fullmatch(sha256) or not self._kept(sha256).is_file():
            return None
        return self._kept(sha256).read_bytes()

    def kept_path(self, sha256: str) -> Path:
        """Where a picture that others are made of lies, or would."""
        return self._kept(sha256)

    def _kept(self, sha256: str) -> Path:
        return self.root / _MADE_OF / f"{sha256}.png"

    @staticmethod
    def _write(path: Path, file: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"{path.parent} cannot be made", found=str(error)) from error
        write_whole(path, file)

    @staticmethod
    def _move(path: Path, target: Path) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            take_name(path, target)
        except OSError as error:
            raise RequestError(f"{path.name} cannot be moved", found=str(error)) from error
