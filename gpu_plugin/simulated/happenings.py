# SPDX-License-Identifier: Apache-2.0
"""What the lines of a state file mean: the state of a machine, and each verb that changes it.

The language is described in `state`, which follows and writes the file. Knows no machine and no
file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from agents.processes import identify
from gpu_plugin.devices import ProcessKind
from gpu_plugin.simulated.description import slice_counts

#: What the driver can demand, as a word of the file and as `Gpu.demand` says it.
DEMANDS = {
    "reset": "a reset of the GPU",
    "reboot": "a reboot of the node",
    "drain": "no new work until it is reset",
    "repair": "a repair: a faulty memory row could not be replaced",
}


@dataclass(frozen=True, slots=True)
class Hold:
    """Memory that one process holds on one device. `used` None: the driver cannot tell. `busy`
    percent of the device's time are its own.
    """

    uuid: str
    pid: int
    start_ticks: int | None
    used: int | None
    kinds: tuple[ProcessKind, ...]
    busy: int = 0

    def alive(self, proc: Path) -> bool:
        """Whether the process is still the one that took the memory."""
        key = identify(proc, self.pid)
        return key is not None and self.start_ticks in (None, key.start_ticks)


@dataclass(frozen=True, slots=True)
class Made:
    """A slice that was made while the machine ran."""

    gpu: str
    uuid: str
    gpu_instance: int
    compute_instance: int
    memory: int
    profile: str


@dataclass(slots=True)
class State:
    """All lines so far. `xids` only grows, so that a reader can keep its place in it."""

    holds: dict[tuple[str, int], Hold] = field(default_factory=dict)
    utilisation: dict[str, tuple[int, int]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    slow_ms: dict[str, int] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    unplugged: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    demands: dict[str, str] = field(default_factory=dict)
    hang_ms: dict[str, int] = field(default_factory=dict)
    mig: dict[str, bool] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)
    limits: dict[tuple[str, str], tuple[int | None, int | None]] = field(default_factory=dict)
    loaded: bool = True
    loads: int = 0
    xids: list[tuple[str, int]] = field(default_factory=list)

    def apply(self, line: str) -> None:
        """One line of the file; one that makes no sense changes nothing."""
        verb, _, rest = line.partition(" ")
        try:
            if action := _VERBS.get(verb):
                action(self, rest)
        except (ValueError, KeyError):
            return  # half a line of a writer that died, or a newer writer's


def _hold(state: State, rest: str) -> None:
    uuid, pid, start, used, kinds = rest.split(" ")
    state.holds[uuid, int(pid)] = Hold(
        uuid, int(pid), _number(start), _number(used), tuple(map(ProcessKind, kinds.split("+")))
    )


def _busy(state: State, rest: str) -> None:
    uuid, pid, percent = rest.split(" ")
    state.holds[uuid, int(pid)] = replace(state.holds[uuid, int(pid)], busy=int(percent))


def _release(state: State, rest: str) -> None:
    uuid, pid = rest.split(" ")
    for key in [key for key in state.holds if key[1] == int(pid) and uuid in ("*", key[0])]:
        del state.holds[key]


def _utilisation(state: State, rest: str) -> None:
    uuid, gpu, memory = rest.split(" ")
    state.utilisation[uuid] = (int(gpu), int(memory))


def _xid(state: State, rest: str) -> None:
    uuid, code = rest.split(" ")
    state.xids.append((uuid, int(code)))


def _slow(state: State, rest: str) -> None:
    symbol, milliseconds = rest.split(" ")
    state.slow_ms[symbol] = int(milliseconds)


def _hang(state: State, rest: str) -> None:
    uuid, milliseconds = rest.split(" ")
    state.hang_ms[uuid] = int(milliseconds)


def _demand(state: State, rest: str) -> None:
    uuid, word = rest.split(" ")
    if word in DEMANDS:
        state.demands[uuid] = DEMANDS[word]
    elif word == "nothing":
        state.demands.pop(uuid, None)


def _mig(state: State, rest: str) -> None:
    uuid, mode = rest.split(" ")
    state.mig[uuid] = {"on": True, "off": False}[mode]


def _make(state: State, rest: str) -> None:
    gpu, uuid, gpu_instance, compute_instance, memory, profile = rest.split(" ")
    slice_counts(profile)
    made = Made(gpu, uuid, int(gpu_instance), int(compute_instance), int(memory), profile)
    if uuid not in state.made:
        state.made[uuid] = made
        state.removed.discard(uuid)


def _limit(state: State, rest: str) -> None:
    uuid, soft, hard, cgroup = rest.split(" ", 3)
    state.limits[uuid, cgroup] = (_number(soft), _number(hard))


def _reload(state: State, _: str) -> None:
    state.loaded = True
    state.loads += 1


def _unload(state: State, _: str) -> None:
    state.loaded = False


def _clear(state: State, _: str) -> None:
    fresh = State(xids=state.xids, loads=state.loads)
    for name in State.__slots__:
        setattr(state, name, getattr(fresh, name))


def _number(word: str) -> int | None:
    return None if word == "-" else int(word)


_VERBS: dict[str, Callable[[State, str], None]] = {
    "hold": _hold,
    "busy": _busy,
    "release": _release,
    "utilisation": _utilisation,
    "lose": lambda state, rest: state.lost.add(rest),
    "recover": lambda state, rest: state.lost.discard(rest),
    "unplug": lambda state, rest: state.unplugged.add(rest),
    "plug": lambda state, rest: state.unplugged.discard(rest),
    "demand": _demand,
    "xid": _xid,
    "deaf": lambda state, rest: state.deaf.add(rest),
    "hearing": lambda state, rest: state.deaf.discard(rest),
    "make": _make,
    "mig": _mig,
    "hang": _hang,
    "remove": lambda state, rest: state.removed.add(rest),
    "restore": lambda state, rest: state.removed.discard(rest),
    "slow": _slow,
    "missing": lambda state, rest: state.missing.add(rest),
    "present": lambda state, rest: state.missing.discard(rest),
    "deny": lambda state, rest: state.denied.add(rest),
    "permit": lambda state, rest: state.denied.discard(rest),
    "limit": _limit,
    "unload": _unload,
    "reload": _reload,
    "clear": _clear,
}
