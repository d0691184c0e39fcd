# SPDX-License-Identifier: Apache-2.0
"""The NVIDIA driver, through pynvml: `Nvml` for real machines. Opened by the first call.

Knows no rule and no pod. `driver_session` knows how NVML fails, `driver_queries` what it tells.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from agents.errors import AgentError
from agents.hostfs import HostFs
from gpu_plugin.devices import (
    Gpu,
    GpuProcess,
    LostGpu,
    Machine,
    Memory,
    MemoryLimits,
    Outline,
    Utilisation,
    XidEvent,
)
from gpu_plugin.driver_queries import NO_INSTANCE, DriverQueries
from gpu_plugin.driver_session import Session, Sessions, TimedOut
from gpu_plugin.nvml import DeviceIsGone, DriverIsGone, GpuIsLost, NoSuchCgroup, NotSupported

#: How long one wait inside NVML lasts: for so long it keeps a driver reload or a close waiting.
_EVENT_SLICE_S = 0.5


class PynvmlDriver:
    """Safe to call from several threads. NVML never takes the verdict "lost" back within a
    session.
    """

    def __init__(self, host: HostFs | None = None) -> None:
        self._host = host or HostFs()
        self._sessions = Sessions()
        self._uuid_by_index: dict[int, str] = {}
        self._mig_modes: dict[str, bool | None] = {}
        self._unmonitored: Mapping[str, str] = {}
        self._taken: deque[XidEvent] = deque()
        self._closed = threading.Event()

    def outline(self) -> Outline:
        def ask(session: Session) -> Outline:
            version = session.call("nvmlSystemGetDriverVersion")
            return Outline(version, session.call("nvmlDeviceGetCount"), session.number)

        return self._sessions.run(ask)

    def gpu(self, index: int) -> Gpu | LostGpu:
        return self._sessions.run(lambda session: self._look(session, index))

    def machine(self) -> Machine:
        outline = self.outline()
        return outline.machine([self.gpu(index) for index in range(outline.gpus)])

    def reopen(self) -> None:
        self._sessions.renew()

    def memory(self, uuid: str) -> Memory:
        return self._sessions.run(lambda session: DriverQueries(session).memory(uuid))

    def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        return self._sessions.run(lambda session: DriverQueries(session).processes(uuid))

    def utilisation(self, uuid: str) -> Utilisation:
        return self._sessions.run(lambda session: DriverQueries(session).utilisation(uuid))

    def process_utilisation(self, uuid: str) -> Mapping[int, float]:
        return self._sessions.run(lambda session: DriverQueries(session).process_utilisation(uuid))

    def wait_event(self, timeout_s: float) -> XidEvent | None:
        deadline = time.monotonic() + timeout_s
        while True:
            if self._taken:
                return self._taken.popleft()
            limit = min(_EVENT_SLICE_S, max(0.0, deadline - time.monotonic()))
            event = self._sessions.run(lambda session: self._wait(session, limit))  # noqa: B023 -- runs now
            if event or self._closed.is_set() or time.monotonic() >= deadline:
                return event

    def unmonitored(self) -> Mapping[str, str]:
        return self._unmonitored

    def memory_limits(self, uuid: str, cgroup: str) -> MemoryLimits:
        def get(session: Session) -> MemoryLimits:
            answer = _limits(session, "Get")
            answer.nameSpace = cgroup.encode()
            _on_cgroup(session, uuid, "nvmlDeviceGetMemoryLimits_v1", answer, cgroup)
            unlimited = session.pynvml.NVML_DEVICE_MEMORY_LIMIT_MAX
            soft, hard = answer.softLimit, answer.hardLimit
            return MemoryLimits(
                soft=None if soft in (0, unlimited) else soft,
                hard=None if hard == unlimited else hard,
                used=answer.currentUsed,
            )

        return self._sessions.run(get)

    def set_memory_limits(self, uuid: str, cgroup: str, limits: MemoryLimits) -> None:
        def set_limits(session: Session) -> None:
            wanted = _limits(session, "Set")
            unlimited = session.pynvml.NVML_DEVICE_MEMORY_LIMIT_MAX
            wanted.nameSpace = cgroup.encode()
            # No guarantee is 0; the largest value would guarantee all the memory there is.
            wanted.softLimit = limits.soft or 0
            wanted.hardLimit = unlimited if limits.hard is None else limits.hard
            _on_cgroup(session, uuid, "nvmlDeviceSetMemoryLimits_v1", wanted, cgroup)

        self._sessions.run(set_limits)

    def close(self) -> None:
        self._closed.set()
        self._sessions.close()

    def _look(self, session: Session, index: int) -> Gpu | LostGpu:
        queries = DriverQueries(session)
        try:
            self._uuid_by_index[index] = uuid = queries.identify(index)
            gpu = queries.gpu(uuid, index, self._host)
        except DriverIsGone:
            raise
        except AgentError as error:  # this GPU alone
            return LostGpu(index, self._uuid_by_index.get(index), str(error))
        if self._mig_modes.get(uuid, gpu.mig_enabled) != gpu.mig_enabled:
            session.forget_verdicts(uuid)
        self._mig_modes[uuid] = gpu.mig_enabled
        return gpu

    def _register(self, session: Session) -> None:
        """One event set for the XIDs of every GPU that has them. Raises what refused, if none
        has.
        """
        session.event_set = session.call("nvmlEventSetCreate")
        session.before_end = partial(self._take_events, session)
        unmonitored: dict[str, str] = {}
        refused: AgentError = NotSupported("there is no GPU to wait for events of")
        kind = session.pynvml.nvmlEventTypeXidCriticalError
        for index in range(session.call("nvmlDeviceGetCount")):
            uuid = self._uuid_by_index.get(index, f"GPU {index}")
            try:
                uuid = DriverQueries(session).identify(index)
                session.on(uuid, "nvmlDeviceRegisterEvents", kind, session.event_set)
                session.event_sources[_address(session.handle(uuid))] = uuid
            except DriverIsGone:
                raise
            except AgentError as error:
                refused = error
                unmonitored[uuid] = str(error)
        self._unmonitored = unmonitored
        if not session.event_sources:
            session.free_events()
            raise refused

    def _wait(self, session: Session, limit_s: float) -> XidEvent | None:
        try:
            if session.event_set is None:
                self._register(session)
            data = session.call("nvmlEventSetWait_v2", session.event_set, round(limit_s * 1000))
        except TimedOut:
            return None
        except GpuIsLost:
            # NVML says so at every wait, at once. A new set is made of those that still answer.
            session.free_events()
            self._register(session)
            self._closed.wait(limit_s)
            return None
        return _event(session, data)

    def _take_events(self, session: Session) -> None:
        """Those that wait in the set of a session that is about to be given up."""
        while session.event_set is not None:
            try:
                data = session.call("nvmlEventSetWait_v2", session.event_set, 0)
            except AgentError:
                return
            if event := _event(session, data):
                self._taken.append(event)


def _event(session: Session, data: Any) -> XidEvent | None:
    """None for what is no XID, or of no GPU that was asked."""
    uuid = session.event_sources.get(_address(data.device))
    if uuid is None or not data.eventType & session.pynvml.nvmlEventTypeXidCriticalError:
        return None
    return XidEvent(
        uuid,
        int(data.eventData),
        None if data.gpuInstanceId == NO_INSTANCE else data.gpuInstanceId,
        None if data.computeInstanceId == NO_INSTANCE else data.computeInstanceId,
        session.number,
    )


def _address(handle: Any) -> int:
    """NVML names one device by one address for the whole session."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _limits(session: Session, verb: str) -> Any:
    structure = getattr(session.pynvml, f"c_nvml{verb}MemoryLimits_v1_t", None)
    if structure is None:
        raise NotSupported("this version of nvidia-ml-py knows no memory limits")
    return structure()


def _on_cgroup(session: Session, uuid: str, name: str, limits: Any, cgroup: str) -> None:
    """NVML has one error for a stale handle and a bad directory: ask the device which it was."""
    try:
        session.on(uuid, name, limits)
    except DeviceIsGone as error:
        session.on(uuid, "nvmlDeviceGetUUID")
        raise NoSuchCgroup(
            f"{cgroup!r} is no cgroup v2 directory to the driver: {error}"
        ) from error
