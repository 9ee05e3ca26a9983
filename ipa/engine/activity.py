"""What keeps macOS awake to a job: an activity of NSProcessInfo, so that App Nap lets it run.

App Nap slows processes down of which no window is seen, the worker of an app in front among them.
Elsewhere there is no such thing, and nothing is done.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

_LOG = logging.getLogger("ipa.engine")
_OBJC = "/usr/lib/libobjc.A.dylib"
_FOUNDATION = "/System/Library/Frameworks/Foundation.framework/Foundation"
USER_INITIATED_ALLOWING_IDLE_SYSTEM_SLEEP = 0x00FFFFFF & ~(1 << 20)
"""NSActivityUserInitiatedAllowingIdleSystemSleep: no nap, but a Mac left alone may sleep."""

Pointer = Any  # an object, class or selector of Objective-C, or None


class Runtime(Protocol):
    """What is used of the Objective-C runtime."""

    def begin(self, options: int, reason: str) -> Pointer:
        """Begin an activity; what it gives is given back to `end`."""
        ...

    def end(self, activity: Pointer) -> None:
        """End it."""
        ...


@contextmanager
def awake(reason: str, runtime: Callable[[], Runtime | None] | None = None) -> Iterator[None]:
    """A context in which macOS does not slow this process down; elsewhere nothing.

    Args:
        reason: What for, as `pmset -g assertions` and the like show it.
        runtime: Gives the runtime; by default that of this system, None where there is none.
    """
    found = (runtime or system_runtime)()
    activity = None if found is None else _begun(found, reason)
    try:
        yield
    finally:
        if found is not None and activity:
            found.end(activity)


def _begun(runtime: Runtime, reason: str) -> Pointer:
    """An activity; None, and a line in the log, if there is none to be had: a job goes on."""
    try:
        return runtime.begin(USER_INITIATED_ALLOWING_IDLE_SYSTEM_SLEEP, reason)
    except (OSError, ctypes.ArgumentError) as error:
        _LOG.warning("no activity of NSProcessInfo: %s; App Nap may slow jobs down", error)
        return None


@cache
def system_runtime() -> Runtime | None:
    """The runtime of this process; None elsewhere than on macOS, or where it cannot be had."""
    if sys.platform != "darwin":
        return None
    try:
        return ObjectiveC(ctypes.CDLL(_OBJC), ctypes.CDLL(_FOUNDATION))
    except (OSError, AttributeError) as error:
        _LOG.warning("no Objective-C: %s; App Nap may slow jobs down", error)
        return None


class ObjectiveC:
    """Activities of NSProcessInfo by ctypes, without a dependency.

    `objc_msgSend` is called by the types of each method, as arm64 wants it. What `begin` gives is
    retained: it is autoreleased, and the pool of this thread ends with the call.
    """

    def __init__(self, objc: Any, foundation: Any) -> None:
        self._objc, self._foundation = objc, foundation  # which hold the classes
        pointer, number = ctypes.c_void_p, ctypes.c_uint64
        objc.objc_getClass.restype = objc.sel_registerName.restype = pointer
        objc.objc_getClass.argtypes = objc.sel_registerName.argtypes = [ctypes.c_char_p]
        objc.objc_autoreleasePoolPush.restype = pointer
        objc.objc_autoreleasePoolPop.argtypes = [pointer]
        objc.objc_autoreleasePoolPop.restype = None
        send = ("objc_msgSend", objc)
        self._get = ctypes.CFUNCTYPE(pointer, pointer, pointer)(send)
        self._text = ctypes.CFUNCTYPE(pointer, pointer, pointer, ctypes.c_char_p)(send)
        self._begin = ctypes.CFUNCTYPE(pointer, pointer, pointer, number, pointer)(send)
        self._end = ctypes.CFUNCTYPE(None, pointer, pointer, pointer)(send)
        self._tell = ctypes.CFUNCTYPE(None, pointer, pointer)(send)

    def begin(self, options: int, reason: str) -> Pointer:
        """See `Runtime.begin`."""
        with self._pool():
            words = self._text(
                self._class("NSString"), self._selector("stringWithUTF8String:"), reason.encode()
            )
            select = self._selector("beginActivityWithOptions:reason:")
            activity = self._begin(self._process(), select, options, words)
            return self._get(activity, self._selector("retain"))

    def end(self, activity: Pointer) -> None:
        """See `Runtime.end`."""
        with self._pool():
            self._end(self._process(), self._selector("endActivity:"), activity)
            self._tell(activity, self._selector("release"))

    def _process(self) -> Pointer:
        return self._get(self._class("NSProcessInfo"), self._selector("processInfo"))

    def _class(self, name: str) -> Pointer:
        return self._objc.objc_getClass(name.encode())

    def _selector(self, name: str) -> Pointer:
        return self._objc.sel_registerName(name.encode())

    @contextmanager
    def _pool(self) -> Iterator[None]:
        pool = self._objc.objc_autoreleasePoolPush()
        try:
            yield
        finally:
            self._objc.objc_autoreleasePoolPop(pool)
