# SPDX-License-Identifier: Apache-2.0
"""One open NVML: every call in our errors, closed and opened anew when the driver went away.

The only importer of pynvml, and that only when a session is opened. Knows how NVML fails, not what
it tells. Handles belong to the session that gave them: they are never kept beyond it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from agents.errors import AgentError
from gpu_plugin.nvml import (
    DeviceIsGone,
    DriverIsGone,
    GpuIsLost,
    NoDriver,
    NotPermitted,
    NotSupported,
    NvmlUnavailable,
)

T = TypeVar("T")

#: For how long opening anew waits until calls that are still in the old session have come back.
_DRAIN_S = 2.0


class ListGrew(NvmlUnavailable):
    """The list got longer between the question for its size and the answer."""


class TimedOut(NvmlUnavailable):
    """NVML's own timeout: nothing happened in the time that was given."""


#: NVML's errors (without their prefix), what they mean to us, and what to do.
_MEANING: dict[str, tuple[type[AgentError], str | None]] = {
    "UNINITIALIZED": (DriverIsGone, None),
    "DRIVER_NOT_LOADED": (NoDriver, "load the kernel driver (modprobe nvidia)"),
    "LIB_RM_VERSION_MISMATCH": (DriverIsGone, "the driver was upgraded: restart this pod"),
    "LIBRARY_NOT_FOUND": (
        NoDriver,
        "install the NVIDIA driver on the node; in a pod, run with runtimeClassName nvidia and "
        "NVIDIA_VISIBLE_DEVICES=all",
    ),
    "NO_PERMISSION": (
        NotPermitted,
        "run this pod with NVIDIA_MIG_MONITOR_DEVICES=all (or privileged); where the container "
        "toolkit runs in jit-cdi mode, with its management CDI device",
    ),
    "GPU_IS_LOST": (GpuIsLost, "reset the GPU or restart the node"),
    "RESET_REQUIRED": (GpuIsLost, "reset the GPU or restart the node"),
    "GPU_NOT_FOUND": (DeviceIsGone, None),
    "NOT_FOUND": (DeviceIsGone, None),
    "INVALID_ARGUMENT": (DeviceIsGone, None),
    "NOT_SUPPORTED": (NotSupported, None),
    "FUNCTION_NOT_FOUND": (NotSupported, None),
    "ARGUMENT_VERSION_MISMATCH": (NotSupported, None),
    "DEPRECATED": (NotSupported, None),
    "INSUFFICIENT_SIZE": (ListGrew, None),
    "TIMEOUT": (TimedOut, None),
    "UNKNOWN": (
        NvmlUnavailable,
        "if this container lost its GPU device nodes (a systemd reload can do that), restart it",
    ),
}


class Session:
    """NVML between its initialisation and its shutdown. `handles` are by UUID, `event_sources` by
    the address of a handle; `sampled_until` is the newest sample that was seen of each device.

    `number` counts the sessions. `ended`: it is void. `stale`: it works, but a new one is wanted;
    then `before_end` is called first.
    """

    def __init__(self, pynvml: Any, number: int = 1) -> None:  # untyped ctypes bindings
        self.pynvml = pynvml
        self.number = number
        self.ended = self.stale = False
        self.handles: dict[str, Any] = {}
        self.sampled_until: dict[str, int] = {}
        self.event_set: Any = None
        self.event_sources: dict[int, str] = {}
        self.before_end: Callable[[], object] | None = None
        self._unsupported: set[tuple[str | None, str]] = set()

    def call(self, name: str, *arguments: Any, device: str | None = None, variant: str = "") -> Any:
        """Call a function of pynvml; `device` is the UUID (or a name) it is about.

        What a device does not support is remembered, so that it is asked once. `variant` tells
        apart what one function of pynvml does under different arguments.
        """
        feature = (device, name + variant)
        if feature in self._unsupported:
            raise NotSupported(f"{_about(device)}{name}: not supported by this driver or device")
        try:
            if (function := getattr(self.pynvml, name, None)) is None:
                raise NotSupported(f"{name}: this version of nvidia-ml-py does not have it")
            return function(*arguments)
        except NotSupported:
            self._unsupported.add(feature)
            raise
        except self.pynvml.NVMLError as error:
            raised = translate(self.pynvml, error, f"{_about(device)}{name}")
            if isinstance(raised, NotSupported):
                self._unsupported.add(feature)
            self.ended |= isinstance(raised, DriverIsGone)
            raise raised from error

    def handle(self, uuid: str) -> Any:
        """The handle of a GPU or slice. Raises DeviceIsGone."""
        if uuid not in self.handles:
            self.handles[uuid] = self.call("nvmlDeviceGetHandleByUUID", uuid, device=uuid)
        return self.handles[uuid]

    def on(self, uuid: str, name: str, *arguments: Any, variant: str = "") -> Any:
        """`call` on a device; a handle that turns out stale is forgotten."""
        handle = self.handle(uuid)
        try:
            return self.call(name, handle, *arguments, device=uuid, variant=variant)
        except DeviceIsGone:
            self.handles.pop(uuid, None)
            raise

    def free_events(self) -> None:
        """Give the event set back; whatever a dying driver says to that."""
        if self.event_set is not None:
            try:
                self.pynvml.nvmlEventSetFree(self.event_set)
            except self.pynvml.NVMLError:
                pass
        self.event_set = None
        self.event_sources.clear()

    def forget_verdicts(self, device: str) -> None:
        """Ask again what it supports: that depends on its MIG mode, which changed."""
        self._unsupported = {each for each in self._unsupported if each[0] != device}


class Sessions:
    """Lends the current session to calls of any thread, and replaces it when it ended."""

    def __init__(self, *, drain_s: float = _DRAIN_S) -> None:
        self._drain_s = drain_s
        self._condition = threading.Condition()
        self._session: Session | None = None
        self._opened = 0
        self._borrowed = 0
        self._closed = False

    def run(self, action: Callable[[Session], T]) -> T:
        """Do something in a session; once more in a fresh one if the driver was reloaded."""
        try:
            return self._once(action)
        except DriverIsGone:
            return self._once(action)

    def renew(self) -> None:
        """The next call opens NVML anew, unless a call hangs in the session that there is."""
        with self._condition:
            if self._session is not None:
                self._session.stale = True

    def close(self) -> None:
        """Shut NVML down, unless a call is stuck in it: then the process's end does."""
        with self._condition:
            self._closed = True
            session = self._session
            if session is not None and self._drained(session):
                self._end(session)

    def _once(self, action: Callable[[Session], T]) -> T:
        with self._borrow() as session:
            return action(session)

    @contextmanager
    def _borrow(self) -> Iterator[Session]:
        with self._condition:
            session = self._current()
            self._borrowed += 1
        try:
            yield session
        finally:
            with self._condition:
                self._borrowed -= 1
                self._condition.notify_all()

    def _current(self) -> Session:
        session = None if self._closed else self._session
        if session is not None and (session.ended or session.stale):
            # A shutdown under a running call would pull the driver's memory from below it.
            if self._drained(session):
                if session.stale and session.before_end is not None:
                    session.before_end()
                self._end(session)
            elif session.ended:
                raise NvmlUnavailable(
                    "the driver must be opened anew, but a call into the old one has not returned"
                )
            else:
                session.stale = False  # those who still get answers go on with it
        if self._closed:  # while this one waited
            raise NvmlUnavailable("this driver was closed")
        if self._session is None:
            self._session = _open(self._opened + 1)
            self._opened += 1
        return self._session

    def _end(self, session: Session) -> None:
        """Unless another thread did while this one waited for the calls to come back."""
        if self._session is session:
            _shut_down(session)
            self._session = None

    def _drained(self, session: Session) -> bool:
        """Whether no call is in it any more, or another thread has replaced it meanwhile."""
        return self._condition.wait_for(
            lambda: self._borrowed == 0 or self._session is not session, self._drain_s
        )


def translate(pynvml: Any, error: Exception, doing: str) -> AgentError:
    """What an NVML error means to us."""
    kind, remedy = _MEANING.get(_name(pynvml, error), (NvmlUnavailable, None))
    return kind(f"{doing}: {error}", remedy=remedy)


def _name(pynvml: Any, error: Exception) -> str:
    """What pynvml calls the value of this error; empty for one that it does not know."""
    value = getattr(error, "value", None)
    names = (name for name in _MEANING if getattr(pynvml, f"NVML_ERROR_{name}", None) == value)
    return next(names, "")


def _about(device: str | None) -> str:
    return "" if device is None else f"{device}: "


def _open(number: int) -> Session:
    import pynvml  # not before a driver is wanted: a simulated machine has none

    session = Session(pynvml, number)
    session.call("nvmlInit")
    return session


def _shut_down(session: Session) -> None:
    """Whatever the old session says to that: a driver that is gone refuses even this."""
    session.free_events()
    try:
        session.pynvml.nvmlShutdown()
    except session.pynvml.NVMLError:
        pass
