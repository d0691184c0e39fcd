# SPDX-License-Identifier: Apache-2.0
"""What a kubelet does by itself: notices ends and silences, and starts what has become due.

It decides when, never what: binding and starting come in as functions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from agents.logs import get_logger
from agents.standin.kubelet.behaviour import Behaviour
from agents.standin.kubelet.events import EventKind, EventLog
from agents.standin.kubelet.pods import PodRecord
from agents.standin.kubelet.session import Session
from agents.standin.pods import Runtime

#: Pods worked on at once.
_WORKERS = 8
_JOIN_S = 5.0


class Housekeeping:
    """One thread that looks around every `tick_s`, and a few that work on pods. For one session.

    `pods` yields all pods, `bind` says whether it just bound one, `work` admits and starts it.
    """

    def __init__(
        self,
        session: Session,
        runtime: Runtime,
        behaviour: Behaviour,
        events: EventLog,
        *,
        pods: Callable[[], Sequence[PodRecord]],
        bind: Callable[[PodRecord], bool],
        work: Callable[[PodRecord], None],
    ) -> None:
        self._session = session
        self._runtime = runtime
        self._behaviour = behaviour
        self._events = events
        self._pods = pods
        self._bind = bind
        self._work = work
        self._log = get_logger()
        self._busy: dict[str, Future[None]] = {}
        self._executor = ThreadPoolExecutor(_WORKERS, "pod")
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Bounded; the session must be stopping."""
        self._thread.join(_JOIN_S)
        self._executor.shutdown(wait=False, cancel_futures=True)
        wait([one for one in self._busy.values() if not one.cancelled()], timeout=_JOIN_S)

    def _run(self) -> None:
        while not self._session.stopping.wait(self._behaviour.tick_s):
            try:
                self._look()
            except Exception:  # noqa: BLE001 -- a bug in one round must not end the rounds
                self._log.exception("embedded kubelet stumbled")

    def _look(self) -> None:
        session = self._session
        session.plugins.calls.report_slow(self._behaviour.slow_call_s)
        for resource in session.state.expire(self._behaviour.endpoint_grace_s):
            self._events.add(EventKind.FORGOTTEN, resource, "capacity is 0 from now on")
        session.node.tick()
        pods = self._pods()
        self._observe_ends(pods)
        for pod in pods:
            if self._bind(pod) or self._has_work(pod):
                self._submit(pod)

    def _observe_ends(self, pods: Sequence[PodRecord]) -> None:
        by_uid = {pod.uid: pod for pod in pods}
        for running in self._runtime.containers():
            pod = by_uid.get(running.start.pod_uid)
            if running.exit_code is not None and pod is not None:
                self._session.workers.ended(pod, running)

    def _has_work(self, pod: PodRecord) -> bool:
        with self._session.state.changed:
            if not pod.bound or pod.ended or pod.deleting or pod.sync.locked():
                return False
            now = time.monotonic()
            if pod.not_before > now:
                return False
            dues = [one.due for one in pod.turn if one.due is not None]
            return not pod.admitted or any(due <= now for due in dues)

    def _submit(self, pod: PodRecord) -> None:
        former = self._busy.get(pod.uid)
        if former is None or former.done():
            self._busy = {uid: one for uid, one in self._busy.items() if not one.done()}
            self._busy[pod.uid] = self._executor.submit(self._guarded, pod)

    def _guarded(self, pod: PodRecord) -> None:
        try:
            self._work(pod)
        except Exception:  # noqa: BLE001 -- else it would vanish in a future that nobody reads
            self._log.exception("embedded kubelet stumbled", pod=pod.spec.key)
