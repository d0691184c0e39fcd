# SPDX-License-Identifier: Apache-2.0
"""Hears of XID events in a thread of its own, and says whose events nobody hears.

Its own, because a wait lasts as long as the process, and one that hangs in the driver must keep
neither the pool of the event loop nor the end of the process waiting. Judges no event.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping

import trio

from agents.errors import AgentError
from agents.logs import get_logger
from gpu_plugin.devices import XidEvent
from gpu_plugin.nvml import NotSupported, Nvml

#: How long one wait lasts: as long as a stop waits for it at most.
_WAIT_S = 1.0


class XidListener:
    """One thread while `run` runs. A wait that did not return for `hang_s` hears nothing;
    `retry_s` passes before a driver that could not be listened to is tried again. `tried` is set
    after the first attempt.
    """

    def __init__(self, nvml: Nvml, *, hang_s: float = 10.0, retry_s: float = 5.0) -> None:
        self._nvml = nvml
        self._hang_s, self._retry_s = hang_s, retry_s
        self._stop = threading.Event()
        self._returned = time.monotonic()
        self._waiting = False
        self._problem: str | None = "nobody listens yet"
        self.tried = trio.Event()

    def unmonitored(self, gpus: Iterable[str]) -> Mapping[str, str]:
        """Those of these GPUs (by UUID) whose events are not heard, and why. Never blocks."""
        problem = self._problem
        if self._waiting and time.monotonic() - self._returned > _WAIT_S + self._hang_s:
            problem = "the wait for events does not return from the driver"
        if problem is not None:
            return dict.fromkeys(gpus, problem)
        deaf = self._nvml.unmonitored()
        return {uuid: deaf[uuid] for uuid in gpus if uuid in deaf}

    async def run(self, heard: Callable[[XidEvent], None]) -> None:
        """Call `heard`, in the event loop, for each event; until cancelled."""
        token = trio.lowlevel.current_trio_token()
        broken = trio.Event()

        def deliver(function: Callable[..., None], *arguments: object) -> None:
            try:
                token.run_sync_soon(function, *arguments)
            except trio.RunFinishedError:
                pass  # the loop ended while this event was on its way

        def listen() -> None:
            try:
                self._listen(lambda event: deliver(heard, event), lambda: deliver(self.tried.set))
            except BaseException:  # noqa: BLE001 -- a thread must not die without a word
                get_logger().exception("the listener for GPU events broke")
                deliver(broken.set)

        threading.Thread(target=listen, name="GPU events", daemon=True).start()
        try:
            await broken.wait()
            raise RuntimeError("the listener for GPU events broke")
        finally:
            self._stop.set()

    def _listen(self, heard: Callable[[XidEvent], None], tried: Callable[[], None]) -> None:
        while not self._stop.is_set():
            self._waiting, self._returned = True, time.monotonic()
            try:
                # The first wait only begins to listen: whether it can is known at once.
                event = self._nvml.wait_event(0.0 if self._problem else _WAIT_S)
                self._problem = None
            except NotSupported as error:
                event, self._problem = None, str(error)
            except AgentError as error:
                event, self._problem = None, f"the driver does not answer: {error}"
            self._waiting = False
            if not self.tried.is_set():
                tried()
            if event is not None:
                heard(event)
            if self._problem is not None:
                self._stop.wait(self._retry_s)
