# SPDX-License-Identifier: Apache-2.0
"""One class of tokens, kept fresh for all users: renews what is due, by what its source knows, and
writes the files. What is due is decided by `renewal`; how a provider is asked, by `sessions`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import trio

from agents.errors import AgentError
from agents.logs import Logger
from fuse_mounter.credentials import renewal
from fuse_mounter.credentials.config import TokenFile
from fuse_mounter.credentials.proof import Prover, Use
from fuse_mounter.credentials.provider import LoginNeeded
from fuse_mounter.credentials.renewal import Holding, Need
from fuse_mounter.credentials.sessions import NotNow, Sessions, Wish
from fuse_mounter.credentials.sources import Found
from fuse_mounter.credentials.token_files import TokenFiles
from fuse_mounter.credentials.tokens import (
    Login,
    Token,
    access_token,
    claimed_times,
    file_content,
    token_of,
)

_IDLE_S, _LEAST_S = 60.0, 0.5
#: A user who is not listed any more for so long has left.
LEFT_S = 600.0
#: Our clock and the one that never jumps may drift apart by so much between two looks.
_JUMP_S = 30.0


@dataclass(frozen=True, slots=True)
class UserToken:
    """One user's token, for people: never what it says. Times in seconds of the epoch; `use`: what
    came of trying it (None: it was not tried). `has_token`: one that is good lies in his file.
    """

    uid: int
    has_token: bool
    expires: float | None
    login_needed: bool
    problem: str | None
    use: Use | None = None


@dataclass(frozen=True, slots=True)
class TokenStatus:
    """One class. `renewals` by result; `rotation_s`: how long the last new token took from asking
    for it until it lay in its file (None: there was none yet). `problem`: why the source cannot be
    read, or the provider gives nobody a token.
    """

    name: str
    users: tuple[UserToken, ...] = ()
    renewals: Mapping[str, int] = field(
        default_factory=lambda: {"done": 0, "failed": 0, "refused": 0}
    )
    uses: Mapping[str, int] = field(default_factory=dict)
    rotation_s: float | None = None
    source_up: bool = True
    problem: str | None = None


class TokenKeeper:
    """`sessions` None: tokens are as the source has them. `changed` is called when `status` did;
    `written` when a file was replaced.
    """

    def __init__(
        self,
        config: TokenFile,
        files: TokenFiles,
        sessions: Sessions | None,
        log: Logger,
        *,
        changed: Callable[[], None],
        written: Callable[[], None] = lambda: None,
        prover: Prover | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._files, self._sessions, self._log = config, files, sessions, log
        self._changed, self._written, self._prover = changed, written, prover
        self._clock = clock
        self._wish = Wish(config.audience, config.scope)
        self._holdings: dict[int, Holding] = {}
        self._missed: dict[int, float] = {}
        self._busy: set[int] = set()
        self._wake = trio.Event()
        self._ahead: float | None = None
        self._trouble: tuple[bool, str | None] = (True, None)
        self.status = TokenStatus(config.name)

    def found(self, found: Found) -> None:
        """The source was looked at."""
        self._adopt(found)
        for uid, login in found.logins.items():
            self._follow(uid, login)
        self._count_out(found)
        self._trouble = (True, "; ".join(found.problems[:3]) or None)
        self._tell()
        self._wake.set()

    def unreadable(self, error: AgentError) -> None:
        """The source could not be looked at: nobody is logged out by that."""
        if self._trouble != (False, str(error)):
            self._log.warning("source not readable", token=self._config.name, error=str(error))
        self._trouble = (False, str(error))
        self._tell()

    async def run(self) -> None:
        """Never returns."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                self._watch_the_clock()
                self._start_renewals(nursery)
                self._tell()
                with trio.move_on_after(self._patience_s()):
                    await self._wake.wait()

    def _start_renewals(self, nursery: trio.Nursery) -> None:
        sessions = self._sessions
        if sessions is None or not sessions.open:
            return
        for uid in renewal.due(self._holdings, self._clock()):
            if uid not in self._busy:
                self._busy.add(uid)
                nursery.start_soon(self._renew, sessions, uid, nursery)
            if sessions.problem is not None:
                return  # one may find out whether it is back

    def _patience_s(self) -> float:
        """Seconds until something may be due. A wall clock may jump, so never too long."""
        now = self._clock()
        idle = [one for uid, one in self._holdings.items() if uid not in self._busy]
        soonest = min((renewal.next_look(one, now) for one in idle), default=now + _IDLE_S)
        pause = self._sessions.pause_s if self._sessions is not None else _IDLE_S
        return min(max(soonest - now, pause, _LEAST_S), _IDLE_S)

    def _watch_the_clock(self) -> None:
        """When it was set, or the machine slept, nobody knows how long tokens are still good."""
        ahead = self._clock() - trio.current_time()
        before, self._ahead = self._ahead, ahead
        if before is not None and abs(ahead - before) > _JUMP_S:
            self._log.info("clock jumped; tokens are renewed", token=self._config.name)
            self._holdings = {
                uid: replace(one, stale=True, not_before=0.0) for uid, one in self._holdings.items()
            }
            self._missed.clear()

    def _adopt(self, found: Found) -> None:
        """What an agent before this one wrote: of users who are here, and of those who left."""
        there = found.logins.keys() | set(self._files.users())
        for uid in there - self._holdings.keys():
            token = self._adopted(uid)
            if token is not None or uid in found.logins:
                self._holdings[uid] = Holding(token=token)

    def _adopted(self, uid: int) -> Token | None:
        """Also one whose life nobody knows: it is good until there is another."""
        content = self._files.read(uid, self._config.file)
        text = token_of(content, self._config.format) if content is not None else None
        if text is None:
            return None
        now = self._clock()
        issued, _ = claimed_times(text)
        if issued is not None and issued > now + _JUMP_S:  # one of the clocks is wrong
            return access_token(text, now, now)
        token = access_token(text, now)
        # Of unknown age: due at once, and shown to have no known end.
        return token if token.expires is not None else replace(token, obtained=0.0)

    def _follow(self, uid: int, login: Login) -> None:
        self._missed.pop(uid, None)
        holding = renewal.followed(self._holdings[uid], login)
        if self._sessions is None:
            problem = None if login.access else "its source has no access token; name a provider"
            token = login.access or holding.token
            holding = replace(holding, token=token, stale=False, problem=problem)
        elif self._wish == Wish():
            holding = renewal.taken_over(holding)
        self._holdings[uid] = holding
        self._write(uid)

    def _count_out(self, found: Found) -> None:
        now = self._clock()
        here = found.logins.keys() | found.unclear
        for uid in self._holdings.keys() - here:
            if now - self._missed.setdefault(uid, now) >= LEFT_S:
                self._forget(uid)
        for uid in found.unclear:
            self._missed.pop(uid, None)

    async def _renew(self, sessions: Sessions, uid: int, nursery: trio.Nursery) -> None:
        login, started = self._holdings[uid].login, trio.current_time()
        assert login is not None
        try:
            token = await sessions.token(login, self._wish)
            if not token.valid(self._clock()):
                raise AgentError("the provider gave a token that has ended; look at the clocks")
        except NotNow as error:
            self._note(uid, str(error))  # and at the usual pace, so that nothing spins
        except AgentError as error:
            self._failed(uid, error)
            self._wake.set()
        else:
            self._renewed(uid, login, token, nursery)
            self._count("done", rotation_s=trio.current_time() - started)
            self._wake.set()
        finally:
            self._busy.discard(uid)

    def _renewed(self, uid: int, login: Login, token: Token, nursery: trio.Nursery) -> None:
        holding = self._holdings.get(uid)
        if holding is None:
            return  # he left meanwhile
        self._holdings[uid] = renewal.renewed(holding, token, login)
        if self._write(uid) and self._prover is not None:
            nursery.start_soon(self._prover.prove, login, token.text, self._woken)

    def _woken(self) -> None:
        self._wake.set()  # the one that is waited for then

    def _failed(self, uid: int, error: AgentError) -> None:
        holding = self._holdings.get(uid)
        if holding is None:
            return
        refused = isinstance(error, LoginNeeded)
        self._holdings[uid] = renewal.failed(holding, str(error), self._clock(), refused=refused)
        if holding.problem != str(error):
            self._log.warning(
                "token not renewed", token=self._config.name, uid=uid, error=str(error)
            )
        self._count("refused" if refused else "failed")

    def _note(self, uid: int, problem: str) -> None:
        if (holding := self._holdings.get(uid)) is not None:
            self._holdings[uid] = replace(holding, problem=problem)

    def _write(self, uid: int) -> bool:
        """Whether the file is new. The same again is nothing, and mends what somebody broke."""
        config, holding = self._config, self._holdings[uid]
        login, token = holding.login, holding.token
        if login is None or token is None:
            return False
        try:
            content = file_content(token, config.format, config.endpoint)
            new, trouble = self._files.write(uid, login.gid, config.file, content), None
        except (OSError, ValueError, AgentError) as error:
            new, trouble = False, str(error)
            if holding.unwritten != trouble:
                self._log.warning("token not written", token=config.name, uid=uid, error=trouble)
        if trouble != holding.unwritten:
            self._holdings[uid] = replace(holding, unwritten=trouble)
        if new:
            self._log.debug("token written", token=config.name, uid=uid)
            self._written()
        return new

    def _forget(self, uid: int) -> None:
        self._missed.pop(uid, None)
        del self._holdings[uid]
        try:
            self._files.forget(uid, self._config.file)
        except OSError as error:
            self._log.warning("token not removed", uid=uid, error=str(error))
        else:
            self._log.info("token removed", token=self._config.name, uid=uid)
        if self._sessions is not None:
            self._sessions.forget(uid)
        if self._prover is not None:
            self._prover.forget(uid)

    def _count(self, result: str, rotation_s: float | None = None) -> None:
        renewals = {**self.status.renewals, result: self.status.renewals[result] + 1}
        rotation = self.status.rotation_s if rotation_s is None else rotation_s
        self.status = replace(self.status, renewals=renewals, rotation_s=rotation)

    def _tell(self) -> None:
        now = self._clock()
        source_up, problem = self._trouble
        away = self._sessions.problem if self._sessions is not None else None
        after = replace(
            self.status,
            users=tuple(self._shown(uid, one, now) for uid, one in sorted(self._holdings.items())),
            uses=self._prover.results if self._prover is not None else {},
            source_up=source_up,
            problem=problem or away,
        )
        if after != self.status:
            self.status = after
            self._changed()

    def _shown(self, uid: int, one: Holding, now: float) -> UserToken:
        needed = one.login is not None and (one.refused or renewal.need(one, now) is Need.LOGIN)
        problem = one.problem
        if needed and problem is None:
            problem = "what the user logged in with has ended; he must log in again"
        if one.login is None:
            problem = "is not listed any more; the file will be removed"
        good = one.token is not None and one.token.valid(now) and one.unwritten is None
        return UserToken(
            uid,
            good,
            one.token.expires if one.token is not None else None,
            needed,
            one.unwritten or problem,
            self._prover.use(uid) if self._prover is not None else None,
        )
