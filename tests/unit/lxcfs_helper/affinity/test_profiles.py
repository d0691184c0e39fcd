# SPDX-License-Identifier: Apache-2.0
"""Profiles with our notifications: nothing that was refused becomes allowed, and what would hang a
runtime is refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.errors import ConfigError
from lxcfs_helper.affinity import profiles
from lxcfs_helper.affinity.profiles import NOTIFIED, VERSION, Marked, marked, merged

SOCKET = Path("/run/nodeshare/seccomp.sock")
ALLOW, REFUSE, NOTIFY = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY"
OTHERS = ("read", "mount")

arguments = st.just([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}])
rules = st.fixed_dictionaries(
    {
        "names": st.lists(st.sampled_from([*NOTIFIED, *OTHERS]), min_size=1, unique=True),
        "action": st.sampled_from([ALLOW, REFUSE, "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"]),
    },
    optional={"args": arguments},
)
bases = st.fixed_dictionaries(
    {"defaultAction": st.sampled_from([ALLOW, REFUSE]), "syscalls": st.lists(rules, max_size=4)}
)


def said(document: Mapping[str, Any], call: str) -> list[tuple[str, object]]:
    """What a profile says of a call: actions and their conditions."""
    found = [
        (rule["action"], rule.get("args")) for rule in document["syscalls"] if call in rule["names"]
    ]
    return found or [(document["defaultAction"], None)]


@given(bases)
def test_a_call_is_notified_where_it_was_allowed_and_else_as_before(base: dict[str, Any]) -> None:
    notified, document = set[str](), base
    with suppress(ConfigError):  # where there is nothing to notify
        profile = merged("team", base, SOCKET)
        document = dict(profile.document)
        notified = set(NOTIFIED) - set(profile.left_out)
    for call in (*NOTIFIED, *OTHERS):
        before = said(base, call)
        always = all(
            action in (ALLOW, "SCMP_ACT_LOG") and condition is None for action, condition in before
        )
        assert (call in notified) == (always and call in NOTIFIED)
        assert said(document, call) == ([(NOTIFY, None)] if call in notified else before)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("make", [profiles.runtime_default, profiles.unconfined])
def test_the_built_in_ones(machine: str, make: Any) -> None:
    profile = merged("x", make(machine), SOCKET)
    document = json.loads(profile.text)
    assert document["listenerPath"] == str(SOCKET)
    assert profile.left_out == ()
    assert "flags" not in document, "older runtimes start no container with a flag"
    assert len(document["architectures"]) >= 2, "32-bit callers, too"
    names = [
        name for rule in document["syscalls"] for name in rule["names"] if not rule.get("args")
    ]
    assert len(names) == len(set(names)), "two rules for one call are refused by the library"
    assert len(profile.text) < 16384


def test_the_default_refuses_what_reaches_beyond_a_container() -> None:
    document = profiles.runtime_default("x86_64")
    for call in ("mount", "umount2", "setns", "unshare", "bpf", "init_module", "kexec_load"):
        assert said(document, call) == [(REFUSE, None)], call
    for call in ("reboot", "swapon", "keyctl", "io_uring_setup", "userfaultfd", "perf_event_open"):
        assert said(document, call) == [(REFUSE, None)], call
    for call in ("clone", "socket", "personality"):
        assert all(condition for _, condition in said(document, call)), call


def test_an_unknown_machine_is_said() -> None:
    with pytest.raises(ConfigError, match="'riscv64', only for x86_64, aarch64"):
        profiles.runtime_default("riscv64")


def test_the_metadata_say_whose_and_which() -> None:
    one = merged("team", {"defaultAction": ALLOW}, SOCKET)
    mark = marked(one.document["listenerMetadata"])
    assert mark is not None
    assert (mark.version, mark.name) == (VERSION, "team")
    assert merged("team", {"defaultAction": ALLOW}, SOCKET).text == one.text, "the same each time"
    other = merged("team", {"defaultAction": "SCMP_ACT_LOG"}, SOCKET)
    assert mark != marked(other.document["listenerMetadata"]), "another content, another mark"
    assert marked("nodeshare 2 a-b.c 0f") == Marked(2, "a-b.c", "0f")
    for foreign in (None, 3, "", "nodeshare", "other 1 x 0f", "nodeshare 1 x 0f\n"):
        assert marked(foreign) is None


def test_what_else_the_profile_has_stays_and_the_flag_is_there_once() -> None:
    flags = ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    base = {"defaultAction": ALLOW, "defaultErrnoRet": 38, "flags": flags}
    document = merged("team", base, SOCKET, killable=True).document
    assert (document["defaultErrnoRet"], document["flags"]) == (38, flags)
    assert merged("team", base, SOCKET).document["flags"] == flags[:1]
    assert base["flags"] == flags, "the operator's own is not changed"


def notifying(*names: str) -> dict[str, Any]:
    return {"defaultAction": ALLOW, "syscalls": [{"names": list(names), "action": NOTIFY}]}


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        (notifying("write", "mount"), "it notifies 'write', which the runtime itself calls"),
        (notifying("close"), "it would wait for ever"),
        (notifying("mount"), "it notifies 'mount', which nobody would answer"),
        ({"defaultAction": NOTIFY}, "its own write"),
        ({"defaultAction": ALLOW, "listenerPath": "/other"}, "'/other'.*only one"),
        ({"defaultAction": REFUSE}, "it allows none of execve, execveat, sched_getaffinity"),
        ({"defaultAction": ALLOW, "archMap": []}, "'archMap' of Docker's source format"),
        (
            {
                "defaultAction": ALLOW,
                "syscalls": [{"names": ["x"], "action": ALLOW, "includes": {"caps": []}}],
            },
            "'includes' of Docker's",
        ),
        ({"defaultAction": ALLOW, "syscalls": [{"name": "read", "action": ALLOW}]}, "names"),
        ({"defaultAction": ALLOW, "syscalls": {"read": ALLOW}}, "syscalls is no list"),
        ({"defaultAction": 3}, "no JSON object with a defaultAction"),
        ([], "no JSON object"),
        (None, "no JSON object"),
    ],
)
def test_what_cannot_be_merged_is_said(base: object, complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"seccomp profile 'team': .*{complaint}"):
        merged("team", base, SOCKET)
