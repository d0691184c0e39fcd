# SPDX-License-Identifier: Apache-2.0
"""What a notebook sees of its own GPU memory, from inside a real container of busybox alone, as a
user who is not root; and where the reason is found when something was ended.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.gpu_node import SMALL
from tests.fakes.gpu_pods import GpuPods, gpu_pods

GIB = 1 << 30
PLACE = "/run/nodeshare/gpu"
SLICE = SMALL.rpartition("/")[2]
BUSYBOX = Path("/bin/busybox")


@pytest.fixture(scope="module")
def pods() -> Iterator[GpuPods]:
    with gpu_pods(f"nodeshare-test-{secrets.token_hex(4)}", BUSYBOX) as made:
        made.start("{grace: 0s}")
        yield made


@pytest.fixture
def name(pods: GpuPods) -> Iterator[str]:
    """A pod of this test's own."""
    name = f"ada-{secrets.token_hex(3)}"
    yield name
    if any(pod.key == f"jupyterhub/{name}" for pod in pods.kubelet.pods()):
        pods.kubelet.delete(f"jupyterhub/{name}")


def as_user(pods: GpuPods, name: str, command: str) -> str:
    """What it prints inside, run by somebody who is not root."""
    user = "grep -qs ^user: /etc/passwd || echo user:x:1234:1234::/:/bin/sh >>/etc/passwd"
    return pods.shell(f"{user}; su user -c '{command}; true' 2>&1", name)


def held(pods: GpuPods, name: str, size: int) -> None:
    """Its first process holds that much."""
    pid = pods.kubelet.pod(f"jupyterhub/{name}").containers[0].pid
    assert pid is not None
    pods.state.hold(pods.device(name), pid, size)


def test_a_user_sees_the_share_and_nothing_of_the_neighbours(pods: GpuPods, name: str) -> None:
    pods.pod(name, 4)
    neighbour = f"emmy-{secrets.token_hex(3)}"
    pods.pod(neighbour, 4, resources={SMALL: 1})
    held(pods, name, 3 * GIB)
    held(pods, neighbour, 2 * GIB)
    row = re.compile(r"\n  GPU \d Tesla V100-PCIE-32GB +4.0 GiB +3.0 GiB +4.0 GiB +1.0 GiB ")
    pods.until(lambda: row.search(pods.shown(name)) is not None, "what is used is shown")
    text = as_user(pods, name, f"id -u; {PLACE}/nodeshare-gpu; echo code $?")
    assert text.splitlines()[0] == "1234"
    assert "\nnodeshare/gpu-memory: 4 units, 4GiB of GPU memory\n" in text
    assert row.search(text)
    assert "\n  1    sh       GPU" in text
    assert text.endswith("\ncode 0\n")
    document = json.loads(as_user(pods, name, f"{PLACE}/nodeshare-gpu -j"))
    (device,) = document["devices"]
    assert (device["used_bytes"], device["left_bytes"]) == (3 * GIB, GIB)
    assert device["enforced_by"] == "terminate"
    everything = as_user(pods, name, f"grep -r . {PLACE} /run/nodeshare/allocations")
    assert neighbour not in everything
    assert SMALL not in everything
    assert "Permission denied" in as_user(pods, name, f"echo x >>{PLACE}/events")
    as_root = f"for f in status x; do touch {PLACE}/$f; rm {PLACE}/$f; done 2>&1; true"
    assert pods.shell(as_root, name).count("Read-only file system") == 3  # there is no x
    pods.until(lambda: SMALL in pods.shown(neighbour), "both resources of the neighbour are shown")
    places = (PLACE, *(f"/run/nodeshare/allocations/nodeshare_{n}" for n in ("gpu-memory", SLICE)))
    sums = f"cd /; md5sum {' '.join(f'{place}/status' for place in places)}"

    def same() -> bool:
        return len({line.split()[0] for line in pods.shell(sums, neighbour).splitlines()}) == 1

    pods.until(same, "each of its directories shows all of it")
    pods.kubelet.delete(f"jupyterhub/{neighbour}")


def test_who_watches_sees_it_change(pods: GpuPods, name: str) -> None:
    pods.pod(name, 4)
    held(pods, name, GIB)
    pods.until(lambda: " 1.0 GiB " in pods.shown(name), "what is used is shown")
    watching = f"timeout 4 {PLACE}/nodeshare-gpu -w 0.3 >/tmp/seen 2>&1 &"
    as_user(pods, name, f"{watching} sleep 0.5")
    held(pods, name, 2 * GIB)
    pods.until(lambda: " 2.0 GiB " in pods.shell("cat /tmp/seen", name), "the watcher sees it")
    assert " 1.0 GiB " in pods.shell("cat /tmp/seen", name)


def test_the_reason_is_where_people_look(pods: GpuPods, name: str) -> None:
    pods.pod(name, 4, annotations={"x": "\x1b[31m" + "y" * 4000})
    held(pods, name, 6 * GIB)
    key = f"jupyterhub/{name}"
    pods.until(lambda: pods.kubelet.pod(key).containers[0].restarts == 1, "it was ended")
    pods.until(lambda: pods.kubelet.pod(key).containers[0].pid is not None, "it runs again")
    words = pods.kubelet.pod(key).containers[0].last_words
    assert re.fullmatch(
        r"nodeshare ended this container at \S+: it used 6.0 GiB of GPU memory on GPU \d, and its "
        r"limit is 4.0 GiB.\n",
        words,
    )
    # Without a grace it may be gone before anybody has asked which pid it had inside.
    event = re.compile(r"Z over_limit: GPU \d: asked sh( \(pid 1\))?, which held 6.0 GiB, to end")
    show = f"{PLACE}/nodeshare-gpu -e"
    pods.until(lambda: event.search(as_user(pods, name, show)) is not None, "an event says why")
    labels = {"reason": "over_limit", "outcome": "done"}
    assert pods.agent.metric("enforcement_actions_total", **labels) >= 1
    act = next(one for one in pods.agent.status()["acts"] if one["container"].startswith(key))
    assert (act["action"], act["reason"], act["outcome"]) == ("terminate", "over_limit", "done")


def test_old_numbers_say_so_when_the_agent_is_gone(pods: GpuPods, name: str) -> None:
    pods.pod(name, 4)
    pods.until(lambda: "within your share" in pods.shown(name), "its share is shown")
    pods.agent.process.kill()
    pods.agent.process.wait(10)
    (directory,) = (
        one
        for one in (pods.directory / "state/gpu/containers").iterdir()
        if _is_of(one, pods, name)
    )
    path = directory / "status.json"
    written = int(re.findall(r'"written_at": (\d+)', path.read_text())[0])
    path.write_text(path.read_text().replace(str(written), str(written - 7201)))
    text = as_user(pods, name, f"{PLACE}/nodeshare-gpu; echo code $?")
    assert "STALE: written 2 hours ago. nodeshare does not run on this node" in text
    assert "within your share" in text
    assert text.endswith("code 1\n")
    pods.agent.restart()
    fresh = f"{PLACE}/nodeshare-gpu >/dev/null; echo code $?"
    pods.until(lambda: as_user(pods, name, fresh) == "code 0\n", "the next agent goes on")


def _is_of(directory: Path, pods: GpuPods, name: str) -> bool:
    inside = pods.shell(f"stat -c %i {PLACE}", name).strip()
    return str(directory.stat().st_ino) == inside
