# SPDX-License-Identifier: Apache-2.0
"""What a container is shown of its own GPU memory, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agents.processes import ProcessKey
from gpu_plugin.accounting import ContainerNames
from gpu_plugin.container_events import event
from gpu_plugin.container_page import Page, page
from gpu_plugin.container_status import Surroundings, status_of
from gpu_plugin.verdicts import Standing
from tests.fakes.gpu_scans import (
    DEVICES,
    EPOCH,
    FIRST,
    GIB,
    SLICE,
    container,
    grant,
    scan,
    use,
    verdict,
)

AROUND = Surroundings(DEVICES, simulated=True, pids={ProcessKey(11, 7): 42})


def shown(found: Any, verdicts: Any, **fields: Any) -> Page:
    accounting = scan(found, **fields)
    by_device = {device: one for (_, device), one in verdicts.items()}
    return page(status_of(found, accounting.devices, by_device, AROUND), ())


def test_a_share_at_a_glance() -> None:
    found = container("ada", grant("a"), use(11, 6 * GIB), use(12, 128 << 20, command="sh"))
    text = shown(found, verdict(found), utilisation={FIRST: 0.371}).text_at(EPOCH)
    assert text == (
        "nodeshare/gpu-memory: 8 units, 8GiB of GPU memory\n"
        "SIMULATED: this machine has no such GPU; nothing can be computed on it\n"
        "\n"
        "GPU memory\n"
        "  device                      your share  used     limit    left for you  free on card"
        "  card busy\n"
        "  GPU 0 Tesla V100-PCIE-32GB  8.0 GiB     6.1 GiB  8.0 GiB  1.9 GiB       20.0 GiB"
        "      37%\n"
        "\n"
        "GPU 0: within your share\n"
        "  processes are ended, the newest first, after a warning of 10 s\n"
        "\n"
        "Your processes\n"
        "  PID  program  device  memory\n"
        "  42   python3  GPU 0   6.0 GiB\n"
        "  -    sh       GPU 0   128 MiB\n"
        "\n"
        "Written 2026-11-21T14:03:27Z, and anew every few seconds: what is older than 45 s is not "
        "true any more.\n"
    )


@pytest.mark.parametrize(
    ("used", "limit", "free", "left"),
    [
        (6 * GIB, 8 * GIB, 20 * GIB, 2 * GIB),
        (6 * GIB, 8 * GIB, GIB, GIB),
        (9 * GIB, 8 * GIB, 20 * GIB, 0),
        (6 * GIB, None, 20 * GIB, 20 * GIB),
        (None, 8 * GIB, 20 * GIB, None),
    ],
    ids=["limit", "the card is fuller", "over", "a whole device", "not known"],
)
def test_what_is_left(used: int | None, limit: int | None, free: int, left: int | None) -> None:
    found = container("ada", grant("a"), use(11, used))
    document = json.loads(shown(found, verdict(found, limit=limit), free=free).json_at(EPOCH))
    assert document["devices"][0]["left_bytes"] == left


def test_several_devices_and_resources_in_one_container() -> None:
    found = container(
        "ada",
        grant("a"),
        grant("b", 9, SLICE, "nodeshare/mig-1g.10gb"),
        grant("c", 2),
        use(11, GIB, SLICE),
    )
    made = shown(found, {**verdict(found), **verdict(found, SLICE, limit=None)})
    first, slice_ = json.loads(made.json_at(EPOCH))["devices"]
    assert (first["uuid"], first["request_bytes"], slice_["uuid"]) == (FIRST, 10 * GIB, SLICE)
    assert first["resources"] == [{"name": "nodeshare/gpu-memory", "units": 10}]
    assert (slice_["used_bytes"], slice_["limit_bytes"]) == (GIB, None)
    text = made.text_at(EPOCH).splitlines()
    assert text[:2] == [
        "nodeshare/gpu-memory: 10 units, 10GiB of GPU memory",
        "nodeshare/mig-1g.10gb: 9 units, 9GiB of GPU memory",
    ]
    assert any(line.startswith("  GPU 2 3g.40gb gi2 ") and " none " in line for line in text)


def test_what_threatens_is_said_with_what_to_do() -> None:
    found = container("ada", grant("a"), use(11, 11 * GIB))
    over = verdict(found, standing=Standing.WARNED, grace_left_s=7.2)
    assert "GPU 0: OVER WHAT YOU MAY HAVE: free 3.0 GiB within 7 s\n" in shown(found, over).text
    pressed = verdict(
        found, limit=16 * GIB, standing=Standing.WARNED, grace_left_s=0.0, pressure=True
    )
    assert "free 3.0 GiB within 0 s (other containers need" in shown(found, pressed).text
    bad = verdict(found, problem="annotation nodeshare/gpu-memory-limit: '12' has no unit")
    assert "  problem: annotation nodeshare/gpu-memory-limit: '12' has" in shown(found, bad).text


def test_what_is_not_known_is_not_zero() -> None:
    found = container("ada", grant("a"), use(11, GIB))
    row = status_of(found, {}, {}, AROUND).devices[0]
    assert (row.used_bytes, row.free_bytes, row.left_bytes, row.utilisation) == (None,) * 4
    assert row.state == "unknown"
    assert row.limit_bytes == row.request_bytes == 8 * GIB
    gone = status_of(container("ada", grant("a", device="GPU-gone")), {}, {}, AROUND).devices[0]
    assert (gone.name, gone.total_bytes) == ("GPU-gone", None)


def test_many_processes_are_summed_up_in_the_text_alone() -> None:
    uses = [use(pid, pid << 20) for pid in range(1, 31)]
    made = shown(found := container("ada", grant("a"), *uses), verdict(found))
    assert "and 10 more, in status.json" in made.text
    assert len(json.loads(made.json_at(EPOCH))["processes"]) == 30


def test_nothing_of_the_neighbours() -> None:
    ada = container("ada", grant("a"), use(11, GIB))
    other = container("emmy", grant("b"), use(31337, 3 * GIB, command="julia"))
    accounting = scan(ada, other, host=(use(31338, GIB, command="Xorg"),))
    found = page(status_of(ada, accounting.devices, {}, AROUND), ())
    for text in (found.text_at(EPOCH), found.json_at(EPOCH)):
        assert not any(word in text for word in ("emmy", "julia", "Xorg", "3133"))


def test_hostile_names_are_shown_and_do_nothing() -> None:
    evil = "x\x1b[2J\n\u202e" + "y" * 5000
    found = container("ada", grant("a"), use(11, GIB, command=evil))
    found = replace(found, names=ContainerNames(evil, evil, evil, {}, {evil: evil}))
    events = (event(EPOCH, "limit", evil),)
    made = page(status_of(found, scan(found).devices, {}, AROUND), events)
    told = verdict(found, problem=evil)
    problem = page(
        status_of(found, scan(found).devices, {d: v for (_, d), v in told.items()}, AROUND), ()
    )
    for text in (made.text_at(EPOCH), made.json_at(EPOCH), problem.text, problem.json):
        assert all(c == "\n" or c.isprintable() for c in text)
        assert max(map(len, text.splitlines())) < 1500
    json.loads(made.json_at(EPOCH))


def test_the_schema() -> None:
    """What others read: a key that goes, or means another thing, needs another version."""
    found = container("ada", grant("a"), use(11, GIB))
    status = status_of(found, scan(found).devices, {}, AROUND)
    document = json.loads(page(status, (event(EPOCH, "limit", "text"),)).json_at(EPOCH))
    assert {key: value for key, value in document.items() if not isinstance(value, list)} == {
        "version": 1,
        "written_at": int(EPOCH),
        "valid_s": 45,
        "simulated": True,
    }
    assert set(document["devices"][0]) == {
        *("uuid", "name", "model", "resources", "request_bytes", "guarantee_bytes", "limit_bytes"),
        *("used_bytes", "left_bytes", "free_bytes", "total_bytes", "utilisation"),
        *("own_utilisation", "active_at", "state", "pressure", "grace_left_s", "enforced_by"),
        *("at_limit", "limit_source", "problem"),
    }
    assert set(document["processes"][0]) == {"pid", "program", "device", "kind", "used_bytes"}
    assert document["events"] == [{"at": int(EPOCH), "reason": "limit", "text": "text"}]
