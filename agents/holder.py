# SPDX-License-Identifier: Apache-2.0
"""The holder: a tiny process that is the parent of every client, so that an agent may come and go.

It starts commands, reaps them, and tells who ended; it decides nothing. Clients are known by what
the kernel knows: pid, start time, and the variables `NODESHARE_…` in their environment.
`NODESHARE_HOLDER` holds the path of the socket: by it a new holder adopts the clients of a dead
one.

Standard library only, one thread, nothing of this package but what is as small: it must stay
boring and alive (`agents.holder_client` speaks to it). It never ends a client unless told so, not
even when it is told to end itself, unless it was started with `--end-clients`: where a container's
end is that of all its processes, they are told to end before.

From the first agent that asks for it on (or at once, with `--listen`) it also keeps the descriptors
by which calls of containers are answered (`agents.holder_seccomp`, `agents.seccomp_connection`).

Protocol: unix SEQPACKET, one JSON object a message. A peer says `hello` first and names the
versions it speaks. Requests carry `id` and `op`, replies the same `id` and either results or
`error`; `exited` events go to every peer that said hello. Since version 2, with descriptors:

    listen   keeping, replace, a memfd         -> nothing; then `arrived` events, or `replaced`
    keep     token, state, a descriptor        no reply: what the peer has from a holder before us
    taken    tokens                            no reply: these arrivals were received
    arrived  token, state, fresh, a descriptor
"""

from __future__ import annotations

import contextlib
import getopt
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

if not __package__:  # run by its file, without site-packages
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 -- pathlib would be a third of our memory

from agents import passing
from agents.holder_seccomp import LOOK_S, Refused, Seccomp
from agents.holder_socket import bound, is_at, lock, peer_of

PROTOCOLS = (1, 2)
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
#: How often it looks whether it can still be found.
_LOOK_FOR_ITSELF_S = 2.0
#: While it waits for clients to end it looks this often whether it has waited enough.
_LOOK_MS = LOOK_S * 1000
#: Without a descriptor for somebody new it waits this long before it looks again.
_FULL_S = 0.1
_PR_SET_CHILD_SUBREAPER = 36
_SO_SNDBUFFORCE = 32  # socket(7); the module has no name for it

Message = dict[str, Any]


class Client:
    """A process we watch. `descriptor` is its pidfd, so no signal can ever hit another process."""

    def __init__(self, pid: int, start: int, labels: dict[str, str], descriptor: int) -> None:
        self.pid, self.start, self.labels, self.descriptor = pid, start, labels, descriptor
        self.ended: Message | None = None

    def describe(self) -> Message:
        return {"pid": self.pid, "start": self.start, "labels": self.labels, "ended": self.ended}


class Peer:
    """A connected agent."""

    def __init__(self, connection: socket.socket, drop: Callable[[Peer], None]) -> None:
        self.connection, self._drop = connection, drop
        self.greeted = False
        self.pid, self.user = peer_of(connection)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """False when it is gone or does not read: a slow peer must never hold us up."""
        try:
            data = json.dumps(message).encode()
            passing.send(self.connection, data, descriptors, socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def hang_up(self) -> None:
        self._drop(self)


class Holder:
    """Everything this process knows."""

    def __init__(
        self,
        path: str,
        locked: int,
        seccomp_path: str,
        proc: str,
        idle_s: float,
        end_clients_s: float,
    ) -> None:
        self._path, self._locked, self._proc = path, locked, proc
        self._idle_ms = min(idle_s, _LOOK_FOR_ITSELF_S) * 1000
        self._end_clients_s = end_clients_s
        self._listener: socket.socket | None = None
        self._inode = 0
        self._look_for_itself_at = 0.0
        self._clients: dict[tuple[int, int], Client] = {}
        self._peers: dict[int, Peer] = {}
        self._poll = select.poll()
        self._actions: dict[int, Callable[[], None]] = {}
        #: What clients get, however many files we need ourselves.
        self._open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._running = True
        self._deadline: float | None = None
        self._operations: dict[str, Callable[[Message], Message]] = {
            "start": self._start,
            "list": self._list,
            "signal": self._signal,
            "forget": self._forget,
            "shutdown": self._shutdown,
        }
        self.seccomp = Seccomp(seccomp_path, proc, self._watch, self._unwatch)

    def run(self) -> None:
        """Serve until `shutdown` or SIGTERM; clients go on, or are told to end as well."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._told_to_end())
        self._watch(wake_read, lambda: self._reap(wake_read))
        self._adopt()
        self._listen()
        while self._running and not self._waited_enough():
            often = self._deadline is not None or self.seccomp.busy
            events = self._poll.poll(_LOOK_MS if often else self._idle_ms)
            for descriptor, _ in events:
                if action := self._actions.get(descriptor):
                    action()
            self.seccomp.look()
            if not events and self._useless():
                return
            self._stay_reachable()
        self.seccomp.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # noqa: PTH108 -- pathlib would be a third of our memory

    def _listen(self) -> None:
        """At our path from now on, where it was or nobody is."""
        new = bound(self._path, socket.SOCK_SEQPACKET, _MAX_PEERS)
        if self._listener is not None:
            self._unwatch(self._listener.fileno())
            self._listener.close()
        self._listener = new
        self._watch(new.fileno(), lambda: self._accept(new))
        self._inode = os.stat(self._path).st_ino  # noqa: PTH116 -- no pathlib here

    def _stay_reachable(self) -> None:
        """Listen anew where somebody has removed our sockets: agents would find nobody, and no
        container could be started."""
        now = time.monotonic()
        if now < self._look_for_itself_at:
            return
        self._look_for_itself_at = now + _LOOK_FOR_ITSELF_S
        is_there = os.path.exists(self._path)  # noqa: PTH110 -- no pathlib here
        if is_there and not self.seccomp.is_removed:
            return
        with contextlib.suppress(OSError):  # the directory is gone, too
            if self._has_lock():
                if not is_there:
                    self._listen()
                self.seccomp.listen_anew()

    def _has_lock(self) -> bool:
        """Also when its file was removed, unless another holder serves since."""
        if not is_at(self._path + ".lock", self._locked):
            anew = lock(self._path)
            if anew is None:
                return False
            os.close(self._locked)
            self._locked = anew
        return True

    def _useless(self) -> bool:
        """Nobody is here, nobody is held, and nobody can come: our directory was removed."""
        if self._peers or self._all_running() or self.seccomp.keeps:
            return False
        try:
            return os.stat(self._path).st_ino != self._inode  # noqa: PTH116 -- no pathlib here
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
        peer = Peer(connection, self._drop)
        if len(self._peers) >= _MAX_PEERS or peer.user != os.geteuid():
            connection.close()
            return
        with contextlib.suppress(OSError):
            # A list of many clients is one message, and longer than the default allows.
            connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * _MAX_MESSAGE)
        self._peers[connection.fileno()] = peer
        self._watch(connection.fileno(), partial(self._receive, connection.fileno()))

    def _receive(self, descriptor: int) -> None:
        peer = self._peers[descriptor]
        try:
            data, came, flags = passing.receive(
                peer.connection, _MAX_MESSAGE, 1, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return
        except OSError:
            data, came, flags = b"", [], 0
        answer = self._answer(peer, data, flags, came) if data else None
        if not data or (answer is not None and not peer.send(answer)):
            peer.hang_up()

    def _drop(self, peer: Peer) -> None:
        descriptor = peer.connection.fileno()
        if descriptor >= 0:
            del self._peers[descriptor]
            self._unwatch(descriptor)
            peer.connection.close()
            self.seccomp.peer_gone(peer)

    def _answer(self, peer: Peer, data: bytes, flags: int, came: list[int]) -> Message | None:
        number = None
        try:
            if flags & socket.MSG_TRUNC:
                raise Refused(f"message longer than {_MAX_MESSAGE} bytes")
            request = json.loads(data)
            if not isinstance(request, dict):
                raise Refused("a message is a JSON object")
            number = request.get("id")
            result = self._dispatch(peer, request, came)
            return None if result is None else {"id": number, **result}
        except (Refused, OSError) as error:
            return {"id": number, "error": str(error)}
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            return {"id": number, "error": f"not a valid request: {type(error).__name__}: {error}"}
        finally:
            for descriptor in came:
                os.close(descriptor)

    def _dispatch(self, peer: Peer, request: Message, came: list[int]) -> Message | None:
        name = request.get("op")
        if name == "hello":
            return self._hello(peer, request)
        if not peer.greeted:
            raise Refused(f"say hello first; spoken here: protocols {list(PROTOCOLS)}")
        match name:
            case "listen":
                return self.seccomp.listen(peer, request, came)
            case "keep":
                self.seccomp.keep(peer, request, came)
                return None
            case "taken":
                self.seccomp.taken(peer, request)
                return None
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
            pid = _spawn(argv, environment, log, self._open_files)
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
        if self.seccomp.is_used and not request.get("kill"):
            raise Refused("calls of containers could not be answered any more")
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
        for peer in list(self._peers.values()):
            if peer.greeted and not peer.send(event):
                peer.hang_up()

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


def _spawn(
    argv: list[str], environment: dict[str, str], log: int, open_files: tuple[int, int]
) -> int:
    """In a session of its own: no signal to us, or to an agent, reaches it."""
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, open_files)
    try:
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
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, ours)


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


def _become_subreaper() -> None:
    # A client that puts itself into the background still ends up as our child.
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def main(arguments: list[str]) -> int:
    """`--socket PATH --proc PATH [--seccomp-socket PATH] [--listen] [--idle SECONDS]
    [--end-clients SECONDS]`
    """
    known = ["socket=", "proc=", "seccomp-socket=", "listen", "idle=", "end-clients="]
    options = dict(getopt.getopt(arguments, "", known)[0])
    path = options["--socket"]
    locked = lock(path)
    if locked is None:
        print(f"another holder serves {path!r}", file=sys.stderr)  # noqa: T201 -- stderr is its log
        return EXIT_ALREADY_RUNNING
    os.chdir("/")
    _become_subreaper()
    idle_s, end_clients_s = (
        float(options.get(name, default))
        for name, default in (("--idle", _IDLE_S), ("--end-clients", 0))
    )
    seccomp = options.get("--seccomp-socket", "")
    holder = Holder(path, locked, seccomp, options["--proc"], idle_s, end_clients_s)
    if "--listen" in options:
        try:
            holder.seccomp.start()
        except OSError as error:
            print(f"cannot listen at {seccomp!r}: {error.strerror}", file=sys.stderr)  # noqa: T201
            return 1
    holder.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
