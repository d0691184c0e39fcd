# SPDX-License-Identifier: Apache-2.0
"""Looks after the pods' side of mounts: who has bound what, what will not recover, and, if so
configured, heals what is dead.

It looks every few seconds, and at once when a mount has changed. The container runtime is asked for
names alone, by a child, when there is somebody without one. Knows no client and no staging place.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from agents import cri_listing
from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.logs import Logger
from agents.processes import ProcessKey
from agents.threads import Worker
from fuse_mounter.attached import Attached, recovers, sentence
from fuse_mounter.bindings import Sight, View
from fuse_mounter.config import Heal, MounterConfig
from fuse_mounter.folder_process import Request
from fuse_mounter.folders import Folders
from fuse_mounter.healing import Healer
from fuse_mounter.observed import Health
from fuse_mounter.places import Places
from fuse_mounter.probe import Prober
from fuse_mounter.survey import Finding, Survey

#: Several changes in a row are one.
_TOGETHER_S = 0.1
#: The runtime is asked again for somebody whom it did not know, or when it was away.
_NAMES_S, _LONGEST_NAMES_S = 1.0, 300.0
_PROBE_LIMIT_S, _LIMIT_S = 2.0, 10.0
#: After an attempt to heal that failed; twice as long after each further one, up to the second.
_PAUSE_S, _LONGEST_PAUSE_S = 15.0, 600.0


@dataclass(frozen=True, slots=True)
class _Attempt:
    """How healing went at one place of one container; not again before `until`."""

    text: str
    until: float
    pause_s: float


class Pods:
    """`attached` is what was found last, and `changed` is called when it is another; `healed`
    counts attempts to heal by mount, and whether it worked. `healthy` says of a mount that it
    answers.
    """

    def __init__(
        self,
        config: MounterConfig,
        places: Places,
        host: HostFs,
        healer: Healer,
        log: Logger,
        healthy: Callable[[str], bool],
        changed: Callable[[], None],
    ) -> None:
        self._config, self._places, self._host = config, places, host
        self._healer, self._log = healer, log
        self._healthy, self._changed = healthy, changed
        self._survey = Survey(places, host)
        self._reading = Worker("the mount tables of containers")
        self._entering = Worker("work in a container's mount namespace")
        self._prober, self._folders = Prober(_PROBE_LIMIT_S), Folders()
        self._names: dict[tuple[ProcessKey, int], tuple[str, str]] = {}
        self._nameless: set[tuple[ProcessKey, int]] = set()
        self._names_due, self._names_pause_s, self._asking = 0.0, _NAMES_S, False
        self._attempts: dict[tuple[ProcessKey, str], _Attempt] = {}
        self._told: dict[ProcessKey, frozenset[str]] = {}
        self._wake = trio.Event()
        self.attached: tuple[Attached, ...] = ()
        self.healed: Counter[tuple[str, bool]] = Counter()

    def apply(self, config: MounterConfig) -> None:
        """A changed configuration."""
        self._config = config
        self.wake()

    def wake(self) -> None:
        """Look now: what the node shows has changed."""
        self._wake.set()

    async def run(self, cri_socket: Path) -> None:
        """Never returns."""
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._wake = trio.Event()
                    try:
                        await self.round(cri_socket, nursery)
                    except (OSError, Unavailable) as error:
                        self._log.warning("pods not looked at", error=str(error))
                    with trio.move_on_after(self._patience()):
                        await self._wake.wait()
                    await trio.sleep(_TOGETHER_S)
        finally:
            self._prober.close()
            self._folders.close()

    async def round(self, cri_socket: Path, nursery: trio.Nursery) -> None:
        """Look once, ask for names, probe what is not as on the node, heal what is dead."""
        mounts = self._config.mounts
        findings = await self._reading.call(lambda: self._survey.look(mounts), timeout_s=_LIMIT_S)
        if self._names_asked_for(findings):
            nursery.start_soon(self._ask_names, cri_socket)
        self._probe(findings, nursery)
        self._publish(findings)
        if self._config.pods.heal is Heal.HEAL:
            for attached in self.attached:
                for view in attached.views():
                    await self._heal(attached, view)
            self._publish(findings)

    def _patience(self) -> float:
        """Until the next look: less when somebody is to be asked, or healed, before."""
        now = trio.current_time()
        dues = [one.until for one in self._attempts.values() if one.until > now]
        if any(attached.pod is None for attached in self.attached):
            dues.append(self._names_due)
        return max(0.0, min([self._config.pods.look_every, *(due - now for due in dues)]))

    def _names_asked_for(self, findings: Sequence[Finding]) -> bool:
        """Whether it is time. Somebody who is no container has none, and is asked for ever less."""
        here = {finding.who.namespace for finding in findings}
        self._names = {key: name for key, name in self._names.items() if key[1] in here}
        unknown = {_key(finding) for finding in findings} - self._names.keys()
        now = trio.current_time()
        if unknown - self._nameless:
            self._names_due, self._names_pause_s = min(self._names_due, now), _NAMES_S
        self._nameless = unknown
        if not unknown or now < self._names_due:
            return False
        self._names_due = now + self._names_pause_s
        self._names_pause_s = min(_LONGEST_NAMES_S, 2 * self._names_pause_s)
        return True

    async def _ask_names(self, socket: Path) -> None:
        """By mount namespace."""
        if self._asking:
            return
        self._asking = True
        try:
            containers = await cri_listing.containers(socket)
        except Unavailable as error:
            self._log.debug("pods have no names", error=str(error))
            return
        finally:
            self._asking = False
        for container in containers:
            namespace = self._survey.namespace(container.pid)
            for key in self._nameless:
                if key[1] == namespace:
                    pod = container.pod
                    self._names[key] = f"{pod.namespace}/{pod.name}", container.name
        if self._nameless & self._names.keys():
            self.wake()

    def _probe(self, findings: Sequence[Finding], nursery: trio.Nursery) -> None:
        """Whether what was replaced still answers, for those who see it."""
        asked = {}
        for finding in findings:
            for view in _views(finding):
                if view.sight is Sight.LOST and view.top is not None:
                    inside = Path(view.place).relative_to("/")
                    path = self._host.of_pid(finding.who.process.pid, "root", str(inside))
                    asked[_probe_name(finding, view)] = path
        self._prober.keep_only(set(asked))
        for name, path in asked.items():
            if self._prober.due(name, self._config.pods.look_every):
                nursery.start_soon(self._prober.ask, name, path, self.wake)
        if not asked:
            self._prober.close()

    def _publish(self, findings: Sequence[Finding]) -> None:
        attached = tuple(self._attached(finding) for finding in findings)
        keys = {one.process for one in attached}
        self._attempts = {key: one for key, one in self._attempts.items() if key[0] in keys}
        if attached != self.attached:
            self.attached = attached
            self._tell()
            self._changed()

    def _attached(self, finding: Finding) -> Attached:
        process = finding.who.process
        pod, container = self._names.get(_key(finding), (None, None))
        health = self._prober.health()
        seen = {view.place: health.get(_probe_name(finding, view)) for view in _views(finding)}
        return Attached(
            process=process,
            namespace=finding.who.namespace,
            command=finding.command,
            pod=pod,
            container=container,
            bindings=finding.bindings,
            health={place: found for place, found in seen.items() if found is not None},
            healing={
                place: attempt.text
                for (key, place), attempt in self._attempts.items()
                if key == process and attempt.text
            },
        )

    def _tell(self) -> None:
        """A line for each container that will not recover, once."""
        told = {}
        for one in self.attached:
            known = self._told.get(one.process, frozenset())
            bad = [binding for binding in one.bindings if not recovers(binding)]
            for binding in bad:
                if binding.place not in known and one.pod is not None:
                    text = sentence(one, binding, self._places.root)
                    self._log.info("pod will not follow recoveries", text=text)
            if one.pod is not None:
                told[one.process] = frozenset(binding.place for binding in bad)
        self._told = told

    async def _heal(self, attached: Attached, view: View) -> None:
        """Nothing but a dead mount of ours is covered, and with nothing but a healthy one."""
        key, now = (attached.process, view.place), trio.current_time()
        before = self._attempts.get(key)
        dead = view.sight is Sight.LOST and attached.health.get(view.place) is Health.DEAD
        if not dead or view.exposed.top is None or (before is not None and now < before.until):
            return
        if not self._healthy(view.exposed.mount):
            return
        where = {"mount": view.exposed.mount, "who": attached.name, "place": view.place}
        try:
            await self._attach(attached, view)
        except ProcessLookupError:
            return
        except (OSError, AgentError) as error:
            pause_s = min(_LONGEST_PAUSE_S, 2 * before.pause_s) if before else _PAUSE_S
            text = f"it could not be healed: {error}"
            self._attempts[key] = _Attempt(text, now + pause_s, pause_s)
            self.healed[view.exposed.mount, False] += 1
            if before is None or before.text != text:
                self._log.warning("pod not healed", **where, error=str(error))
            return
        self._attempts.pop(key, None)
        self.healed[view.exposed.mount, True] += 1
        self._log.info("pod healed", **where)
        self.wake()

    async def _attach(self, attached: Attached, view: View) -> None:
        assert view.exposed.top is not None
        request = Request(
            proc=str(self._host.proc),
            top=str(self._places.root / view.exposed.path),
            folder=view.folder,
            copy=True,
            mount_id=view.exposed.top.mount_id,
        )
        answer = copy = None
        with trio.move_on_after(_LIMIT_S):
            answer, copy = await self._folders.ask(request)
        if copy is None:
            problem = answer.problem if answer is not None else None
            raise Unavailable(problem or f"{view.exposed.mount!r} does not answer")
        try:
            work = partial(self._heal_and_close, attached, view, os.dup(copy))
            await self._entering.call(work, timeout_s=_LIMIT_S)
        finally:
            os.close(copy)

    def _heal_and_close(self, attached: Attached, view: View, copy: int) -> None:
        """In a thread, which may be left behind with what it holds."""
        try:
            self._healer.heal(attached, view, copy)
        finally:
            os.close(copy)


def _views(finding: Finding) -> Iterable[View]:
    return (view for binding in finding.bindings for view in binding.views)


def _key(finding: Finding) -> tuple[ProcessKey, int]:
    return finding.who.process, finding.who.namespace


def _probe_name(finding: Finding, view: View) -> str:
    """The same mount for ever, as a prober wants it."""
    top = view.top.mount_id if view.top is not None else 0
    process = finding.who.process
    return f"{process.pid}.{process.start_ticks}.{top}"
