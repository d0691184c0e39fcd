# SPDX-License-Identifier: Apache-2.0
"""Users' tokens, from a real OpenID provider over TLS into files on a tmpfs, kept fresh."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from agents import command
from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from fuse_mounter.credentials import keeper, renewal
from fuse_mounter.credentials.config import Credentials
from fuse_mounter.credentials.keeper import UserToken
from fuse_mounter.credentials.service import CredentialsService
from fuse_mounter.credentials.token_files import TokenFiles
from tests.fakes import credential_agent, openid_provider
from tests.fakes.hanging_mount import HangingMounts
from tests.fakes.openid_provider import EXCHANGE, OpenIdProvider

ADA, BOB = 12001, 12002
EOS = {
    "name": "eos",
    "source": "hub",
    "file": "eos.token",
    "format": "eos",
    "endpoint": "iam.example.org/userinfo",
    "provider": "iam",
    "audience": "eos",
}
BEARER = {"name": "bearer", "source": "hub", "file": "bearer.token", "provider": "iam"}


@dataclass
class Place:
    """Where one test has its logins and files."""

    directory: Path
    provider: OpenIdProvider
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def tmpfs(self) -> Path:
        return self.directory / "credentials"

    @property
    def hub(self) -> Path:
        return self.directory / "hub"

    def login(self, uid: int, **said: object) -> None:
        """As a hub does it: whole."""
        aside = self.directory / "login.new"
        aside.write_text(json.dumps({"uid": uid, **said}))
        aside.rename(self.hub / f"u{uid}.json")

    def section(self, *tokens: dict[str, Any], **provider: object) -> dict[str, Any]:
        return {
            "directory": str(self.tmpfs),
            "sources": [{"name": "hub", "directory": str(self.hub)}],
            "providers": [self.provider.entry(**provider)],
            "tokens": list(tokens),
            **self.more,
        }

    def token(self, uid: int, kind: str = "bearer") -> str | None:
        """The token itself; None: there is no file."""
        try:
            text = (self.tmpfs / str(uid) / f"{kind}.token").read_text()
        except OSError:
            return None
        return text.split(":")[1] if kind == "eos" else text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(renewal, "_FIRST_S", 0.2)  # nobody wants to wait
    monkeypatch.setattr(renewal, "_LEAST_S", 0.2)
    monkeypatch.setattr(keeper, "_LEAST_S", 0.05)
    tmp_path.chmod(0o755)
    (tmp_path / "hub").mkdir()
    provider = openid_provider.started(tmp_path)
    one = Place(tmp_path, provider)
    try:
        yield one
    finally:
        provider.stop()
        TokenFiles(one.tmpfs, PROC, LinuxMounts()).remove()


@asynccontextmanager
async def running(section: dict[str, Any], **more: Any) -> AsyncIterator[CredentialsService]:
    one = credential_agent.service(section, **more)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        yield one
        nursery.cancel_scope.cancel()


def user_of(service: CredentialsService, uid: int = ADA) -> UserToken:
    """As the status of the first class has him."""
    nobody = UserToken(uid, has_token=False, expires=None, login_needed=False, problem=None)
    return next((one for one in service.status.tokens[0].users if one.uid == uid), nobody)


async def until(what: Callable[[], object], limit_s: float = 10) -> None:
    with trio.fail_after(limit_s):
        while not what():
            await trio.sleep(0.02)


async def renewed(place: Place, uid: int) -> None:
    before = place.token(uid)
    await until(lambda: place.token(uid) != before)


async def test_tokens_are_renewed_before_they_end_and_refresh_tokens_used_once(
    place: Place,
) -> None:
    place.provider.life_s = 2.4
    for uid in (ADA, BOB):
        place.login(uid, refresh_token=place.provider.login(f"user{uid}")["refresh_token"])
    seen: dict[tuple[int, str], set[str]] = {}
    async with running(place.section(EOS, BEARER)) as service:
        keys = [(uid, kind) for uid in (ADA, BOB) for kind in ("eos", "bearer")]
        await until(lambda: all(place.token(*key) for key in keys))
        ends = trio.current_time() + 3.6
        while trio.current_time() < ends:  # a token that is read is good, always
            for key in keys:
                token = place.token(*key)
                assert token is not None
                assert place.provider.claims(token)["exp"] > time.time()
                seen.setdefault(key, set()).add(token)
            await trio.sleep(0.02)
        assert all(len(tokens) >= 3 for tokens in seen.values())
        assert {place.provider.claims(t)["aud"] for t in seen[ADA, "eos"]} == {"eos"}
        assert {place.provider.claims(t)["sub"] for t in seen[BOB, "bearer"]} == {f"user{BOB}"}
        assert service.status.problem is None
        for one in service.status.tokens:
            assert one.renewals["failed"] == one.renewals["refused"] == 0
            assert [user.has_token for user in one.users] == [True, True]
        text = credential_agent.exposition(service)
        assert 'nodeshare_mount_credential_users{token="eos"} 2.0' in text
        assert 'nodeshare_mount_credential_login_needed_users{token="eos"} 0.0' in text
        assert str(ADA) not in text


async def test_refresh_tokens_that_stay_the_same(place: Place) -> None:
    place.provider.life_s, place.provider.rotate = 0.6, False
    place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
    async with running(place.section(BEARER)):
        await until(lambda: place.provider.asked["refresh_token"] >= 3)
        assert place.token(ADA)


@pytest.mark.loud
async def test_a_revoked_login_needs_a_new_one_and_costs_nobody_else(place: Place) -> None:
    place.provider.life_s = 1.0
    for uid, name in ((ADA, "ada"), (BOB, "bob")):
        place.login(uid, refresh_token=place.provider.login(name)["refresh_token"])
    async with running(place.section(BEARER)) as service:
        await until(lambda: place.token(ADA) and place.token(BOB))
        place.provider.revoke("ada")

        await until(lambda: user_of(service).login_needed)
        assert str(user_of(service).problem).endswith("the user must log in again")
        assert not user_of(service, BOB).login_needed
        for _ in range(2):
            await renewed(place, BOB)
        refused = service.status.tokens[0].renewals["refused"]
        assert refused == 1  # and was not asked again

        place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
        await until(lambda: not user_of(service).login_needed and user_of(service).has_token)


@pytest.mark.loud
async def test_a_provider_that_dies_is_survived_and_found_again(place: Place) -> None:
    place.provider.life_s = 1.2
    place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
    async with running(place.section(BEARER)) as service:
        await until(lambda: place.token(ADA))
        place.provider.stop()
        (status,) = service.status.tokens
        await until(lambda: service.status.tokens[0].problem)
        first = place.token(ADA)
        await trio.sleep(1.3)
        (status,) = service.status.tokens
        assert "does not answer: ConnectionError" in str(status.problem)
        assert not status.users[0].login_needed  # he could not help
        assert not status.users[0].has_token  # it ended meanwhile, and lies there still
        assert place.token(ADA) == first
        place.provider.broken = True
        place.provider.start()
        await until(lambda: "answered 503" in str(service.status.tokens[0].problem))
        place.provider.broken = False
        await until(lambda: service.status.tokens[0].problem is None)
        await until(lambda: place.token(ADA) != first)
        assert user_of(service).has_token


async def test_an_access_token_that_was_revoked_is_replaced_before_anybody_must_log_in(
    place: Place,
) -> None:
    login = place.provider.login("ada")
    place.provider.revoke_access()
    place.login(ADA, **login)
    async with running(place.section(EOS)) as service:
        await until(lambda: place.token(ADA, "eos"))
        assert place.provider.asked[EXCHANGE] == 2
        assert place.provider.asked["refresh_token"] == 1
        assert service.status.tokens[0].renewals == {"done": 1, "failed": 0, "refused": 0}


@pytest.mark.loud
async def test_what_the_user_cannot_help_is_no_reason_to_log_in(place: Place) -> None:
    place.provider.audiences = ()
    place.login(ADA, **place.provider.login("ada"))
    async with running(place.section(EOS, BEARER)) as service:
        what = "the provider does not know the scope"
        await until(lambda: what in str(user_of(service).problem))
        await until(lambda: place.token(ADA))  # the provider is not waited for by the others
        assert not user_of(service).login_needed


async def test_many_users_of_a_slow_provider(place: Place) -> None:
    place.provider.slow_s = 0.1
    users = range(20000, 20030)
    for uid in users:
        place.login(uid, refresh_token=place.provider.login(str(uid))["refresh_token"])
    started = trio.current_time()
    async with running(place.section(BEARER, at_once=6)):
        await until(lambda: all(place.token(uid) for uid in users))
    assert 2 <= place.provider.most <= 6
    assert place.provider.asked["refresh_token"] == len(users)
    assert trio.current_time() - started >= 0.5


@pytest.mark.loud
async def test_a_provider_that_hangs_is_asked_by_few(place: Place) -> None:
    place.provider.slow_s = 1.6
    for uid in range(20000, 20020):
        place.login(uid, refresh_token=place.provider.login(str(uid))["refresh_token"])
    async with running(place.section(BEARER, at_once=3, timeout="1s")) as service:
        await until(lambda: service.status.tokens[0].problem)
        await trio.sleep(0.5)
        assert place.provider.most <= 3 + 1  # that one while it still has the first
        assert "ReadTimeout" in str(service.status.tokens[0].problem)
        place.provider.slow_s = 0
        place.provider.rotate = False
        await until(lambda: sum(place.token(uid) is not None for uid in range(20000, 20020)) >= 14)


async def test_a_later_agent_asks_nobody_for_what_is_there(place: Place) -> None:
    place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
    section = place.section(EOS, BEARER)
    async with running(section):
        await until(lambda: place.token(ADA, "eos") and place.token(ADA))
    asked, before = dict(place.provider.asked), (place.token(ADA, "eos"), place.token(ADA))
    async with running(section) as service:
        await until(lambda: all(one.users for one in service.status.tokens))
        await trio.sleep(0.3)
        assert place.provider.asked == asked
        assert (place.token(ADA, "eos"), place.token(ADA)) == before
        assert all(one.users[0].has_token for one in service.status.tokens)
    # And its refresh token is the newest, though the hub has the first one.
    (place.tmpfs / str(ADA) / "bearer.token").unlink()
    async with running(section):
        await until(lambda: place.token(ADA))


@pytest.mark.loud
async def test_who_left_loses_his_file_after_a_while_and_a_hub_that_is_away_takes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "LEFT_S", 0.5)
    monkeypatch.setattr("fuse_mounter.credentials.service._LOOK_S", 0.1)
    for uid in (ADA, BOB):
        place.login(uid, refresh_token=place.provider.login(str(uid))["refresh_token"])
    async with running(place.section(BEARER)):
        await until(lambda: place.token(ADA) and place.token(BOB))
    # He leaves while no agent runs, and the other's entry is spoilt.
    (place.hub / f"u{ADA}.json").unlink()
    async with running(place.section(BEARER)) as service:
        await until(lambda: [user.uid for user in service.status.tokens[0].users] == [ADA, BOB])
        assert place.token(ADA)
        (place.hub / f"u{BOB}.json").write_text("{")
        await until(lambda: place.token(ADA) is None)
        await until(lambda: service.status.tokens[0].problem)
        assert (place.tmpfs / str(ADA)).is_dir()  # a pod may be bound to it
        place.hub.rename(place.hub.with_name("away"))
        await until(lambda: "cannot read" in str(service.status.tokens[0].problem))
        await trio.sleep(0.8)
        assert place.token(BOB)
        assert 'source_up{token="bearer"} 0.0' in credential_agent.exposition(service)
        place.hub.with_name("away").rename(place.hub)
        await until(lambda: "not valid JSON" in str(service.status.tokens[0].problem))
        assert place.token(BOB)


async def test_a_changed_configuration(place: Place) -> None:
    place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
    section = place.section(EOS, BEARER)
    async with running(section) as service:
        await until(lambda: place.token(ADA, "eos") and place.token(ADA))
        asked, before = dict(place.provider.asked), place.token(ADA)
        rucio = {**BEARER, "name": "rucio", "file": "rucio.token", "audience": "rucio"}
        service.apply(Credentials.model_validate(place.section(BEARER, rucio)))
        await until(lambda: place.token(ADA, "rucio"))
        assert place.token(ADA) == before
        assert place.token(ADA, "eos") is None  # nobody keeps it any more
        assert place.provider.asked["refresh_token"] == asked["refresh_token"]
        service.apply(Credentials())
        await until(lambda: service.status.tokens == ())
        assert place.token(ADA) == before


@pytest.mark.loud
async def test_a_file_that_cannot_be_written_is_told_and_written_later(place: Place) -> None:
    files = TokenFiles(place.tmpfs, PROC, LinuxMounts())
    files.prepare()
    (place.tmpfs / str(ADA)).mkdir(mode=0o755)
    (place.tmpfs / str(ADA) / "something").touch()
    for uid in (ADA, BOB):
        place.login(uid, refresh_token=place.provider.login(str(uid))["refresh_token"])
    async with running(place.section(BEARER)) as service:
        await until(lambda: place.token(BOB))
        await until(lambda: user_of(service).problem)
        (ada, bob) = service.status.tokens[0].users
        assert "was not made by this agent" in str(ada.problem)
        assert not ada.has_token
        assert bob.has_token
        (place.tmpfs / str(ADA) / "something").unlink()
        (place.hub / "wake").touch()
        await until(lambda: place.token(ADA))
        await until(lambda: user_of(service).has_token)


@pytest.mark.loud
async def test_a_tmpfs_that_somebody_took_away_is_made_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuse_mounter.credentials.service._LOOK_S", 0.1)
    place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
    async with running(place.section(BEARER)):
        await until(lambda: place.token(ADA))
        before = place.token(ADA)
        LinuxMounts().unmount(place.tmpfs, detach=True)
        await until(lambda: place.tmpfs.is_mount() and place.token(ADA) == before)


async def test_a_clock_that_jumps(place: Place) -> None:
    """Nobody knows then for how long tokens are still good."""
    ahead = 0.0
    config = place.section(BEARER)
    place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
    one = credential_agent.service(config)
    (keeping,) = one._keepers.values()
    keeping._clock = lambda: time.time() + ahead
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await until(lambda: place.token(ADA))
        for jump in (-7200.0, 0.0, 1000.0):
            ahead = jump
            before = place.token(ADA)
            keeping._wake.set()
            await until(lambda before=before: place.token(ADA) != before)  # type: ignore[misc]
        nursery.cancel_scope.cancel()


PROVED = {**EOS, "prove": {"mount": "eos", "path": "who", "timeout": "1s"}}


async def test_a_new_token_is_tried_by_its_user(place: Place) -> None:
    """A directory stands for the mount; only the user may read in it."""
    mounted = place.directory / "mounted"
    mounted.mkdir()
    (mounted / "who").write_text("x")
    (mounted / "who").chmod(0o400)
    os.chown(mounted / "who", ADA, ADA)
    place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
    section = place.section(PROVED)
    async with running(section, published=lambda name: {"eos": mounted}.get(name)) as service:
        await until(lambda: user_of(service).use is not None)
        use = service.status.to_json()["tokens"][0]["users"][0]["use"]
        assert use == {"result": "used", "identity": None, "reason": None}
        text = credential_agent.exposition(service)
        assert 'credential_proofs_total{result="used",token="eos"} 1.0' in text


@pytest.mark.loud
@pytest.mark.parametrize("kind", ["refused", "unpublished", "unanswered"])
async def test_a_new_token_that_is_of_no_use(
    place: Place, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuse_mounter.credentials.proof._AGAIN_S", 0.1)
    mounted = place.directory / "mounted"
    mounted.mkdir()
    (mounted / "who").touch(mode=0o600)
    with ExitStack() as stack:
        if kind == "unanswered":
            stack.callback(LinuxMounts().unmount, mounted, detach=True)
            stack.enter_context(HangingMounts(os.getpid(), str(mounted)))
        place.login(ADA, refresh_token=place.provider.login("ada")["refresh_token"])
        where = None if kind == "unpublished" else mounted
        async with running(place.section(PROVED), published=lambda _: where) as service:
            await until(lambda: user_of(service).use is not None)
            use = user_of(service).use
            assert use is not None
            assert use.result.value == kind
            assert use.reason is not None
            assert place.token(ADA, "eos")  # it is not taken away for that
    await until(lambda: command.reap_abandoned() == 0)


def test_secrets_are_nowhere_but_in_their_files(place: Place) -> None:
    """The agent's process is searched from outside, while it renews, fails and proves."""
    place.provider.life_s = 1.5
    secrets = {openid_provider.CLIENT_SECRET}
    for uid, name in ((ADA, "ada"), (BOB, "bob")):
        login = place.provider.login(name)
        secrets.update(login.values())
        place.login(uid, **login)
        spoilt = f'{{"uid": 5, "access_token": "{login["access_token"]}"'
    (place.hub / "spoilt.json").write_text(spoilt)
    place.provider.revoke("bob")
    told = place.directory / "told"
    told.mkdir()
    agent = _agent(place, told)
    known = len(secrets)
    try:
        deadline = time.monotonic() + 20
        while len(secrets) < known + 6 or "refused" not in _texts(told):
            assert time.monotonic() < deadline, _texts(told)
            assert agent.poll() is None, _texts(told)
            secrets.update(_secrets(place))
            words = _seen_of(agent)
            assert not [one for one in secrets if one in words]
            time.sleep(0.05)
        with subprocess.Popen(["sleep", "60"], cwd=told) as other:
            if _aborted(other):  # else nobody leaves any here
                assert not _aborted(agent)
    finally:
        agent.kill()
        agent.wait(10)
    text = _texts(told)
    assert '"event": "token written"' in text
    assert f'uid="{ADA}"' in text
    for secret in secrets:
        assert secret not in text
        assert secret.split(".")[-1] not in text  # a signature alone


def _agent(place: Place, told: Path) -> subprocess.Popen[bytes]:
    """It writes what it tells into that directory."""
    mounted = place.directory / "mounted"
    mounted.mkdir()
    section = place.section({**EOS, "prove": {"mount": "eos"}}, BEARER)
    config = place.directory / "config.json"
    config.write_text(json.dumps({**section, "user_metrics": True}))
    words = [str(path) for path in (config, told, mounted)]
    with (told / "agent.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.credential_agent", *words],
            stdout=log,
            stderr=log,
            cwd=told,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            start_new_session=True,
        )


def _secrets(place: Place) -> Iterator[str]:
    """Those that are in files now."""
    for kind in ("eos", "bearer"):
        if token := place.token(ADA, kind):
            yield token
    for path in (place.tmpfs / ".refresh").glob("*/[0-9]*.json"):
        yield json.loads(path.read_text())["refresh"]


def _seen_of(agent: subprocess.Popen[bytes]) -> str:
    """What everybody may see of it, and of its children."""
    words = ""
    for process in (psutil.Process(agent.pid), *psutil.Process(agent.pid).children()):
        with suppress(psutil.NoSuchProcess):
            words += f"{process.cmdline()} {process.environ()}"
    return words


def _texts(directory: Path) -> str:
    return "".join(one.read_text() for one in sorted(directory.iterdir()) if one.suffix)


def _aborted(process: subprocess.Popen[bytes]) -> bool:
    """Ended as by a bug, with the limit of core dumps lifted: whether it left one."""
    resource.prlimit(process.pid, resource.RLIMIT_CORE, (-1, -1))
    process.send_signal(signal.SIGABRT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = -signal.SIGABRT
    assert os.WTERMSIG(status) == signal.SIGABRT
    return os.WCOREDUMP(status)
