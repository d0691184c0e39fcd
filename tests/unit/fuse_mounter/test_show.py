# SPDX-License-Identifier: Apache-2.0
"""What people see of one mount."""

from __future__ import annotations

from typing import Any

from agents.mountinfo import parse
from agents.tables import lines
from fuse_mounter import show
from fuse_mounter.drivers.base import Measurement, Sign
from fuse_mounter.observed import Health
from fuse_mounter.probe import Past, Space
from fuse_mounter.record import Change, MountStatus
from fuse_mounter.show import Seen
from fuse_mounter.states import State

(TOP,) = parse("32 30 0:51 / /m/home rw,noatime shared:3 - nfs4 nfs:/home rw,vers=4.2,hard")
SIGN = Sign(
    "3 requests are out",
    (Measurement("nfs_operations", "Requests.", "counter", 12, (("operation", "READ"),)),),
)


def status(**changed: Any) -> dict[str, Any]:
    one = MountStatus(
        name="home",
        driver="nfs",
        path="home",
        source="nfs:/home",
        state=State.HUNG,
        cause="it does not answer",
        since=1795271275.4,
        client_pid=None,
        recoveries={"hung": 2, "stale": 0},
        last_gap_s=0.5,
        layers=1,
        waiting=None,
        probe_s=0.01,
        published_by="beneath",
        sign=SIGN,
        server="nfs",
        space=Space(4 << 30, 1 << 30, 100, 60),
        history=(Change(1795271270, State.PUBLISHED, ""), Change(1795271275, State.HUNG, "late")),
        probes=(Past(1795271275, Health.OK, 0.012),),
        staging="home@0123abcd.1",
    )
    return {**one.to_json(), **changed}


POD = {
    "pod": "jupyter/alice",
    "container": "notebook",
    "pid": 7,
    "volumes": [
        {
            "place": "/data",
            "shows": "",
            "bound": "parent",
            "propagation": "slave",
            "recovers": False,
            "text": "bound the parent; recoveries do not reach it",
            "mounts": [
                {"mount": "home", "path": "home", "place": "/data/home", "sees": "it"},
                {"mount": "other", "path": "other", "place": "/data/other", "sees": "it"},
            ],
        },
        {"place": "/elsewhere", "text": "", "mounts": [{"mount": "other", "sees": "it"}]},
    ],
}
DOCUMENT = {"root": "/m", "mounts": [status()], "breakers": {"nfs": 4}, "pods": [POD]}


def test_everything_about_one_mount() -> None:
    text = "\n".join(lines(show.tables(status(), DOCUMENT, Seen(TOP))))
    for said in (
        "hung since 2026-11-21 14:27:55Z: it does not answer",
        "nfs; it is waited for, after 4 failures in a row",
        "/m/home",
        "slipped beneath the one before, without a gap",
        "nfs4 nfs:/home hard,noatime,rw,vers=4.2",
        "home@0123abcd.1",
        "3 requests are out",
        "1.0 GiB of 4.0 GiB available, 60 of 100 inodes",
        "hung 2\n",
        "0.500 s",
        "2026-11-21 14:27:50Z  published  -",
        "2026-11-21 14:27:55Z  hung       late",
        "2026-11-21 14:27:55Z  ok      0.012 s",
        "jupyter/alice  notebook   /data   the root  parent",
        "bound the parent; recoveries do not reach it",
        "nfs_operations READ  12",
    ):
        assert said in text, text
    assert "/elsewhere" not in text


def test_a_client_with_its_command_line() -> None:
    seen = Seen(None, ("sshfs", "a b:/data", "/staging"))
    text = "\n".join(lines(show.tables(status(client_pid=12), DOCUMENT, seen)))
    assert "pid 12: sshfs 'a b:/data' /staging" in text
    assert show.document(status(client_pid=12), DOCUMENT, seen)["client_command"][0] == "sshfs"


def rows(mount: dict[str, Any], document: dict[str, Any] = DOCUMENT) -> dict[str, str]:
    """Of the first table."""
    return {row[0]: row[1] for row in show.tables(mount, document, Seen())[0].rows}


def test_an_agent_of_another_version_tells_less() -> None:
    known = {key: status()[key] for key in ("name", "driver", "path", "state", "cause")}
    assert len(show.tables(known, {"root": "/m"}, Seen())) == 1
    assert rows(known, {"root": "/m"})["state"] == "hung since -: it does not answer"
    assert rows(known, {"root": "/m"})["space"] == "-"


def test_a_mount_that_was_drained() -> None:
    gone = status(state="absent", cause="", drained=True)
    assert rows(gone)["state"].startswith("absent (drained) since ")


def test_the_document_says_the_same() -> None:
    document = show.document(status(), DOCUMENT, Seen(TOP))
    assert document["breaker"] == 4
    assert document["mounted"] == "nfs4 nfs:/home hard,noatime,rw,vers=4.2"
    (pod,) = document["pods"]
    assert [view["mount"] for view in pod["volumes"][0]["mounts"]] == ["home"]
