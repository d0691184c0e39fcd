# SPDX-License-Identifier: Apache-2.0
"""The driver of EOS with a double of its client: identities of callers in pods, and health by the
statistics that the client writes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agents import hostfs
from tests.fakes.mount_node import Node, eventually
from tests.fakes.pod_reader import Reader
from tests.fakes.servers import free_port

ROOT = Path(__file__).parents[3]
ALICE, BOB = 20_001, 20_002


@dataclass(frozen=True)
class Eos:
    """The double on the search path, and what tells it what to do."""

    node: Node
    control: Path
    keytab: Path
    port: int

    def entry(self, **client: Any) -> dict[str, Any]:
        return {
            "name": "eos",
            "driver": "eosxd",
            "path": "eos",
            "options": {"mgm": f"root://127.0.0.1:{self.port}", "client": client},
            "credentials": {"sss_keytab": str(self.keytab)},
        }

    def tell(self, pid: int, what: str) -> None:
        (self.control / what).write_text(str(pid))


@pytest.fixture
def own_traces() -> Iterator[None]:
    """What only these tests put on this machine goes when they end."""
    places = [hostfs.EOS_CONFIGURATION, Path("/var/cache/eos"), hostfs.EOS_LOCKS]
    places.append(Path("/var/log/eos"))
    made = [place for place in places if not place.exists()]
    yield
    for place in made:
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def eos(node: Node, own_traces: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Eos]:
    program, control = node.source("bin") / "eosxd3", node.source("control")
    program.write_text(
        f"#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m tests.fakes.eosxd --control {control}"
        ' "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    keytab = node.directory / "eos.keytab"
    keytab.write_text("a key\n")
    keytab.chmod(0o400)
    # Where its server would be: somebody listens, which is all that is looked at.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Eos(node, control, keytab, listening.getsockname()[1])


@dataclass(frozen=True)
class Jail:
    """A pod with a root of its own, in which it sees the mounts at /mounts."""

    process: subprocess.Popen[bytes]
    root: Path

    def token(self, name: str, text: str, uid: int, mode: int = 0o400) -> None:
        path = self.root / "tmp" / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, uid, uid)

    def ask(self, uid: int, **environment: str) -> str:
        """Who EOS thinks one of its processes is."""
        enter = ["nsenter", "-t", str(self.process.pid), "-m", "env", "-i"]
        enter += [f"{key}={value}" for key, value in environment.items()]
        enter += [str(shutil.which("chroot")), f"--userspec={uid}:{uid}", str(self.root)]
        # By read(2): sendfile(2), as cat uses it, goes through the page cache whatever a file says.
        command = ["/bin/busybox", "dd", "if=/mounts/eos/whoami", "bs=256", "count=1"]
        done = subprocess.run([*enter, *command], capture_output=True, timeout=20, check=True)
        return done.stdout.decode().strip()


@pytest.fixture
def jails(eos: Eos) -> Iterator[list[Jail]]:
    """Two of them, with nothing in them but busybox."""
    made = []
    eos.node.configure(eos.entry())
    eos.node.start()
    eos.node.wait("eos")
    for number in range(2):
        root = eos.node.directory / f"jail{number}"
        for name in ("bin", "tmp", "mounts"):
            (root / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin")
        at = root / "mounts"
        script = (
            f"mount --rbind {eos.node.places.root} {at} && mount --make-rslave {at}"
            " && echo ready && exec sleep 600"
        )
        process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "slave", "sh", "-c", script], stdout=subprocess.PIPE
        )
        made.append(Jail(process, root))
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    try:
        yield made
    finally:
        for jail in made:
            jail.process.kill()
            jail.process.communicate(timeout=20)


def test_eos_sees_who_asks_in_which_pod(jails: Sequence[Jail]) -> None:
    one, other = jails
    named = {"OAUTH2_TOKEN": "FILE:/tmp/token"}
    one.token("token", "oauth2:user alice:iam.example.org/userinfo", ALICE)
    other.token("token", "oauth2:user bob:iam.example.org/userinfo", BOB)
    assert one.ask(ALICE, **named) == "alice"
    assert other.ask(BOB, **named) == "bob"
    assert one.ask(ALICE) == "nobody"

    assert other.ask(ALICE, **named) == "nobody", "another's token"
    one.token("token", "oauth2:user alice:iam.example.org/userinfo", ALICE, mode=0o440)
    assert one.ask(ALICE, **named) == "nobody", "others may read it"
    one.token("token", "oauth2:user carol:iam.example.org/userinfo", ALICE, mode=0o600)
    assert one.ask(ALICE, **named) == "carol", "a token that was replaced"
    one.token("bearer", "user dave", ALICE)
    assert one.ask(ALICE, BEARER_TOKEN_FILE="/tmp/bearer") == "dave"
    # As a Secret or a projected volume would show it.
    (one.root / "tmp/data").symlink_to(".")
    assert one.ask(ALICE, BEARER_TOKEN_FILE="/tmp/data/bearer") == "nobody", "a link on the way"
    assert one.ask(ALICE, BEARER_TOKEN_FILE="/tmp/../tmp/bearer") == "nobody"
    assert one.ask(ALICE, BEARER_TOKEN_FILE="tmp/bearer") == "nobody"


def test_a_caller_of_the_node_itself_may_name_a_link(eos: Eos) -> None:
    node = eos.node
    node.configure(eos.entry())
    node.start()
    node.wait("eos")
    place = node.places.root / "eos"
    with tempfile.TemporaryDirectory() as name:
        token, link = Path(name) / "token", Path(name) / "link"
        token.write_text("user root-of-the-node")
        token.chmod(0o400)
        link.symlink_to(token)
        command = [sys.executable, "-c"]
        command += [f"import os; print(os.getxattr({str(place)!r}, 'eos.identity').decode())"]
        environment = {"BEARER_TOKEN_FILE": str(link)}
        done = subprocess.run(command, env=environment, capture_output=True, timeout=20, check=True)
    assert done.stdout.decode().strip() == "root-of-the-node"
    # Its lock is that of a place: a second client for the same one goes away again.
    (staged,) = node.places.staging.iterdir()
    (written,) = hostfs.EOS_CONFIGURATION.glob("fuse.eos-*.conf")
    name = written.name.removeprefix("fuse.").removesuffix(".conf")
    second = ["eosxd3", f"-ofsname={name}", "-f", str(staged)]
    assert subprocess.run(second, timeout=20, check=False).returncode == 0
    assert node.mount("eos")["state"] == "published"


def test_a_heartbeat_that_stops_is_a_suspicion_and_a_hang_is_mended(
    eos: Eos, replaced_layers: int
) -> None:
    node = eos.node
    # Nobody would look for an hour, were it not for the statistics.
    node.configure(eos.entry(), health={"hang_after": "1s", "probe_every": "1h"})
    node.start()
    pid = node.wait("eos")["client_pid"]
    told = eventually(lambda: node.mount("eos").get("sign"), "statistics are read")
    assert told["suspicion"] is None
    names = {one["name"] for one in told["measurements"]}
    assert {"eosxd_heartbeat_age_seconds", "eosxd_operations_total", "eosxd_info"} <= names
    pod = node.pod()
    assert pod.path("eos", "who").read_text() == "the server\n"

    eos.tell(pid, "no-heartbeat")
    eventually(lambda: (node.mount("eos")["sign"] or {})["suspicion"], "it is noticed")
    assert "last heartbeat was 100 s ago" in node.mount("eos")["sign"]["suspicion"]
    assert node.mount("eos")["client_pid"] == pid, "it answers: it is left alone"

    eos.tell(pid, "hang")
    status = node.recovered("eos", 1, "hung")
    assert status["client_pid"] != pid
    assert status["layers"] == replaced_layers
    assert pod.path("eos", "who").read_text() == "the server\n"


def test_a_changed_key_or_configuration_is_in_effect_without_a_gap(eos: Eos) -> None:
    node = eos.node
    node.configure(eos.entry(cache={"size-mb": 100}))
    node.start()
    first = node.wait("eos")
    reader = Reader(node.pod().path("eos"))
    node.configure(eos.entry(cache={"size-mb": 200}))
    second = eventually(lambda: _other(node, first), "another client")
    eos.keytab.chmod(0o600)
    eos.keytab.write_text("another key\n")
    eos.keytab.chmod(0o400)
    third = eventually(lambda: _other(node, second), "another client")
    seen, gap, count = reader.result()
    assert (seen, gap) == (["the server\n"], 0.0)
    assert count > 100
    # Each had a configuration, statistics and caches of its own; only the last one has any.
    ours = str(third["client_pid"])
    configurations = list(hostfs.EOS_CONFIGURATION.glob("fuse.eos-*.conf"))
    eventually(lambda: len(_ours(configurations)) == 1, "no configuration stays")
    eventually(lambda: len(list(hostfs.EOS_CACHES.glob("eos-*"))) == 1, "no cache stays")
    (written,) = hostfs.EOS_CONFIGURATION.glob("fuse.eos-*.conf")
    assert written.stat().st_mode & 0o777 == 0o400
    document = json.loads(written.read_text())
    assert document["cache"]["size-mb"] == 200
    statistics = {path.name for path in node.places.clients.iterdir()}
    assert statistics == {Path(document["statfilepath"] + end).name for end in ("", ".json")}
    assert ours in Path(f"{document['statfilepath']}.json").read_text()
    node.configure()
    eventually(lambda: not list(hostfs.EOS_CACHES.glob("eos-*")), "no cache stays")


def _other(node: Node, before: dict[str, Any]) -> dict[str, Any] | None:
    now = node.mount("eos")
    fine = now.get("state") == "published" and now["client_pid"] != before["client_pid"]
    return now if fine else None


def _ours(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path.exists()]


def test_a_killed_client_is_replaced_and_one_that_shall_only_read_does(eos: Eos) -> None:
    """It has no option for that, so the mount is made read-only on the node."""
    node = eos.node
    node.configure({**eos.entry(), "read_only": True})
    node.start()
    first = node.wait("eos")
    pod = node.pod()
    for _ in range(2):
        with pytest.raises(OSError, match="Read-only"):
            pod.path("eos", "stray").touch()
        if node.mount("eos")["client_pid"] == first["client_pid"]:
            os.kill(first["client_pid"], signal.SIGKILL)
            node.recovered("eos", 1)
    assert node.mount("eos")["client_pid"] != first["client_pid"]
    assert pod.path("eos", "who").read_text() == "the server\n"
    options = [e.options for e in node.table() if e.fstype.startswith("fuse.")]
    assert options, "it is mounted"
    assert all({"ro", "nosuid", "nodev"} <= set(one) for one in options)
    node.stop()
    node.drain()
    assert not list(hostfs.EOS_CACHES.glob("eos-*"))
    assert not list(hostfs.EOS_CONFIGURATION.glob("fuse.eos-*"))


def test_a_server_that_cannot_be_reached_is_named(eos: Eos) -> None:
    node, entry = eos.node, eos.entry()
    entry["options"]["mgm"] = f"127.0.0.1:{(port := free_port())}"
    node.configure(entry)
    node.start()
    eventually(
        lambda: (
            f"127.0.0.1 port {port} cannot be reached: Connection refused"
            in node.mount("eos").get("cause", "")
        ),
        "it is told",
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"hostport": "127.0.0.1:PORT", // a comment\n "options": {"a": 1,},}', errno.EINVAL),
        ('{"hostport": "eos"', errno.EINVAL),
        ("{}", errno.EINVAL),
    ],
    ids=["lenient", "broken", "incomplete"],
)
def test_the_double_reads_its_configuration_as_eosxd_does(eos: Eos, text: str, code: int) -> None:
    name = f"nodeshare-test-{os.getpid()}"
    path = hostfs.EOS_CONFIGURATION / f"fuse.{name}.conf"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text.replace("PORT", str(eos.port)))
    try:
        done = subprocess.run(
            ["eosxd3", f"-ofsname={name}", "-f", "/nowhere"], capture_output=True, timeout=20
        )
    finally:
        path.unlink()
    if b"comment" not in text.encode():
        assert done.returncode == code
    else:  # read, and then it has nowhere to mount
        assert done.returncode not in (0, errno.EINVAL)
