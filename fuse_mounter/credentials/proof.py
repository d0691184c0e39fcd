# SPDX-License-Identifier: Apache-2.0
"""Whether a new token is of use: a bounded child opens a path on the published mount as the user,
with the environment that his pod has. Changes nothing, and never waits without a limit.
"""

from __future__ import annotations

import enum
import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import trio

from agents import command
from agents.logs import Logger
from fuse_mounter.credentials import use_process
from fuse_mounter.credentials.config import Proof, TokenFile
from fuse_mounter.credentials.tokens import Format, Login, Secret

_AT_ONCE = 2
#: A mount may be in the middle of being replaced.
_AGAIN_S = 3.0
#: After a child that hung in the kernel, nobody is sent after it for so long.
_PAUSE_S = 300.0


class Result(enum.Enum):
    """What came of using it."""

    USED = "used"
    REFUSED = "refused"
    UNANSWERED = "unanswered"
    UNPUBLISHED = "unpublished"  # there is no such mount now


@dataclass(frozen=True, slots=True)
class Use:
    """`identity`: as whom the server sees the user, where the client tells (eosxd). `reason`: why
    it could not be used.
    """

    result: Result
    identity: str | None = None
    reason: str | None = None


class Prover:
    """`published` is where pods see a mount by this name; None: nowhere at the moment."""

    def __init__(
        self,
        config: TokenFile,
        proof: Proof,
        directory: Path,
        published: Callable[[str], Path | None],
        log: Logger,
    ) -> None:
        self._config, self._proof, self._log = config, proof, log
        self._directory, self._published = directory, published
        self._turn = trio.Semaphore(_AT_ONCE)
        self._hung_at: float | None = None
        self._uses: dict[int, Use] = {}
        self._results = {one.value: 0 for one in Result}

    @property
    def results(self) -> Mapping[str, int]:
        """How often, by result."""
        return dict(self._results)

    def use(self, uid: int) -> Use | None:
        """What came of the last try."""
        return self._uses.get(uid)

    def forget(self, uid: int) -> None:
        """The user has left."""
        self._uses.pop(uid, None)

    async def prove(self, login: Login, token: Secret, news: Callable[[], None]) -> None:
        """Try it, and once more when it is refused. `news` is called when it is known."""
        async with self._turn:
            use = await self._try(login)
            if use.result is Result.REFUSED:
                await trio.sleep(_AGAIN_S)
                use = await self._try(login)
        if use.identity is not None and token.reveal() in use.identity:
            use = Use(use.result, None, use.reason)  # no client should, and none shall
        before = self._uses.get(login.uid)
        self._uses[login.uid] = use
        self._results[use.result.value] += 1
        if use.result is not Result.USED and (before is None or before.result is not use.result):
            self._log.warning(
                "new token is of no use",
                token=self._config.name,
                uid=login.uid,
                mount=self._proof.mount,
                error=use.reason,
            )
        news()

    async def _try(self, login: Login) -> Use:
        mounted = self._published(self._proof.mount)
        if mounted is None:
            return Use(Result.UNPUBLISHED, reason=f"mount {self._proof.mount!r} is not there")
        if self._hung_at is not None and trio.current_time() - self._hung_at < _PAUSE_S:
            return Use(Result.UNANSWERED, reason="the last try hangs; none is sent after it")
        user = [str(login.uid), str(login.gid), str(mounted), self._proof.path]
        argv = [sys.executable, "-I", "-S", use_process.__file__, *user]
        try:
            done = await command.run(
                argv, timeout_s=self._proof.timeout, env=self.environment(login.uid)
            )
        except OSError as error:
            return Use(Result.UNANSWERED, reason=f"no child can be started: {error.strerror}")
        self._hung_at = trio.current_time() if done.code is None else None
        if done.timed_out:
            return Use(Result.UNANSWERED, reason=f"no answer within {self._proof.timeout:g} s")
        return _said(done)

    def environment(self, uid: int) -> dict[str, str]:
        """As the user's pod has it."""
        return environment(self._config, self._directory / str(uid))


def environment(token: TokenFile, directory: Path) -> dict[str, str]:
    """What a pod needs to use this class, when it sees the user's own directory there."""
    path = directory / token.file
    if token.format is Format.EOS:
        return {"OAUTH2_TOKEN": f"FILE:{path}"}
    return {"BEARER_TOKEN_FILE": str(path)}


def _said(done: command.Result) -> Use:
    try:
        answer = json.loads(done.output.strip().splitlines()[-1])
        number, identity = int(answer["errno"]), answer["identity"]
    except (IndexError, KeyError, TypeError, ValueError):
        return Use(Result.UNANSWERED, reason=f"the child said nothing: {done.describe()}")
    if number == 0:
        return Use(Result.USED, identity)
    name = errno.errorcode.get(number, str(number))
    return Use(Result.REFUSED, identity, f"{name}: {os.strerror(number)}")
