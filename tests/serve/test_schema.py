"""Schemathesis over the whole API, as its description says it is, with an engine of paper.

With all of its phases and more examples: `make fuzz-api`.
"""

from __future__ import annotations

from benchmarks.api_fuzz import fuzz


def test_every_route_answers_as_it_is_described() -> None:
    found = fuzz(examples=3, phases="fuzzing,stateful")
    assert not found.failed, found.text[-4000:]
    assert found.operations >= 45 and found.cases > 90
