# SPDX-License-Identifier: Apache-2.0
"""The agent's side of scratch: when each rule runs, and what came of it. A run is a child process,
because a file system may hang at any file: one that shows no progress for long is ended.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from agents import command
from agents.logs import Logger
from fuse_mounter.scratch.config import ScratchRule

#: Without a word for longer the run is ended: something in it hangs.
_SILENT_S = 300.0
#: At the start of an agent: many nodes start at once, and one of them is enough.
_FIRST_S = (30.0, 120.0)
#: After a run that could not be made, or of a mount that was not usable.
_AGAIN_S = 600.0
#: The least between two runs, whatever the clocks say.
_SOON_S = 60.0
_MOST = 1 << 16
_MOST_WORDS = 500


@dataclass(frozen=True, slots=True)
class ScratchStatus:
    """One rule. `outcome` is of the last whole run by this node (None: there was none since this
    agent started), `seconds` how long it took. `problem`: why the last one was not made, or was not
    whole. `next_run` and `last_run` (of whichever node) are seconds of the epoch. `removed` and
    `removed_bytes` count what was removed by this node, also by runs that were ended.
    """

    name: str
    armed: bool
    running: bool = False
    outcome: Mapping[str, Any] | None = None
    seconds: float | None = None
    last_run: float | None = None
    next_run: float | None = None
    problem: str | None = None
    removed: int = 0
    removed_bytes: int = 0
    runs: Mapping[str, int] = field(default_factory=lambda: {"done": 0, "failed": 0})

    def to_json(self) -> dict[str, Any]:
        """For the status document."""
        return {
            "name": self.name,
            "armed": self.armed,
            "running": self.running,
            "outcome": self.outcome,
            "seconds": self.seconds,
            "last_run": self.last_run,
            "next_run": self.next_run,
            "problem": self.problem,
        }


class Keeper:
    """`usable` says whether a mount (by name) may be worked on now; `changed` is called when there
    is something new in `statuses`.
    """

    def __init__(
        self,
        config: Path,
        rules: Sequence[ScratchRule],
        log: Logger,
        usable: Callable[[str], bool],
        changed: Callable[[], None],
    ) -> None:
        self._config, self._log, self._usable, self._changed = config, log, usable, changed
        self._rules = tuple(rules)
        self._statuses: dict[str, ScratchStatus] = {}
        self._renewed = trio.Event()
        #: Children that could not be killed, by rule: they hang in the kernel.
        self._hanging: dict[str, command.Child] = {}

    @property
    def statuses(self) -> tuple[ScratchStatus, ...]:
        return tuple(
            self._statuses.get(rule.name, ScratchStatus(rule.name, rule.armed))
            for rule in self._rules
        )

    def apply(self, rules: Sequence[ScratchRule]) -> None:
        """Changed rules: what runs by the old ones is ended, and nothing of it is lost."""
        if tuple(rules) != self._rules:
            self._rules = tuple(rules)
            self._statuses = {
                rule.name: replace(self._statuses[rule.name], armed=rule.armed)
                for rule in rules
                if rule.name in self._statuses
            }
            self._renewed.set()

    async def run(self) -> None:
        """Never returns."""
        while True:
            self._renewed = trio.Event()
            async with trio.open_nursery() as nursery:
                for rule in self._rules:
                    nursery.start_soon(self._keep, rule)
                await self._renewed.wait()
                nursery.cancel_scope.cancel()

    async def _keep(self, rule: ScratchRule) -> None:
        wait_s = random.uniform(*_FIRST_S)  # noqa: S311 -- spreads work, guards nothing
        while True:
            self._set(rule, next_run=time.time() + wait_s)
            await trio.sleep(wait_s)
            if (why := self._why_not(rule)) is not None:
                self._set(rule, problem=why)
                wait_s = min(rule.every, _AGAIN_S)
            else:
                wait_s = await self._once(rule)

    def _why_not(self, rule: ScratchRule) -> str | None:
        hanging = self._hanging.get(rule.name)
        if hanging is not None and hanging.poll() is None:
            return f"process {hanging.pid} of an earlier run hangs in the kernel"
        self._hanging.pop(rule.name, None)
        if rule.mount is not None and not self._usable(rule.mount):
            return f"mount {rule.mount!r} is not usable now"
        return None

    async def _once(self, rule: ScratchRule) -> float:
        """Seconds until the next one."""
        self._set(rule, running=True)
        started, told = trio.current_time(), _Told()
        try:
            problem = await self._child(rule, told)
        except OSError as error:
            problem = str(error)
        finally:
            self._set(rule, running=False)
            self._count(rule, told.last)
        done = told.last
        if problem is None and (done is None or done["last_run"] is None):
            problem = told.said or "it ended without a word"
        if problem is not None or done is None:
            self._log.warning("scratch not cleaned", rule=rule.name, error=problem)
            self._set(rule, problem=problem, runs=self._ended(rule, "failed"))
            return min(rule.every, _AGAIN_S)
        if done["ran"]:
            seconds = trio.current_time() - started
            self._set(rule, outcome=done, seconds=seconds, runs=self._ended(rule, "done"))
            self._log.info(
                "scratch cleaned" if done["armed"] else "scratch counted",
                rule=rule.name,
                scanned=done["scanned"],
                removed=done["removed"],
                bytes=done["removed_bytes"],
            )
        last = float(done["last_run"])
        self._set(rule, problem="; ".join(done["problems"][:3]) or None, last_run=last)
        return max(_SOON_S, last + rule.every - time.time())

    def _ended(self, rule: ScratchRule, how: str) -> Mapping[str, int]:
        runs = self._statuses[rule.name].runs
        return {**runs, how: runs[how] + 1}

    def _count(self, rule: ScratchRule, done: Mapping[str, Any] | None) -> None:
        """Also of a run that was ended: what it told last is gone."""
        if done is not None and done["armed"]:
            before = self._statuses[rule.name]
            self._set(
                rule,
                removed=before.removed + done["removed"],
                removed_bytes=before.removed_bytes + done["removed_bytes"],
            )

    async def _child(self, rule: ScratchRule, told: _Told) -> str | None:
        """Why it was ended; None: it ended by itself."""
        ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        words = ["scratch", "run", rule.name, "--lines", "--if-due", "--config", str(self._config)]
        try:
            with os.fdopen(theirs, "wb") as output:
                os.set_blocking(theirs, True)
                child = command.start([*command.NODESHARE, *words], output=output)
            try:
                return await _listen(ours, told)
            finally:
                with trio.CancelScope(shield=True):
                    if not await trio.to_thread.run_sync(command.end, child):
                        self._hanging[rule.name] = child
        finally:
            os.close(ours)

    def _set(self, rule: ScratchRule, **values: Any) -> None:
        before = self._statuses.get(rule.name, ScratchStatus(rule.name, rule.armed))
        self._statuses[rule.name] = replace(before, **values)
        self._changed()


@dataclass(slots=True)
class _Told:
    """What a child told last: numbers, and words that are none."""

    last: Mapping[str, Any] | None = None
    said: str = ""

    def take(self, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if isinstance(found, dict) and "last_run" in found:
            self.last = found
        elif text := line.decode(errors="replace").removeprefix("nodeshare: ").strip():
            self.said = text[:_MOST_WORDS]


async def _listen(pipe: int, told: _Told) -> str | None:
    """Until it has no more to say; or why that is not waited for."""
    rest = b""
    while True:
        with trio.move_on_after(_SILENT_S) as waiting:
            await trio.lowlevel.wait_readable(pipe)
        if waiting.cancelled_caught:
            return f"nothing moved for {_SILENT_S:g} s: the file system hangs"
        try:
            data = os.read(pipe, _MOST)
        except BlockingIOError:
            continue
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            told.take(line)
        if not data:
            told.take(rest)
            return None
