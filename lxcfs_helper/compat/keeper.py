# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the root: keeps its process running and mounted, and says how it stands.

The process is a client of the holder, so that an agent may come and go. When it ends, its mount is
dead (ENOTCONN), and another one is started: at once, and after a pause when that keeps happening.
Nothing is remembered: an agent that starts anew finds process and mount as they are.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from signal import Signals

import trio

from agents import holder_start, mountinfo
from agents.agent import Status
from agents.errors import AgentError, Unavailable
from agents.holder_client import HeldClient, Holder, HolderClient, connect
from agents.hostfs import HostFs
from agents.logs import Logger
from agents.mountinfo import MountEntry
from agents.mounts import Mounts
from agents.processes import ProcessKey
from lxcfs_helper.compat import answering, report, standing
from lxcfs_helper.compat.report import Report
from lxcfs_helper.compat.standing import ROOT_VARIABLE, Seen, Step, Wanted

_TICK_S = 1.0
_SOON_S = 0.02
_AGAIN_S = 2.0
#: A process that is told to end is killed after this; one that starts has this long to mount.
_END_S = 2.0
_MOUNT_S = 10.0
#: After the second end; doubled each time, until one has lasted.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
_LASTING_S = 10.0


@dataclass(frozen=True, slots=True)
class Standing:
    """For people and metrics. `state`: off, served, starting, refused or failed."""

    state: str = "off"
    root: str = ""
    reason: str = ""
    pid: int | None = None
    restarts: int = 0
    report: Report = field(default_factory=Report)

    @property
    def problem(self) -> str | None:
        """Why there is no root although one is configured; None: there is, or none is."""
        return self.reason if self.state in ("refused", "failed") else None

    def to_json(self) -> Status:
        """For the status document."""
        return {
            "path": self.root,
            "state": self.state,
            "reason": self.reason,
            "pid": self.pid,
            "restarts": self.restarts,
            "virtual": self.report.virtual,
            "opens": dict(self.report.opens),
            "host_answers": dict(self.report.fallbacks),
            "errors": self.report.errors,
        }


def directory(run_dir: Path) -> Path:
    """Log and report of the process."""
    return run_dir / "compat"


def source_name(run_dir: Path) -> str:
    """What mount tables say: it names the run directory, so that agents with another one leave ours
    alone."""
    return f"{standing.SUBTYPE}:{run_dir}"


def wanted(root: Path, run_dir: Path, host: HostFs) -> Wanted:
    """The process that serves `root`. Its directory is resolved, not itself: it may be dead."""
    root = root.parent.resolve() / root.name
    source = source_name(run_dir)
    argv = [sys.executable, "-P", "-m", "lxcfs_helper.compat", str(root)]
    argv += ["--name", source, "--report", str(directory(run_dir) / "report.json")]
    argv += ["--proc", str(host.proc), "--sys", str(host.sys)]
    argv += ["--dev", str(host.dev), "--cgroup", str(host.cgroup)]
    return Wanted(root, source, tuple(argv))


class Keeper:
    """`root` is what is configured at first; None: no root. `start_holder` False: the holder has a
    pod or a service of its own.
    """

    def __init__(
        self,
        root: Path | None,
        run_dir: Path,
        host: HostFs,
        mounts: Mounts,
        log: Logger,
        *,
        start_holder: bool = True,
    ) -> None:
        self._start_holder = start_holder
        self._root, self._run_dir, self._host = root, run_dir, host
        self._mounts, self._log = mounts, log
        self._source = source_name(run_dir)
        self._table = mountinfo.Watched(host.proc)
        self._wake = trio.Event()
        self._pause_s = 0.0
        self._not_before = 0.0
        self._started_at = -math.inf
        self._ending: dict[ProcessKey, float] = {}
        self._restarts = 0
        self._cause = ""
        self.standing = Standing()
        #: Called whenever that has changed.
        self.changed: Callable[[], None] = lambda: None

    def configure(self, root: Path | None) -> None:
        """Serve it there from now on, and nowhere else."""
        if root != self._root:
            self._root = root
            self._wake.set()

    async def run(self) -> None:
        """Never returns. Whatever happens to the agent, the root goes on."""
        while True:
            async with trio.open_nursery() as nursery:
                try:
                    holder = await self._find_holder(nursery)
                    await self._look_after(holder, nursery)
                except (AgentError, OSError) as error:
                    if self._root is not None or not isinstance(error, Unavailable):
                        self._tell(Standing("failed", str(self._root or ""), str(error)))
                    else:  # the holder was there for others: nothing is missing
                        self._tell(Standing())
                nursery.cancel_scope.cancel()
            await self._sleep(_AGAIN_S)

    async def _find_holder(self, nursery: trio.Nursery) -> HolderClient:
        """Starts one only when there is something to be held."""
        while self._root is None:
            with suppress(Unavailable):
                return await connect(nursery, holder_start.socket_path(self._run_dir))
            self._tell(Standing())
            await self._sleep(math.inf)
        return await holder_start.find_or_start(
            nursery, self._run_dir, self._host, start=self._start_holder
        )

    async def _look_after(self, holder: HolderClient, nursery: trio.Nursery) -> None:
        """Until the holder is gone."""
        nursery.start_soon(self._listen, holder)
        nursery.start_soon(answering.watch, self._answering, holder, self._host, self._log)
        try:
            while True:
                patience_s = await self._round(holder)
                if self._root is None and patience_s >= _TICK_S:
                    self._tell(Standing())
                    patience_s = math.inf
                await self._sleep(patience_s)
        finally:
            holder.close()

    def _answering(self) -> tuple[Path, int] | None:
        now = self.standing
        return (Path(now.root), now.pid) if now.state == "served" and now.pid else None

    async def _listen(self, holder: Holder) -> None:
        async for client in holder.exits:
            if ROOT_VARIABLE in client.labels:
                self._wake.set()
        self._wake.set()

    async def _sleep(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._wake.wait()
        self._wake = trio.Event()

    async def _round(self, holder: Holder) -> float:
        """One step at every place that is configured or was; returns when to look again."""
        root = self._root
        want = None if root is None else wanted(root, self._run_dir, self._host)
        clients = [one for one in await holder.clients() if ROOT_VARIABLE in one.labels]
        for one in clients:
            if one.ended is not None:
                await self._account(holder, one)
        places = {Path(one.labels[ROOT_VARIABLE]) for one in clients}
        patience_s = _TICK_S
        for place in sorted(places | ({want.root} if want else set())):
            here = want if want is not None and want.root == place else None
            seen = self._see(place, clients)
            step = standing.decide(seen, self._source, here)
            patience_s = min(patience_s, await self._take(step, place, seen, here, holder))
        return patience_s

    def _see(self, place: Path, clients: Sequence[HeldClient]) -> Seen:
        mine = [one for one in clients if one.labels[ROOT_VARIABLE] == str(place)]
        stack = mountinfo.at(self._table.read(), place)
        told = report.read(directory(self._run_dir) / "report.json")
        return Seen(
            stack, [one for one in mine if one.ended is None], told.device, _occupied(place, stack)
        )

    async def _account(self, holder: Holder, client: HeldClient) -> None:
        """It ended, whoever wanted that."""
        assert client.ended is not None
        if self._ending.pop(client.key, None) is None:
            now, words = trio.current_time(), self._last_words()
            self._cause = f"its process {client.ended.describe()}{words and ': '}{words}"
            self._log.warning("compatible root ended", cause=self._cause)
            if now - self._started_at > _LASTING_S:
                self._pause_s = 0.0
            self._not_before = now + self._pause_s
            self._pause_s = min(max(_FIRST_PAUSE_S, 2 * self._pause_s), _LONGEST_PAUSE_S)
            self._restarts += 1
        await holder.forget(client.key)

    async def _take(
        self, step: Step, place: Path, seen: Seen, here: Wanted | None, holder: Holder
    ) -> float:
        """Take a step; returns after how many seconds to look again."""
        if step is Step.NOTHING:
            return self._served(place, seen) if here is not None else _TICK_S
        if step is Step.REFUSE:
            return self._refused(place, seen)
        if step is Step.END:
            await self._end(standing.to_end(seen, here), holder)
        elif step is Step.DETACH:
            self._log.info("dead root detached", root=str(place))
            self._mounts.unmount(place, detach=True)
        elif step is Step.START:
            assert here is not None
            return await self._start(here, holder)
        elif not seen.stack and trio.current_time() - self._started_at > _MOUNT_S:
            # It does not get to mounting.
            await holder.signal(seen.processes[0].key, Signals.SIGKILL)
        return _SOON_S

    async def _start(self, here: Wanted, holder: Holder) -> float:
        now = trio.current_time()
        if now < self._not_before:
            self._tell(Standing("failed", str(here.root), self._cause))
            return min(_TICK_S, self._not_before - now)
        own = directory(self._run_dir)
        own.mkdir(parents=True, exist_ok=True)
        if not mountinfo.at(self._table.read(), here.root):
            _make(here.root)
        log = own / "log"
        if log.exists():
            log.replace(own / "log.1")
        (own / "report.json").unlink(missing_ok=True)
        client = await holder.start(here.argv, environment=here.labels(), log=log)
        self._started_at = now
        self._log.info("compatible root started", root=str(here.root), pid=client.key.pid)
        self._tell(Standing("starting", str(here.root), pid=client.key.pid))
        return _SOON_S

    async def _end(self, clients: Sequence[HeldClient], holder: Holder) -> None:
        now = trio.current_time()
        for one in clients:
            since = self._ending.setdefault(one.key, now)
            late = now - since > _END_S
            await holder.signal(one.key, Signals.SIGKILL if late else Signals.SIGTERM)

    def _served(self, place: Path, seen: Seen) -> float:
        told = report.read(directory(self._run_dir) / "report.json")
        self._tell(Standing("served", str(place), pid=seen.processes[0].key.pid, report=told))
        return _TICK_S

    def _refused(self, place: Path, seen: Seen) -> float:
        what, remedy = standing.obstacle(seen, place)
        self._tell(Standing("refused", str(place), f"{what}; {remedy}"))
        return _TICK_S

    def _tell(self, standing: Standing) -> None:
        """A log line when it is another state, for another reason."""
        new = replace(standing, restarts=self._restarts)
        before, self.standing = self.standing, new
        if new != before:
            self.changed()
        if new.problem is not None and before.problem != new.problem:
            self._log.warning("no compatible root", root=new.root, reason=new.reason)

    def _last_words(self) -> str:
        try:
            text = (directory(self._run_dir) / "log").read_text(errors="replace")
        except OSError:
            return ""
        return text.strip().splitlines()[-1][:200] if text.strip() else ""


def _occupied(place: Path, stack: Sequence[MountEntry]) -> bool:
    """Looking into a mount could hang, and a dead one cannot be looked into."""
    if stack or not (place.exists() or place.is_symlink()):
        return False
    return place.is_symlink() or not place.is_dir() or any(place.iterdir())


def _make(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AgentError(
            f"cannot make the directory {str(root)!r}: {error.strerror}",
            remedy="configure another compat_root",
        ) from error
