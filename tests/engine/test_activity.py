"""What keeps macOS awake: begun and ended once for each job. No Mac was asked; a double was."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ipa import Engine
from ipa.engine import activity
from ipa.errors import IpaError

SMALL = {"height": 16, "width": 16, "num_inference_steps": 1}


class Double:
    """A runtime that notes what it is asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[Any] = []
        self._error = error

    def begin(self, options: int, reason: str) -> str:
        if self._error is not None:
            raise self._error
        self.told.append(("begin", options, reason))
        return "an activity"

    def end(self, activity: str) -> None:
        self.told.append(("end", activity))


def test_begun_and_ended_also_where_a_job_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Double()
    monkeypatch.setattr(activity, "system_runtime", lambda: runtime)
    with Engine() as engine:
        engine.submit("demo", SMALL).result()
        with pytest.raises(IpaError):
            engine.submit("demo", SMALL | {"width": 3}).result()
    # 0xEFFFFF: NSActivityUserInitiatedAllowingIdleSystemSleep of Apple's header.
    assert runtime.told == [("begin", 0xEFFFFF, "making a picture"), ("end", "an activity")] * 2


def test_a_job_goes_on_without_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = Double(OSError("no such class"))
    monkeypatch.setattr(activity, "system_runtime", lambda: runtime)
    with Engine() as engine:
        assert engine.submit("demo", SMALL).result().images
    assert runtime.told == [] and "no such class" in caplog.text


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is one of Objective-C")
def test_elsewhere_there_is_none() -> None:
    activity.system_runtime.cache_clear()
    assert activity.system_runtime() is None


@pytest.mark.skipif(sys.platform != "darwin", reason="NSProcessInfo is macOS's")
def test_the_true_one_begins_and_ends() -> None:
    with activity.awake("a test"):
        runtime = activity.system_runtime()
        assert runtime is not None and runtime.begin(0xEFFFFF, "a test")
