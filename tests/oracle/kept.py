"""What takes long to load, loaded once per process: every test has a copy of its own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MOST = 24  # tiny models of a few MB each


@dataclass
class Kept:
    """The last things loaded, none of which a test ever holds."""

    whole: Callable[[Any], Mapping[int, Any]] = lambda thing: {}
    """What a copy takes as it is, by its id: what cannot be copied."""
    things: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    def copy(self, key: Hashable, folder: Path, load: Callable[[], Any]) -> Any:
        """A copy of what `load` gives, which runs once for a key and a state of `folder`."""
        known = (key, folder, _state(folder))
        if known not in self.things:
            self.things[known] = load()
        self.things.move_to_end(known)
        thing = self.things[known]
        while len(self.things) > _MOST:
            self.things.popitem(last=False)
        return copy.deepcopy(thing, dict(self.whole(thing)))


def _state(folder: Path) -> Hashable:
    """Changes when a file of the folder does."""
    stats = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)
