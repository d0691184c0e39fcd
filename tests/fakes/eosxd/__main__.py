# SPDX-License-Identifier: Apache-2.0
"""A test double of eosxd: its command line, configuration, locks and statistics, and how it finds
out on whose behalf a process asks. It knows no EOS: it serves who it thinks you are.

`python -m tests.fakes.eosxd --control DIRECTORY …`, then as eosxd: `-ofsname=NAME -f [PLACE]`.
In DIRECTORY a test says what the process with a certain id shall do, by files that hold it: `hang`
(answer nothing, write no statistics), `no-heartbeat` (its server was last heard of 100 s ago).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pyfuse3
import trio

from tests.fakes.eosxd.configuration import Configuration, Invalid, load
from tests.fakes.eosxd.filesystem import Filesystem
from tests.fakes.eosxd.identity import Identities

LOCKS = Path("/var/run/eos/fusex")
HELPERS = (Path("/bin/fusermount3"), Path("/bin/fusermount"))


class Control:
    """What a test wants of this process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def wants(self, what: str) -> bool:
        try:
            return (self._directory / what).read_text().split() == [str(os.getpid())]
        except OSError:
            return False


def parse(words: list[str]) -> tuple[str, Path | None]:
    """Name and place. Whatever else is given is not known."""
    name, place = "", None
    for word in words:
        if word.startswith("-ofsname="):
            name = word.removeprefix("-ofsname=")
        elif not word.startswith("-"):
            place = Path(word)
        elif word != "-f":
            sys.exit(f"eosxd: unknown option {word}")
    return name, place


def locked(place: Path) -> int | None:
    """The lock of a mount point; None when another eosxd has it."""
    LOCKS.mkdir(parents=True, exist_ok=True)
    path = LOCKS / f"mount.{str(place).replace('/', '-')}.A.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return descriptor


def statistics(
    configuration: Configuration, filesystem: Filesystem, started: float, heartbeat: float
) -> str:
    """As eosxd writes them, as far as its own affairs go."""
    now = time.time()
    return json.dumps(
        {
            "activity": [
                {
                    "command": "getattr",
                    "sum": filesystem.operations,
                    "5s": 1.0,
                    "1min": 1.0,
                    "5min": 1.0,
                    "1h": 1.0,
                    "exec(ms)": 0.1,
                    "sigma(ms)": 0.1,
                    "cumul(s)": 0.25,
                }
            ],
            "inodes": {"number": 3, "stack": 0, "open": 0, "ever": 3, "everdeleted": 0, "caps": 1},
            "recoveries": {},
            "stats": {
                "threads": 2,
                "pid": os.getpid(),
                "version": "double",
                "fuseversion": "3.14",
                "server-version": "double",
                "starttime": int(started),
                "uptime": int(now - started),
                "total-rbytes": 4096,
                "total-wbytes": 0,
                "total-io-ops": 1,
                "instance-url": configuration.hostport,
                "max-inode-lock-ms": 0,
                "blocker": "",
                "blocked-ops": 0,
                "last-heartbeat-secs": round(now - heartbeat, 3),
            },
        },
        indent=1,
    )


async def write_statistics(
    configuration: Configuration, filesystem: Filesystem, control: Control
) -> None:
    started = time.time()
    while True:
        heartbeat = time.time() - (100 if control.wants("no-heartbeat") else 0)
        if not control.wants("hang"):
            text = statistics(configuration, filesystem, started, heartbeat)
            configuration.statistics.write_text("in words\n")
            if configuration.json_statistics:
                Path(f"{configuration.statistics}.json").write_text(text)
        await trio.sleep(0.3)


async def serve(configuration: Configuration, control: Control) -> None:
    identities = Identities(configuration)
    filesystem = Filesystem(identities, lambda: control.wants("hang"))
    options = {"fsname=eosxd", f"subtype={configuration.name}", "allow_other"}
    pyfuse3.init(filesystem, str(configuration.mount_point), options)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_statistics, configuration, filesystem, control)
        nursery.start_soon(end_when_asked, configuration.mount_point, nursery.cancel_scope)
        try:
            await pyfuse3.main()
        finally:
            pyfuse3.close(unmount=False)
        nursery.cancel_scope.cancel()


async def end_when_asked(place: Path, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            await trio.run_process(["fusermount3", "-u", "-z", str(place)], check=False)
            scope.cancel()


def main(words: list[str]) -> int:
    control, (name, place) = Control(Path(words[1])), parse(words[2:])
    try:
        configuration = load(name, place)
    except Invalid as error:
        sys.stderr.write(f"eosxd: {error}\n")
        return errno.EINVAL
    if not any(os.access(helper, os.X_OK) for helper in HELPERS):
        sys.stderr.write("eosxd: no executable fusermount3\n")
        return 255
    lock = locked(configuration.mount_point)
    if lock is None:
        return 0
    for directory in configuration.directories:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
    if not configuration.keytab.exists():
        sys.stderr.write(f"eosxd: warning: no keytab {configuration.keytab}\n")
    wait_for_server(configuration.hostport)
    trio.run(serve, configuration, control)
    return 0


def wait_for_server(hostport: str) -> None:
    """Nothing is mounted before it takes connections."""
    host, _, port = hostport.rpartition(":")
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
