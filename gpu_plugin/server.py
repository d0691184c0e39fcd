# SPDX-License-Identifier: Apache-2.0
"""The life of one device plugin: serve, register, notice a kubelet restart, stop. Knows no answers.

Level-triggered: at every poke (a change in the kubelet's directory, or the poll interval)
`_reconcile` compares what is there with what should be, and does the next step:

- our socket is not there: serve on a new one (the kubelet deletes all sockets when it starts);
- kubelet.sock is another than the one we registered with: register;
- our list is not being watched though we are registered: the kubelet dropped us without a word,
  because another plugin took the name (a list that is too long is never sent): register again, ever
  more slowly.

Serving comes first: the kubelet dials back inside Register. Blocking calls go through worker
threads.

A new copy of this agent takes the socket's path over at once, by a rename; the old one sees that
somebody else listens there, and waits until he is gone. So an update may overlap.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import trio

from agents.errors import AgentError
from agents.hostfs import PROC
from agents.logs import get_logger
from gpu_plugin import competitors
from gpu_plugin.endpoint import (
    SOCKET_PREFIX,
    Endpoint,
    SocketIdentity,
    identify_socket,
    socket_path,
)
from gpu_plugin.registration import Registration
from gpu_plugin.rpc_boundary import RpcBoundary
from gpu_plugin.service import DevicePlugin

#: After Register the kubelet asks for the list at once; later than this, something is wrong.
_LIST_LIMIT_S = 5.0
_SETTLE_S = 0.1
#: What Register may take when the kubelet that was asked is not the one that is there now.
_ANSWER_LIMIT_S = 1.0
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 60.0
#: For how long it is said that somebody contested the name.
_CONTESTED_S = 600.0


class PluginServer:
    """Keeps one plugin registered. `problem` says why it is not (None: it is); `told` is called
    when that changes.
    """

    def __init__(
        self,
        resource: str,
        plugins: Path,
        plugin: DevicePlugin,
        *,
        proc: Path = PROC,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self._resource, self._plugin, self._proc, self._told = resource, plugin, proc, told
        self._streams, self._counters = plugin.streams, plugin.counters
        self._counters.begin(resource)
        self._kubelet = plugins / "kubelet.sock"
        self.socket = socket_path(plugins, resource)
        self._endpoint: Endpoint | None = None
        self._registered = False
        self._attempted: SocketIdentity | None = None
        self._registered_at = 0.0
        self._ended_before = 0
        self._pause_s = _FIRST_PAUSE_S
        self._next_attempt = 0.0
        self._poked = trio.Event()
        self._contested: str | None = None
        self._contested_at = -math.inf
        self._registering: Registration | None = None
        self._replaced_at: float | None = None
        self.problem: str | None = "not registered yet"
        self._log = get_logger(resource=resource)

    @property
    def contested(self) -> str | None:
        """Who took the name within the last ten minutes, as far as can be known; None: nobody."""
        recently = time.monotonic() - self._contested_at < _CONTESTED_S
        return self._contested if recently else None

    def poke(self) -> None:
        """Something may have changed; from the event loop. Costs two stats while all is well."""
        if self._is_well():
            return
        self._poked.set()
        if self._registering is not None and identify_socket(self._kubelet) != self._attempted:
            # Another kubelet took its place. The call may have reached that one, and be answered
            # in a moment; else the old one hangs, and is not to be waited for.
            now = trio.current_time()
            self._replaced_at = self._replaced_at or now
            if now - self._replaced_at > _ANSWER_LIMIT_S:
                self._registering.cancel()

    async def run(self) -> None:
        """Never returns; cancelled, it ends all streams at once, so that the kubelet notices."""
        try:
            while True:
                await self._reconcile()
                await self._poked.wait()
                self._poked = trio.Event()
        finally:
            with trio.CancelScope(shield=True):
                await self._stop_serving()

    async def _reconcile(self) -> None:
        kubelet = identify_socket(self._kubelet)
        if kubelet is None:
            self._registered, self._attempted = False, None
            self._blame(f"no kubelet: {str(self._kubelet)!r} is not there; start the kubelet")
            return
        try:
            if await self._serve() and await self._must_register(kubelet):
                await self._register(kubelet)
        except (AgentError, OSError) as error:  # a directory that cannot be written, for one
            self._pause()
            self._blame(str(error))

    def _is_well(self) -> bool:
        return (
            self.problem is None
            and self._streams.open > 0
            and self._endpoint is not None
            and self._endpoint.in_place
            and identify_socket(self._kubelet) == self._attempted
        )

    async def _serve(self) -> bool:
        """Whether we listen on our socket (now). False: another process does, and is left alone."""
        if self._endpoint is not None:
            if self._endpoint.in_place:
                return True
            if competitors.listening_pid(self.socket) is not None:
                self._registered = False
                self._blame(f"another process serves {str(self.socket)!r}; waiting for its end")
                return False
        await self._stop_serving()
        boundary = RpcBoundary(self._resource, self._counters, self._plugin.is_new)
        self._endpoint = Endpoint(self.socket, self._plugin, [boundary])
        self._registered, self._attempted = False, None
        return True

    async def _stop_serving(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is None:
            return
        endpoint.close()
        self._plugin.end_lists()
        await trio.to_thread.run_sync(endpoint.wait)

    async def _must_register(self, kubelet: SocketIdentity) -> bool:
        now = trio.current_time()
        if kubelet != self._attempted:
            self._pause_s = _FIRST_PAUSE_S
            return True
        if self._registered and self._is_watched(now):
            return False
        if self._registered and self.problem is None:
            self._pause()
            # A kubelet that ends closes its connections one by one: let it be gone.
            await trio.sleep(_SETTLE_S)
            self._blame(await trio.to_thread.run_sync(self._why_dropped))
        return now >= self._next_attempt

    def _why_dropped(self) -> str:
        """Why the kubelet watches our list no more, though its socket and ours are the same.

        Blocks for a moment.
        """
        if identify_socket(self._kubelet) != self._attempted:
            return "the kubelet was restarted"
        if competitors.listening_pid(self._kubelet) is None:
            return "the kubelet went away; waiting for it"
        if self._streams.ended == self._ended_before:
            return (
                "the kubelet took the registration and does not ask for the list; look in its log"
            )
        others = competitors.listeners(self._kubelet.parent, self._proc, self._is_no_rival)
        beside = ", ".join(map(str, others)) or "none: it may have gone again"
        told = (
            f"another plugin took the name {self._resource!r}: the kubelet dropped a sound list; "
            f"sockets beside ours, newest first: {beside}; remove that plugin, or give one of the "
            "two another resource name"
        )
        self._counters.registrations_lost.labels(self._resource).inc()
        self._contested, self._contested_at = told, time.monotonic()
        return told

    def _is_no_rival(self, socket: str) -> bool:
        return socket == self._kubelet.name or socket.startswith(SOCKET_PREFIX)

    def _is_watched(self, now: float) -> bool:
        """Also while the kubelet has not had the time to ask for the list."""
        if self._streams.open:
            return True
        asked_soon = now - self._registered_at < _LIST_LIMIT_S
        return asked_soon and self._streams.ended == self._ended_before

    async def _register(self, kubelet: SocketIdentity) -> None:
        self._attempted, self._ended_before = kubelet, self._streams.ended
        call = Registration(self._kubelet, self.socket.name, self._resource)
        self._registering, self._replaced_at = call, None
        try:
            await trio.to_thread.run_sync(call.run, abandon_on_cancel=True)
        finally:
            self._registering = None
            call.cancel()
        await self._find_out_with_whom(kubelet)
        self._registered, self._registered_at = True, trio.current_time()
        self.problem = None
        self._counters.registrations.labels(self._resource).inc()
        self._log.info("registered", path=str(self.socket))
        self._told()

    async def _find_out_with_whom(self, kubelet: SocketIdentity) -> None:
        """A call finds a kubelet by a path, and the socket there may have been made anew meanwhile.
        To register twice would end the calls that this kubelet has begun: so whoever watches the
        list already is the one that has our registration.
        """
        now = identify_socket(self._kubelet)
        if now != kubelet:
            await trio.sleep(_SETTLE_S)
            if self._streams.open:
                self._attempted = now

    def _pause(self) -> None:
        """Before the next attempt; longer each time, unless all was well for a minute."""
        now = trio.current_time()
        if self._registered and now - self._registered_at > _LONGEST_PAUSE_S:
            self._pause_s = _FIRST_PAUSE_S
        self._next_attempt = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def _blame(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._log.warning("not registered", error=problem)
            self._told()
