# SPDX-License-Identifier: Apache-2.0
"""Seccomp profiles that have our listener asked: the runtime's default, none at all, or an
operator's own, each with our notifications. Pure; knows neither files nor who listens.

A profile is the `linux.seccomp` object of the OCI runtime specification (1.0.2 and later), which is
what the kubelet's runtimes take from a `Localhost` file. Nothing that it refuses becomes allowed: a
call is notified only where it is allowed whatever its arguments, and the listener lets the kernel
do what it does not answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.config_values import shown
from agents.errors import ConfigError
from lxcfs_helper.affinity.default_profile import (
    AF_VSOCK,
    ALLOWED,
    ALLOWED_ON,
    NEW_NAMESPACES,
    PERSONALITIES,
)
from lxcfs_helper.affinity.syscalls import Call

#: Raised whenever what the built-in profiles allow or what is notified changes.
VERSION = 1
#: What `listenerMetadata` of every profile of ours begins with.
MARK = "nodeshare"
_MARKED = re.compile(rf"{MARK} (?P<version>\d+) (?P<name>\S+) (?P<digest>[0-9a-f]+)")

NOTIFIED = tuple(sorted(call.value for call in Call if call is not Call.OTHER))

#: libseccomp's names, by machine as uname(2) has it: the machine's own, then those of 32-bit
#: callers.
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}

_NOTIFY, _ALLOW, _REFUSE = "SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
#: Actions after which the call is made.
_MADE = (_ALLOW, "SCMP_ACT_LOG")
_ENOSYS = 38
#: Passed on by runc from 1.5 with libseccomp 2.6 (its issue 5172), taken by Linux from 5.19.
_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"

#: What the runtime itself calls between loading the filter and handing its descriptor to the
#: listener: were one of these notified, it would wait for an answer that nobody can give yet. As
#: traced with runc 1.1.5, whose Go may call the rest at any time; runc 1.2 hung on fcntl (its issue
#: 4328), crun on sendmsg (its issue 1002). runc refuses `write` alone.
_DEADLOCKING = """
    clone clone3 close epoll_ctl epoll_pwait epoll_wait fcntl fstat futex getpid gettid madvise mmap
    mprotect munmap nanosleep pidfd_getfd pidfd_open read recvmsg rt_sigaction rt_sigprocmask
    rt_sigreturn sched_yield sendmsg sigaltstack tgkill write"""
#: Of Docker's own source format, which runtimes behind a kubelet take for something else.
_DOCKERS = ("archMap", "includes", "excludes", "minKernel")


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile to be installed. `left_out` are calls that it refuses, or allows under conditions,
    and which are therefore not notified."""

    name: str
    document: Mapping[str, Any]
    left_out: tuple[str, ...] = ()

    @property
    def text(self) -> bytes:
        return json.dumps(self.document, indent=1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Marked:
    """What the metadata of a profile of ours says."""

    version: int
    name: str
    digest: str


def marked(metadata: object) -> Marked | None:
    """None: these are not the metadata of a profile of ours."""
    match = _MARKED.fullmatch(metadata) if isinstance(metadata, str) else None
    return match and Marked(int(match["version"]), match["name"], match["digest"])


def runtime_default(machine: str) -> dict[str, Any]:
    """What container runtimes allow a container with the usual capabilities, for this machine (as
    uname(2) has it). Raises ConfigError for one that is not known."""
    architectures = _architectures(machine)
    names = [*ALLOWED.values(), ALLOWED_ON.get(architectures[0], "")]
    rules: list[dict[str, Any]] = [
        {"names": sorted(" ".join(names).split()), "action": _ALLOW},
        {"names": ["socket"], "action": _ALLOW, "args": [_argument(0, AF_VSOCK, "NE")]},
        # No flag of a new namespace.
        {
            "names": ["clone"],
            "action": _ALLOW,
            "args": [{**_argument(0, NEW_NAMESPACES, "MASKED_EQ"), "valueTwo": 0}],
        },
        # Its flags lie in memory, where no filter sees them: programs fall back on clone.
        {"names": ["clone3"], "action": _REFUSE, "errnoRet": _ENOSYS},
    ]
    rules += [
        {"names": ["personality"], "action": _ALLOW, "args": [_argument(0, value, "EQ")]}
        for value in PERSONALITIES
    ]
    return {"defaultAction": _REFUSE, "architectures": list(architectures), "syscalls": rules}


def unconfined(machine: str) -> dict[str, Any]:
    """Everything allowed. Raises ConfigError for a machine that is not known."""
    return {
        "defaultAction": _ALLOW,
        "architectures": list(_architectures(machine)),
        "syscalls": [],
    }


def merged(name: str, base: object, listener: Path, *, killable: bool = False) -> Profile:
    """A profile with our notifications. `killable`: who waits for an answer is woken by a fatal
    signal alone. Raises ConfigError, with `name` in it, for a profile that cannot have them."""
    problem = _problem(base)
    if problem is not None:
        raise ConfigError(f"seccomp profile {name!r}: {problem}")
    assert isinstance(base, dict)
    rules: Sequence[Mapping[str, Any]] = base.get("syscalls") or ()
    taken = tuple(call for call in NOTIFIED if _always_made(call, base["defaultAction"], rules))
    if not taken:
        raise ConfigError(
            f"seccomp profile {name!r}: it allows none of {', '.join(NOTIFIED)}, so there is"
            " nothing to be notified of; allow them, or do without this profile"
        )
    flags = [flag for flag in base.get("flags") or () if flag != _KILLABLE]
    flags += [_KILLABLE] * killable
    document: dict[str, Any] = {
        **{key: value for key, value in base.items() if key not in ("flags", "syscalls")},
        **({"flags": flags} if flags else {}),
        "listenerPath": str(listener),
        "syscalls": [{"names": list(taken), "action": _NOTIFY}, *_without(taken, rules)],
    }
    document["listenerMetadata"] = f"{MARK} {VERSION} {name} {_digest(document)}"
    return Profile(name, document, tuple(call for call in NOTIFIED if call not in taken))


def _architectures(machine: str) -> tuple[str, ...]:
    try:
        return ARCHITECTURES[machine]
    except KeyError:
        raise ConfigError(
            f"no seccomp profile is known for machines of type {machine!r}, only for"
            f" {', '.join(ARCHITECTURES)}"
        ) from None


def _argument(index: int, value: int, comparison: str) -> dict[str, Any]:
    return {"index": index, "value": value, "op": f"SCMP_CMP_{comparison}"}


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _always_made(call: str, default: str, rules: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the call is made whatever its arguments."""
    about = [rule for rule in rules if call in rule["names"]]
    if not about:
        return default in _MADE
    return all(rule["action"] in _MADE and not rule.get("args") for rule in about)


def _without(
    calls: Sequence[str], rules: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    """The rules for everything else: of two rules for one call the runtime's library takes
    neither."""
    found = [
        {**rule, "names": [name for name in rule["names"] if name not in calls]} for rule in rules
    ]
    return [rule for rule in found if rule["names"]]


def _problem(base: object) -> str | None:
    """Why this can be no base of ours, with what to do; None: it can."""
    if not isinstance(base, dict) or not isinstance(base.get("defaultAction"), str):
        return "it is no JSON object with a defaultAction; write the OCI's linux.seccomp object"
    rules = base.get("syscalls") or []
    if not isinstance(rules, list) or not all(map(_is_rule, rules)):
        return "syscalls is no list of objects with names (a list) and an action"
    dockers = [key for key in _DOCKERS if key in base or any(key in rule for rule in rules)]
    if dockers:
        return (
            f"it has {dockers[0]!r} of Docker's source format, which the kubelet's runtimes do not"
            " understand; write out the architectures and rules that hold for this node"
        )
    if "listenerPath" in base or "listenerMetadata" in base:
        return (
            f"it has a listener of its own ({shown(base.get('listenerPath', ''))}), and a profile"
            " can have only one; leave its listener out"
        )
    return _notified_already(base["defaultAction"], rules)


def _notified_already(default: str, rules: Sequence[Mapping[str, Any]]) -> str | None:
    if default == _NOTIFY:
        return (
            f"its defaultAction is {_NOTIFY}: with it the runtime waits for ever for an answer to"
            " its own write, before anybody listens; choose another one"
        )
    names = sorted({name for rule in rules if rule["action"] == _NOTIFY for name in rule["names"]})
    if deadly := [name for name in names if name in _DEADLOCKING.split()]:
        return (
            f"it notifies {', '.join(map(repr, deadly))}, which the runtime itself calls before it"
            " has handed its listener over: it would wait for ever; allow or refuse them instead"
        )
    if names:
        return (
            f"it notifies {', '.join(map(repr, names))}, which nobody would answer; allow or refuse"
            " them instead"
        )
    return None


def _is_rule(rule: object) -> bool:
    if not isinstance(rule, dict) or not isinstance(rule.get("action"), str):
        return False
    names = rule.get("names")
    return isinstance(names, list) and all(isinstance(name, str) for name in names)
