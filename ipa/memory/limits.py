"""What a pipeline may take, and what it may change of a run to keep to that."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.errors import RequestError, shown

OFFERS = ("strips", "fewer")
"""What may be changed of a run that does not fit its budget as it is: "strips" has the picture go
through the VAE in strips of rows, "fewer" makes fewer pictures of a call at once. Both give the
same pictures, but for rounding."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a pipeline's memory.

    Attributes:
        budget: The bytes that may be used; None is no limit.
        offers: Those of `OFFERS` that may be taken.
    """

    budget: int | None = None
    offers: tuple[str, ...] = OFFERS

    def without(self, offer: str) -> Limits:
        """The same without an offer: a call cannot take it."""
        return replace(self, offers=tuple(name for name in self.offers if name != offer))


def check_offers(value: object) -> tuple[str, ...]:
    """The offers that may be taken, as they were given. Raises RequestError for others."""
    entries = (value,) if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple)) or any(entry not in OFFERS for entry in entries):
        raise RequestError(
            "memory_offers takes names of changes that a run may be given",
            found=shown(value),
            remedy=f"some of {', '.join(map(repr, OFFERS))}, or () for none",
        )
    return tuple(dict.fromkeys(entries))
