# SPDX-License-Identifier: Apache-2.0
"""Profiles in the kubelet's directory: kept, never another's touched, and the node's label true."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from agents import cli
from agents.errors import Unavailable
from agents.logs import get_logger
from agents.published import Published
from lxcfs_helper.affinity import profile_keeper
from lxcfs_helper.affinity.profile_files import ProfileFiles, localhost_profile
from lxcfs_helper.affinity.profile_keeper import LABEL, ProfileKeeper, Standing
from lxcfs_helper.affinity.profiles import Profile, merged
from lxcfs_helper.affinity.profiles_config import ProfilesConfig


def profile(name: str, action: str = "SCMP_ACT_ALLOW") -> Profile:
    return merged(name, {"defaultAction": action}, Path("/s"))


@pytest.fixture
def files(tmp_path: Path) -> ProfileFiles:
    (tmp_path / "kubelet").mkdir()
    return ProfileFiles(tmp_path / "kubelet")


def test_written_once_replaced_when_another_and_taken_away(files: ProfileFiles) -> None:
    one, two = profile("one"), profile("two")
    assert files.install([one, two]) == ("one", "two")
    place = files.directory.parent / localhost_profile("one")
    assert place.read_bytes() == one.text
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert files.install([one, two]) == ()
    assert files.install([profile("one", "SCMP_ACT_LOG")]) == ("one",)
    assert files.installed().keys() == {"one", "two"}, "what is not asked for any more stays"
    (files.directory / ".two.json").write_text("half")  # left by a crash
    assert files.remove() == ("one", "two")
    assert not files.directory.parent.exists()
    assert files.remove() == ()


def test_what_others_have_there_stays(files: ProfileFiles) -> None:
    files.install([profile("one")])
    foreign = {
        "two.json": '{"defaultAction": "SCMP_ACT_ALLOW"}',
        "three.json": "no JSON",
        "notes.txt": "mine",
    }
    for name, text in foreign.items():
        (files.directory / name).write_text(text)
    (files.directory.parent / "audit.json").write_text("{}")
    with pytest.raises(Unavailable, match=r"two.json': there is a file that is not ours; move it"):
        files.install([profile("two"), profile("three"), profile("four")])
    assert files.installed().keys() == {"one", "four"}, "the rest goes on"
    assert files.remove() == ("four", "one")
    for name, text in foreign.items():
        assert (files.directory / name).read_text() == text
    assert (files.directory.parent / "audit.json").exists()


def test_a_link_is_not_followed(files: ProfileFiles, tmp_path: Path) -> None:
    files.install([profile("one")])
    precious = tmp_path / "precious"
    precious.write_bytes(profile("two").text)
    (files.directory / "two.json").symlink_to(precious)
    with pytest.raises(Unavailable, match=r"two\.json"):
        files.install([profile("two", "SCMP_ACT_LOG")])
    assert precious.read_bytes() == profile("two").text


def test_without_a_kubelet_nothing_is_made(tmp_path: Path) -> None:
    files = ProfileFiles(tmp_path / "kubelet")
    with pytest.raises(Unavailable, match=r"set node\.kubelet_dir"):
        files.install([profile("one")])
    assert os.listdir(tmp_path) == []
    assert files.installed() == {}


class Case:
    """A keeper at work, and the socket of whoever listens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = ProfileFiles(directory)
        self.labels = Published[Mapping[str, str | None]]({})
        self.path = directory / "s.sock"
        self.socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def listen(self, *, hangs: bool = False) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.socket.listen()
        if not hangs:
            self._thread = threading.Thread(target=self._hang_up_on_all, args=(self.socket,))
            self._thread.start()

    def close(self) -> None:
        if self.socket is not None:
            self.socket.shutdown(socket.SHUT_RDWR)
            if self._thread is not None:
                self._thread.join(30)
                self._thread = None
            self.socket.close()
            self.socket = None
            self.path.unlink()

    @staticmethod
    def _hang_up_on_all(listener: socket.socket) -> None:
        """As the holder does when everything is said."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed
                return
            with connection:
                connection.settimeout(30)
                assert connection.recv(16) == b"{}"

    @asynccontextmanager
    async def running(self, config: ProfilesConfig) -> AsyncIterator[ProfileKeeper]:
        keeper = ProfileKeeper(self.files, self.path, config, get_logger(), self.labels)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            yield keeper
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(30):
        while not condition():
            await trio.sleep(0.01)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    monkeypatch.setattr(profile_keeper, "_LOOK_S", 0.02)
    monkeypatch.setattr(profile_keeper, "_SOON_S", 0.02)
    monkeypatch.setattr(profile_keeper, "_CONNECT_S", 30.0)
    made = Case(tmp_path)
    try:
        yield made
    finally:
        made.close()


async def test_the_label_is_there_while_a_pod_could_start(case: Case) -> None:
    case.listen()
    async with case.running(ProfilesConfig()) as keeper:
        await until(lambda: case.labels.value == {LABEL: "true"})
        assert keeper.standing.value == Standing(
            ("nodeshare/runtime-default.json", "nodeshare/unconfined.json"), (), None
        )
        (case.files.directory / "unconfined.json").unlink()
        await until((case.files.directory / "unconfined.json").exists)
        case.close()
        await until(lambda: case.labels.value == {LABEL: None})
        assert re.search(
            r"nobody answers on '.*s\.sock' \(No such file", str(keeper.standing.value.reason)
        )
        case.listen()
        await until(lambda: case.labels.value == {LABEL: "true"})
    assert case.labels.value == {LABEL: "true"}, "the agent ends, the holder goes on"


async def test_a_listener_that_hangs_is_none(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_keeper, "_CONNECT_S", 0.05)
    case.listen(hangs=True)
    async with case.running(ProfilesConfig()) as keeper:
        await until(lambda: "(timed out)" in str(keeper.standing.value.reason))
    assert case.labels.value == {LABEL: None}


@pytest.mark.loud
async def test_an_own_profile_that_is_wrong_costs_itself_alone(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    case.listen()
    own = {name: case.directory / f"{name}.own" for name in ("good", "hangs", "missing", "broken")}
    own["good"].write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    own["hangs"].write_text(
        json.dumps(
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}],
            }
        )
    )
    own["broken"].write_text("{")
    async with case.running(ProfilesConfig(own=own)) as keeper:
        await until(lambda: case.labels.value == {LABEL: "true"})
        found = keeper.standing.value
        assert "nodeshare/good.json" in found.installed
        assert len(found.installed) == 3
        problems = "\n".join(found.problems)
        for words in ("'hangs': it notifies 'write'", "missing.own", "'broken': .*is not JSON"):
            assert re.search(words, problems)
        looks = 0
        while looks < 5:  # it is said once
            await trio.sleep(0.02)
            looks += 1
    said = [record.getMessage() for record in caplog.records]
    assert said.count("seccomp profile refused") == 3


@pytest.mark.loud
async def test_who_listens_has_a_while_to_come_then_it_is_said_once(
    case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(profile_keeper, "_PATIENCE_S", 0.2)
    warning = "pods with our seccomp profiles cannot start here"
    async with case.running(ProfilesConfig()):
        await until(lambda: warning in caplog.messages)
        await trio.sleep(0.1)
        case.listen()
        await until(lambda: case.labels.value == {LABEL: "true"})
    assert caplog.messages.count(warning) == 1


def test_the_command_lists_and_prints_them(
    tmp_path: Path, files: ProfileFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "team.json"
    own.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    configuration = tmp_path / "nodeshare.yaml"

    def said(*words: str, expected: int = 0) -> str:
        profiles = f"{{own: {{team: {own}}}}}"
        configuration.write_text(
            f"node: {{kubelet_dir: {files.directory.parents[1]}, run_dir: {tmp_path}}}\n"
            f"lxcfs_helper: {{affinity: {{profiles: {profiles}}}}}\n"
        )
        arguments = ["view", "profiles", *words, "--config", str(configuration)]
        assert cli.main(arguments) == expected
        captured = capsys.readouterr()
        return " ".join((captured.out + captured.err).split())

    assert "nodeshare/team.json not installed" in said()
    document = json.loads(said("team"))
    assert document["listenerPath"] == str(tmp_path / "seccomp.sock")
    files.install([merged("team", {"defaultAction": "SCMP_ACT_LOG"}, Path("/s")), profile("old")])
    assert "nodeshare/team.json another one is installed" in said()
    assert "nodeshare/old.json installed, no longer configured" in said()
    assert "no seccomp profile 'other'" in said("other", expected=2)
    own.write_text("[]")
    assert "seccomp profile 'team': it is no JSON object" in said(expected=1)


@pytest.mark.parametrize("name", ["", "Team", "a/b", "..", "runtime-default", "-a", "a" * 64])
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"profile|built in"):
        ProfilesConfig(own={name: Path("/x")})
