# SPDX-License-Identifier: Apache-2.0
"""The holder: a tiny process that is the parent of every client, so that an agent may come and go.

It starts commands, reaps them, and tells who ended; it decides nothing. Clients are known by what
the kernel knows: pid, start time, and the variables `NODESHARE_…` in their environment.
`NODESHARE_HOLDER` holds the path of the socket: by it a new holder adopts the clients of a dead
one.

Standard library only, one thread, no import of this package: it must stay small, boring and alive
(`agents.holder_client` speaks to it). It never ends a client unless told so, not even when it is
told to end itself, unless it was started with `--end-clients`: where a container's end is that of
all its processes, they are told to end before.

Protocol: unix SEQPACKET, one JSON object a message. A peer says `hello` first and names the
versions it speaks. Requests carry `id` and `op`, replies the same `id` and either results or
`error`; `exited` events go to every peer that said hello.
"""

from __future__ import annotations

import contextlib
import fcntl
import getopt
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

PROTOCOLS = (1,)
HOLDER_VARIABLE = "NODESHARE_HOLDER"
EXIT_ALREADY_RUNNING = 3

_LABEL_PREFIX = "NODESHARE_"
#: What a client inherits of our own environment; everything else the agent says.
_INHERITED = ("PATH", "LANG", "NODESHARE_RUN_DIR")
_MAX_MESSAGE = 1 << 20
_MAX_PEERS = 16
_MAX_ENDED = 256
#: Without any event for this long it looks whether it is still of use.
_IDLE_S = 60.0
#: While it waits for clients to end it looks this often whether it has waited enough.
_LOOK_MS = 100
#: Without a descriptor for somebody new it waits this long before it looks again.
_FULL_S = 0.1
_PR_SET_CHILD_SUBREAPER = 36
_SO_SNDBUFFORCE = 32  # socket(7); the module has no name for it

Message = dict[str, Any]


class Refused(Exception):
    """A request that cannot be granted; the text goes to the peer."""


class Client:
    """A process we watch. `descriptor` is its pidfd, so no signal can ever hit another process."""

    def __init__(self, pid: int, start: int, labels: dict[str, str], descriptor: int) -> None:
        self.pid, self.start, self.labels, self.descriptor = pid, start, labels, descriptor
        self.ended: Message | None = None

    def describe(self) -> Message:
        return {"pid": self.pid, "start": self.start, "labels": self.labels, "ended": self.ended}


class Peer:
    """A connected agent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.greeted = False

    def send(self, message: Message) -> bool:
        """False when it is gone or does not read: a slow peer must never hold us up."""
        try:
            self.connection.send(json.dumps(message).encode(), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True


class Holder:
    """Everything this process knows."""

    def __init__(self, path: str, proc: str, idle_s: float, end_clients_s: float) -> None:
        self._path, self._proc, self._idle_ms = path, proc, idle_s * 1000
        self._end_clients_s = end_clients_s
        self._clients: dict[tuple[int, int], Client] = {}
        self._peers: dict[int, Peer] = {}
        self._poll = select.poll()
        self._actions: dict[int, Callable[[], None]] = {}
        self._running = True
        self._deadline: float | None = None
        self._operations: dict[str, Callable[[Message], Message]] = {
            "start": self._start,
            "list": self._list,
            "signal": self._signal,
            "forget": self._forget,
            "shutdown": self._shutdown,
        }

    def run(self) -> None:
        """Serve until `shutdown` or SIGTERM; clients go on, or are told to end as well."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._told_to_end())
        self._watch(wake_read, lambda: self._reap(wake_read))
        self._adopt()
        listener = _listen(self._path)
        self._watch(listener.fileno(), lambda: self._accept(listener))
        inode = os.stat(self._path).st_ino  # noqa: PTH116 -- no pathlib here
        while self._running and not self._waited_enough():
            events = self._poll.poll(self._idle_ms if self._deadline is None else _LOOK_MS)
            for descriptor, _ in events:
                if action := self._actions.get(descriptor):
                    action()
            if not events and self._useless(inode):
                return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # noqa: PTH108 -- pathlib would be a third of our memory

    def _useless(self, inode: int) -> bool:
        """Nobody is here, nobody is held, and nobody can come: our directory was removed."""
        if self._peers or any(client.ended is None for client in self._clients.values()):
            return False
        try:
            return os.stat(self._path).st_ino != inode  # noqa: PTH116 -- no pathlib here
        except OSError:
            return True

    def _end(self) -> None:
        self._running = False

    def _told_to_end(self) -> None:
        """By a signal. A client that waits for its server's disk needs its time."""
        running = self._all_running()
        if not self._end_clients_s or not running:
            self._end()
        elif self._deadline is None:
            self._deadline = time.monotonic() + self._end_clients_s
            for client in running:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(client.descriptor, signal.SIGTERM)

    def _waited_enough(self) -> bool:
        if self._deadline is None:
            return False
        return not self._all_running() or time.monotonic() > self._deadline

    def _all_running(self) -> list[Client]:
        return [client for client in self._clients.values() if client.ended is None]

    def _watch(self, descriptor: int, action: Callable[[], None]) -> None:
        self._actions[descriptor] = action
        self._poll.register(descriptor, select.POLLIN)

    def _unwatch(self, descriptor: int) -> None:
        del self._actions[descriptor]
        self._poll.unregister(descriptor)

    # Peers

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            # Our table of descriptors is full: who waits to be accepted would keep us busy.
            select.select([], [], [], _FULL_S)
            return
        if len(self._peers) >= _MAX_PEERS or _peer_uid(connection) != os.geteuid():
            connection.close()
            return
        with contextlib.suppress(OSError):
            # A list of many clients is one message, and longer than the default allows.
            connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * _MAX_MESSAGE)
        self._peers[connection.fileno()] = Peer(connection)
        self._watch(connection.fileno(), partial(self._receive, connection.fileno()))

    def _receive(self, descriptor: int) -> None:
        peer = self._peers[descriptor]
        try:
            data, _, flags, _ = peer.connection.recvmsg(_MAX_MESSAGE, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, flags = b"", 0
        if not data or not peer.send(self._answer(peer, data, flags)):
            self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        peer = self._peers.pop(descriptor)
        self._unwatch(descriptor)
        peer.connection.close()

    def _answer(self, peer: Peer, data: bytes, flags: int) -> Message:
        number = None
        try:
            if flags & socket.MSG_TRUNC:
                raise Refused(f"message longer than {_MAX_MESSAGE} bytes")
            request = json.loads(data)
            if not isinstance(request, dict):
                raise Refused("a message is a JSON object")
            number = request.get("id")
            return {"id": number, **self._dispatch(peer, request)}
        except (Refused, OSError) as error:
            return {"id": number, "error": str(error)}
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            return {"id": number, "error": f"not a valid request: {type(error).__name__}: {error}"}

    def _dispatch(self, peer: Peer, request: Message) -> Message:
        name = request.get("op")
        if name == "hello":
            return self._hello(peer, request)
        if not peer.greeted:
            raise Refused(f"say hello first; spoken here: protocols {list(PROTOCOLS)}")
        if not isinstance(name, str) or name not in self._operations:
            raise Refused(f"unknown op {name!r}; known are {', '.join(self._operations)}")
        return self._operations[name](request)

    def _hello(self, peer: Peer, request: Message) -> Message:
        common = set(PROTOCOLS) & set(request["protocols"])
        if not common:
            asked = request["protocols"]
            raise Refused(f"no common protocol: asked for {asked}, spoken here {list(PROTOCOLS)}")
        peer.greeted = True
        return {"protocol": max(common), "pid": os.getpid()}

    # Requests

    def _start(self, request: Message) -> Message:
        argv = [_text(word) for word in request["argv"]]
        given = {_text(key): _text(value) for key, value in request["env"].items()}
        inherited = {k: os.environ[k] for k in _INHERITED if k in os.environ}  # noqa: TID251 -- handed on, not read
        environment = {**inherited, **given, HOLDER_VARIABLE: self._path}
        log = os.open(_text(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            pid = _spawn(argv, environment, log)
        finally:
            os.close(log)
        # It cannot be reaped before we return to the loop, so pid and start time are surely its
        # own.
        *_, start = _stat(self._proc, pid)
        client = Client(pid, start, _labels(environment), os.pidfd_open(pid))
        self._clients[pid, start] = client
        return {"client": client.describe()}

    def _list(self, _: Message) -> Message:
        return {"clients": [client.describe() for client in self._clients.values()]}

    def _signal(self, request: Message) -> Message:
        client = self._find(request)
        if client.ended is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(client.descriptor, signal.Signals(request["signal"]))
        return {"client": client.describe()}

    def _forget(self, request: Message) -> Message:
        client = self._find(request)
        if client.ended is None:
            raise Refused(f"pid {client.pid} still runs; end it first")
        del self._clients[client.pid, client.start]
        return {}

    def _shutdown(self, request: Message) -> Message:
        running = self._all_running()
        if request.get("kill"):
            for client in running:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(client.descriptor, signal.SIGKILL)
        self._end()
        return {"running": len(running)}

    def _find(self, request: Message) -> Client:
        client = self._clients.get((request["pid"], request["start"]))
        if client is None:
            raise Refused(f"no client with pid {request['pid']} and start {request['start']}")
        return client

    # Clients

    def _reap(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        by_pid = {c.pid: c for c in self._clients.values() if c.ended is None}
        with contextlib.suppress(ChildProcessError):
            while True:
                # Also those that are not clients: a client's orphans come to us (subreaper).
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in by_pid:
                    self._exited(by_pid[pid], status)

    def _exited(self, client: Client, status: int | None) -> None:
        """`status` None: it was adopted, its exit code went to another parent."""
        if client.descriptor in self._actions:
            self._unwatch(client.descriptor)
        os.close(client.descriptor)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        client.ended = {"code": code}
        ended = [key for key, other in self._clients.items() if other.ended is not None]
        for key in ended[:-_MAX_ENDED]:
            del self._clients[key]
        event = {"event": "exited", "client": client.describe()}
        for descriptor, peer in list(self._peers.items()):
            if peer.greeted and not peer.send(event):
                self._drop(descriptor)

    def _adopt(self) -> None:
        found = dict(self._marked())
        for pid, labels in found.items():
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(pid)
                parent, session, start = _stat(self._proc, pid)
                # What a client starts inherits its environment (sshfs lets go of its ssh): only
                # whom a holder started leads the session.
                child = parent in found or session != pid
                if child or _environment(self._proc, pid) != labels:
                    os.close(descriptor)
                    continue
                client = Client(pid, start, labels, descriptor)
                self._clients[pid, start] = client
                self._watch(descriptor, partial(self._exited, client, None))

    def _marked(self) -> Iterator[tuple[int, dict[str, str]]]:
        here = _surroundings(self._proc, os.getpid())
        for name in os.listdir(self._proc):
            if name.isdigit() and int(name) != os.getpid():
                labels = _environment(self._proc, int(name))
                if labels.get(HOLDER_VARIABLE) != self._path:
                    continue
                # Anybody can write this into his environment: a pod, or another user.
                if _surroundings(self._proc, int(name)) == here:
                    yield int(name), labels


def _spawn(argv: list[str], environment: dict[str, str], log: int) -> int:
    """In a session of its own: no signal to us, or to an agent, reaches it."""
    return os.posix_spawnp(
        argv[0],
        argv,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
    )


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Refused(f"{value!r} is not text without NUL")
    return value


def _labels(environment: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key.startswith(_LABEL_PREFIX)}


def _environment(proc: str, pid: int) -> dict[str, str]:
    """The `NODESHARE_…` variables of a process; empty when it is gone or a zombie."""
    try:
        with open(f"{proc}/{pid}/environ", "rb") as file:  # noqa: PTH123 -- no pathlib here
            text = file.read().decode(errors="surrogateescape")
    except OSError:
        return {}
    return _labels(dict(line.split("=", 1) for line in text.split("\0") if "=" in line))


def _stat(proc: str, pid: int) -> tuple[int, int, int]:
    """Parent, session and start time (proc_pid_stat(5))."""
    with open(f"{proc}/{pid}/stat", "rb") as file:  # noqa: PTH123 -- no pathlib here
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[3]), int(fields[19])


def _surroundings(proc: str, pid: int) -> tuple[int, bytes] | None:
    """Mount namespace and real user of a process: those of its clients are a holder's own. Its
    other ids say nothing: a client that acts for its callers goes from one to the next.
    """
    with contextlib.suppress(OSError, IndexError):
        namespace = os.stat(f"{proc}/{pid}/ns/mnt").st_ino  # noqa: PTH116 -- no pathlib here
        with open(f"{proc}/{pid}/status", "rb") as file:  # noqa: PTH123 -- no pathlib here
            return namespace, file.read().partition(b"\nUid:")[2].split(maxsplit=1)[0]
    return None


def _peer_uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], sys.byteorder)


def _listen(path: str) -> socket.socket:
    """We hold the lock, so a file at the path is stale."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 -- no pathlib here
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    umask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(umask)
    listener.listen(_MAX_PEERS)
    listener.setblocking(False)
    return listener


def lock(path: str) -> int | None:
    """The lock beside the socket, for our whole life; None when another holder has it."""
    while True:
        descriptor = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # Whoever clears up removes the file: a lock on a removed file excludes nobody.
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path + ".lock").st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116 -- no pathlib here
                return descriptor
        os.close(descriptor)


def _become_subreaper() -> None:
    # A client that puts itself into the background still ends up as our child.
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """`--socket PATH --proc PATH [--idle SECONDS] [--end-clients SECONDS]`"""
    known = ["socket=", "proc=", "idle=", "end-clients="]
    options = dict(getopt.getopt(arguments, "", known)[0])
    path = options["--socket"]
    if lock(path) is None:
        print(f"another holder serves {path!r}", file=sys.stderr)  # noqa: T201 -- stderr is its log
        return EXIT_ALREADY_RUNNING
    os.chdir("/")
    _become_subreaper()
    idle_s, end_clients_s = (
        float(options.get(name, default))
        for name, default in (("--idle", _IDLE_S), ("--end-clients", 0))
    )
    Holder(path, options["--proc"], idle_s, end_clients_s).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
