# SPDX-License-Identifier: Apache-2.0
"""The logins of all users at one provider: whose refresh token is the newest, who asks when, and
what it means for the others when the provider does not answer. Knows no file of a user.

A refresh token may be good for one use. So one user's requests, of all classes of tokens, follow
each other, and what came back is kept before anybody is told, be it long after the limit. Those of
several users go out together, in lanes: one that hangs costs its lane. A provider that is away is
asked by one request at a time after a pause, and all others are told so without being sent.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from agents.errors import AgentError, Unavailable
from agents.logs import Logger
from agents.threads import Worker
from fuse_mounter.credentials import renewal
from fuse_mounter.credentials.config import Provider
from fuse_mounter.credentials.http import Later
from fuse_mounter.credentials.provider import LoginNeeded, OpenIdProvider, Refused, Tokens
from fuse_mounter.credentials.refresh_memory import RefreshMemory
from fuse_mounter.credentials.tokens import Login, Secret, Token

#: A call is discovery, a refresh and an exchange, each with the provider's own limit.
_REQUESTS = 4
_MARGIN_S = 5.0


class NotNow(AgentError):
    """Nothing was asked: the provider is being waited for. Says nothing about the user."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for. `audience` None: an access token as a refresh gives it."""

    audience: str | None = None
    scope: tuple[str, ...] = ()


@dataclass(slots=True)
class _Chain:
    """What followed from one login. `busy`: a thread has it, perhaps one that nobody waits for."""

    login: Login
    refresh: Secret | None
    access: Token | None
    busy: bool = False
    turn: trio.Lock = field(default_factory=trio.Lock)


@dataclass(frozen=True, slots=True)
class _Lane:
    worker: Worker
    provider: Tokens


class Sessions:
    """`connect` makes the provider, once a lane. `clock` tells seconds of the epoch."""

    def __init__(
        self,
        config: Provider,
        memory: RefreshMemory,
        log: Logger,
        *,
        connect: Callable[[Provider], Tokens] = OpenIdProvider,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = config.name
        self._memory, self._log, self._clock = memory, log, clock
        self._limit_s = _REQUESTS * config.timeout + _MARGIN_S
        what = f"provider {config.name!r}"
        self._lanes = [_Lane(Worker(what), connect(config)) for _ in range(config.at_once)]
        self._free = trio.Semaphore(config.at_once)
        self._chains: dict[int, _Chain] = {}
        self._failures = 0
        self._not_before = 0.0
        self._trying = False
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the provider gives nobody a token; None: it does, as far as is known."""
        return self._problem

    @property
    def pause_s(self) -> float:
        """How long it is not to be asked (seconds); 0: at once."""
        return max(0.0, self._not_before - trio.current_time())

    @property
    def open(self) -> bool:
        """Whether a request would be sent now."""
        return self._problem is None or not (self._trying or self.pause_s > 0)

    async def token(self, login: Login, wish: Wish) -> Token:
        """A new one. Raises LoginNeeded, Refused, Unavailable, or NotNow."""
        chain = self._chain(login)
        async with chain.turn, self._free:
            if chain.busy:
                raise NotNow("an earlier request for this user has not come back yet")
            return await self._send(chain, wish)

    def forget(self, uid: int) -> None:
        """The user has left."""
        self._chains.pop(uid, None)
        self._memory.forget(self.name, uid)

    def _chain(self, login: Login) -> _Chain:
        known = self._chains.get(login.uid)
        if known is not None and known.login.refresh == login.refresh:
            if known.login.access != login.access:  # somebody else renewed that one
                known.access = login.access
            known.login = login
            return known
        recalled = self._memory.recall(self.name, login)
        new = _Chain(login, recalled or login.refresh, login.access)
        self._chains[login.uid] = new
        return new

    async def _send(self, chain: _Chain, wish: Wish) -> Token:
        if self._problem is not None and not self.open:
            raise NotNow(self._problem)
        lane = min(self._lanes, key=lambda one: one.worker.stuck_s)
        self._lanes.remove(lane)
        self._trying = True
        try:
            token = await lane.worker.call(
                lambda: self._ask(lane.provider, chain, wish), timeout_s=self._limit_s
            )
        except Unavailable as error:
            self._away(error)
            raise
        except AgentError:
            self._there()
            raise
        finally:
            self._trying = False
            self._lanes.append(lane)
        self._there()
        return token

    def _away(self, error: Unavailable) -> None:
        if self._problem is None:
            self._log.warning("provider gives no tokens", error=str(error))
        if self.pause_s == 0:  # else it is another of those that were out together
            pause = renewal.back_off(self._failures)
            pause = max(pause, error.after_s) if isinstance(error, Later) else pause
            self._not_before = trio.current_time() + pause
            self._failures += 1
        self._problem = str(error)

    def _there(self) -> None:
        if self._problem is not None:
            self._log.info("provider gives tokens again")
        self._failures, self._not_before, self._problem = 0, 0.0, None

    def _ask(self, provider: Tokens, chain: _Chain, wish: Wish) -> Token:
        """Blocks; in a thread of its own, and to its end."""
        chain.busy = True
        try:
            if wish.audience is None:
                return self._refreshed(provider, chain, wish.scope)
            return self._exchanged(provider, chain, wish.audience, wish.scope)
        finally:
            chain.busy = False

    def _exchanged(
        self, provider: Tokens, chain: _Chain, audience: str, scope: tuple[str, ...]
    ) -> Token:
        access = chain.access
        if access is not None and access.valid(self._clock()):
            try:
                return provider.exchange(access.text, audience, scope)
            except LoginNeeded:
                chain.access = None  # it was revoked, or our clock is behind
                if chain.refresh is None:
                    raise
        access = chain.access = self._refreshed(provider, chain, ())
        try:
            return provider.exchange(access.text, audience, scope)
        except LoginNeeded as error:  # of a token that is new
            raise Refused(
                error.message, remedy="look whether the client may exchange for this audience"
            ) from None

    def _refreshed(self, provider: Tokens, chain: _Chain, scope: tuple[str, ...]) -> Token:
        if chain.refresh is None:
            raise LoginNeeded("there is no refresh token", remedy="the user must log in again")
        renewed = provider.refresh(chain.refresh, scope)
        if renewed.refresh is not None and renewed.refresh != chain.refresh:
            chain.refresh = renewed.refresh
            try:
                self._memory.keep(self.name, chain.login, renewed.refresh)
            except OSError as error:
                self._log.warning(
                    "refresh token not kept",
                    errno=error.errno,
                    hint="if the agent ends now, this user must log in again",
                )
        return renewed.access
