# SPDX-License-Identifier: Apache-2.0
"""Everything about credentials that runs in the agent: sources are looked at, each class of tokens
has its keeper, keytabs are kept. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from agents.errors import AgentError, Unavailable
from agents.hostfs import HostFs
from agents.logs import Logger
from agents.mounts import Mounts
from agents.threads import Worker
from agents.watch import watching
from fuse_mounter.credentials import core_dumps, keytabs
from fuse_mounter.credentials.config import Credentials, Source, TokenFile
from fuse_mounter.credentials.keeper import TokenKeeper
from fuse_mounter.credentials.proof import Prover
from fuse_mounter.credentials.refresh_memory import RefreshMemory
from fuse_mounter.credentials.sessions import Sessions
from fuse_mounter.credentials.sources import DirectoryLogins, HubLogins, Logins
from fuse_mounter.credentials.status import CredentialsStatus
from fuse_mounter.credentials.token_files import TokenFiles

#: A directory is looked at when it tells of a change, and so often in any case (seconds).
_LOOK_S = 15.0
_SOURCE_LIMIT_S = 60.0
_KEYTABS_S = 60.0
_AGAIN_S = 5.0


class CredentialsService:
    """`changed` is called when `status` did; `written` when a file was replaced: a mount may use
    it. `published` tells where pods see a mount by this name (None: nowhere now).
    """

    def __init__(
        self,
        config: Credentials,
        host: HostFs,
        log: Logger,
        mounts: Mounts,
        *,
        changed: Callable[[], None],
        written: Callable[[], None] = lambda: None,
        published: Callable[[str], Path | None] = lambda _: None,
    ) -> None:
        self._config, self._log, self._mounts = config, log, mounts
        self._proc = host.proc
        self._changed, self._written, self._published = changed, written, published
        self._keepers: dict[TokenFile, TokenKeeper] = {}
        self._sessions: dict[str, Sessions] = {}
        self._keytab_problems: tuple[str, ...] = ()
        self._problem: str | None = None
        self._restart = trio.CancelScope()
        self._arrange(None)

    @property
    def status(self) -> CredentialsStatus:
        """As of now."""
        tokens = tuple(self._keepers[one].status for one in self._config.tokens)
        return CredentialsStatus(tokens, self._keytab_problems, self._problem)

    @property
    def user_metrics(self) -> bool:
        """Whether metrics have a series for each user."""
        return self._config.user_metrics

    def apply(self, config: Credentials) -> None:
        """From now on. What did not change goes on; files of classes that are gone are removed."""
        if config == self._config:
            return
        before, self._config = self._config, config
        self._arrange(before)
        self._restart.cancel()

    async def run(self) -> None:
        """Until cancelled. Files stay: whoever reads them goes on until they end."""
        while True:
            with trio.CancelScope() as self._restart:
                await self._serve()

    def _arrange(self, before: Credentials | None) -> None:
        """Keepers for the configuration as it is; those that stay keep what they know."""
        config = self._config
        self._files = TokenFiles(config.directory, self._proc, self._mounts)
        moved = before is None or before.directory != config.directory
        same = () if before is None or moved else before.providers
        memory = RefreshMemory(config.directory)
        self._sessions = {
            one.name: self._sessions[one.name] if one in same else Sessions(one, memory, self._log)
            for one in config.providers
        }
        stay = {one.name for one in config.providers if one in same} | {None}
        self._keepers = {
            one: self._keepers[one]
            if one in self._keepers and not moved and one.provider in stay
            else self._keeper(one)
            for one in config.tokens
        }

    def _keeper(self, config: TokenFile) -> TokenKeeper:
        prover = None
        if config.prove is not None:
            directory = self._config.directory
            prover = Prover(config, config.prove, directory, self._published, self._log)
        return TokenKeeper(
            config,
            self._files,
            None if config.provider is None else self._sessions[config.provider],
            self._log,
            changed=self._changed,
            written=self._written,
            prover=prover,
        )

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_keytabs)
            if self._config.tokens:
                await self._prepare()
                for keeper in self._keepers.values():
                    nursery.start_soon(keeper.run)
                for source in self._config.sources:
                    nursery.start_soon(self._follow, source)
            else:
                await trio.sleep_forever()

    async def _prepare(self) -> None:
        while True:
            try:
                core_dumps.forbid()
                self._files.prepare()
                for gone in self._files.keep_only({one.file for one in self._config.tokens}):
                    self._log.info("token file removed; nobody is configured to keep it", path=gone)
            except (OSError, AgentError) as error:
                self._cannot_write(str(error))
                await trio.sleep(_AGAIN_S)
                continue
            self._cannot_write(None)
            return

    def _cannot_write(self, problem: str | None) -> None:
        if problem != self._problem:
            if problem is not None:
                self._log.warning("no tokens can be written", error=problem)
            self._problem = problem
            self._changed()

    async def _follow(self, source: Source) -> None:
        """Look, tell the keepers, wait for news."""
        keepers = [self._keepers[one] for one in self._config.tokens if one.source == source.name]
        logins, worker = _logins(source), Worker(f"source {source.name!r}")
        async with _news(source) as wait:
            while True:
                await self._look(logins, worker, keepers)
                await wait()

    async def _look(self, logins: Logins, worker: Worker, keepers: Sequence[TokenKeeper]) -> None:
        try:
            found = await worker.call(lambda: logins.look(time.time()), timeout_s=_SOURCE_LIMIT_S)
        except Unavailable as error:
            for keeper in keepers:
                keeper.unreadable(error)
            return
        try:
            self._files.prepare()  # somebody may have unmounted it: never write onto a disk
            for keeper in keepers:
                keeper.found(found)
        except (OSError, AgentError) as error:
            self._cannot_write(str(error))
        else:
            self._cannot_write(None)

    async def _keep_keytabs(self) -> None:
        while True:
            found = tuple(problem for one in self._config.keytabs if (problem := keytabs.keep(one)))
            for problem in found:
                if problem not in self._keytab_problems:
                    self._log.warning("keytab not as it should be", error=problem)
            if found != self._keytab_problems:
                self._keytab_problems = found
                self._changed()
            await trio.sleep(_KEYTABS_S)


def _logins(source: Source) -> Logins:
    if source.jupyterhub is not None:
        return HubLogins(source.jupyterhub)
    assert source.directory is not None
    return DirectoryLogins(source.directory)


@asynccontextmanager
async def _news(source: Source) -> AsyncIterator[Callable[[], Awaitable[object]]]:
    """What to wait for before the next look."""
    if source.jupyterhub is not None:
        every = source.jupyterhub.every

        async def pause() -> None:
            await trio.sleep(every)

        yield pause
        return
    directory: Path | None = source.directory
    assert directory is not None
    async with watching([directory], poll_s=_LOOK_S) as wakeups:
        yield wakeups.wait
