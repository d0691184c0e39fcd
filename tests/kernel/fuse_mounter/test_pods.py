# SPDX-License-Identifier: Apache-2.0
"""How pods bound the root, what they are told of it, and what is healed from outside: real slave
and private mount namespaces, and a mount whose client is killed.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents import mountinfo, processes
from agents.errors import Unavailable
from agents.hostfs import PROC, HostFs
from agents.mounts import LinuxMounts
from agents.namespaces import NamespaceHelper
from agents.processes import ProcessKey
from agents.standin.leftovers import sweep
from agents.standin.pods import Volume, VolumePropagation
from agents.standin.runtime import ContainerRunner
from fuse_mounter import requests
from fuse_mounter.attached import Attached, tables
from fuse_mounter.bindings import Sight
from fuse_mounter.config import MounterConfig
from fuse_mounter.healing import Healer
from fuse_mounter.survey import Survey
from tests.fakes.containers import container
from tests.fakes.mount_node import Node, Pod, bindfs, eventually

HEAL = {"heal": "heal"}


def volume(node: Node, pod: Pod, **values: Any) -> dict[str, Any]:
    """What the agent says of the volume of this pod, once it says this."""

    def look() -> dict[str, Any] | None:
        for one in node.document().get("pods", ()):
            for found in one["volumes"]:
                if found["place"] == str(pod.at) and one["pid"] == pod.process.pid:
                    flat = {**found, **(found["mounts"][0] if found["mounts"] else {})}
                    flat["recovers"] = found["recovers"]
                    if all(flat.get(key) == value for key, value in values.items()):
                        return flat
        return None

    try:
        return eventually(look, f"{values}")
    except AssertionError as error:
        raise AssertionError(f"{error}; {node.document().get('pods')}\n{node.log()}") from None


def says(node: Node, pod: Pod, words: str, known: dict[str, Any]) -> bool:
    """A pod binds in steps, and a first look may be between them."""
    return words in volume(node, pod, **known)["text"]


def crash(node: Node) -> None:
    """Kill the client, and wait until the mount is back."""
    before = node.wait("scratch")
    os.kill(before["client_pid"], signal.SIGKILL)
    node.recovered("scratch", before["recoveries"].get("client_ended", 0) + 1)


def inside(pod: Pod, *argv: str) -> None:
    """Run a command in its mount namespace."""
    where = ["nsenter", "-t", str(pod.process.pid), "-m"]
    subprocess.run([*where, *argv], check=True, timeout=10)


def metrics(node: Node) -> str:
    with urllib.request.urlopen(f"{node.document()['metrics']}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def log_lines(node: Node, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in node.log().splitlines()]
    return [line for line in lines if line["event"] == event]


def healed(node: Node, path: Path, text: str = "one") -> None:
    try:
        eventually(lambda: reads(path) == text, "it is healed")
    except AssertionError as error:
        raise AssertionError(f"{error}; {node.document().get('pods')}\n{node.log()}") from None


def reads(path: Path) -> str | None:
    """None: it cannot be read."""
    try:
        return (path / "who").read_text()
    except OSError:
        return None


@pytest.fixture
def start(node: Node) -> Callable[..., Path]:
    """Start the agent with one mount; where it is on the node."""

    def begin(heal: bool = False, **more: Any) -> Path:
        pods = {"pods": {"look_every": "200ms", **(HEAL if heal else {})}}
        source = node.source("src", who="one")
        (source / "ada").mkdir()
        (source / "ada" / "who").write_text("ada")
        node.configure(bindfs(source, **more), **pods)
        node.start()
        node.wait("scratch")
        return node.places.root / "scratch"

    return begin


def test_what_each_way_to_bind_means(node: Node, start: Callable[..., Path], beneath: bool) -> None:
    """The table of the documentation, row by row: told before the recovery, and true after it."""
    mount = start()
    rows = {
        "root, HostToContainer": node.pod(),
        "root, None": node.pod(propagation="rprivate"),
        "root, Bidirectional": node.pod(propagation="rshared"),
        "root, not recursive": node.pod(bind="bind"),
        "mount, HostToContainer": node.pod(mount),
        "mount, None": node.pod(mount, propagation="rprivate"),
        "folder in it": node.pod(mount / "ada"),
        "read-only root": node.pod(options="ro"),
    }
    expected = {
        "root, HostToContainer": ("parent", "host_to_container", True, "recoveries reach it"),
        "root, None": ("parent", "none", False, "set mountPropagation"),
        "root, Bidirectional": ("parent", "host_to_container", True, "recoveries reach it"),
        "root, not recursive": ("parent", "host_to_container", False, "was not bound with it"),
        "mount, HostToContainer": (
            "mount_point",
            "host_to_container",
            False,
            "itself, not its parent",
        ),
        "mount, None": ("mount_point", "none", False, "Transport endpoint is not connected"),
        "folder in it": ("mount_point", "host_to_container", False, "the folder 'ada' in"),
        "read-only root": ("parent", "host_to_container", True, "its readOnly does not hold"),
    }
    for name, pod in rows.items():
        bound, propagation, recovers, words = expected[name]
        known = {"bound": bound, "propagation": propagation, "recovers": recovers}
        eventually(partial(says, node, pod, words, known), f"{name}: {words}")
    counted = metrics(node)
    for labels, count in {
        'bound="parent",mount="scratch",propagation="host_to_container",recovers="true"': 3,
        'bound="parent",mount="scratch",propagation="host_to_container",recovers="false"': 1,
        'bound="parent",mount="scratch",propagation="none",recovers="false"': 1,
        'bound="mount_point",mount="scratch",propagation="host_to_container",recovers="false"': 2,
        'bound="mount_point",mount="scratch",propagation="none",recovers="false"': 1,
    }.items():
        assert f"nodeshare_mount_pods{{{labels}}} {count}.0" in counted, (labels, counted)
    crash(node)
    if not beneath:
        return  # older kernels cover the dead mount, which reaches more of them
    for name, pod in rows.items():
        recovered = expected[name][2]
        part = "" if "mount" in name or "folder" in name else "scratch"
        seen = reads(pod.path(part))
        assert (seen == "one") == recovered, (name, seen)
        sees = "current" if recovered else "missing" if "not recursive" in name else "lost"
        volume(node, pod, sees=sees)
    dead = rows["mount, HostToContainer"]
    text = "it sees 'Transport endpoint is not connected' in 'scratch', until it is started again"
    eventually(lambda: text in volume(node, dead)["text"], "known to be dead")
    assert 'nodeshare_mount_pods_lost{mount="scratch"} 5.0' in metrics(node)
    stack = mountinfo.at(mountinfo.read(PROC, dead.process.pid), dead.at)
    assert len(stack) == 1, "without the option nothing is touched"
    (note,) = (table.note for table in tables(node.document()["pods"]))
    assert f"process {dead.process.pid}" in note


def test_who_bound_the_place_before_the_mount_was_there_follows(
    node: Node, start: Callable[..., Path]
) -> None:
    start()
    answer = requests.ask(node.places.run_dir, requests.Request(requests.Verb.DRAIN, "scratch"))
    assert answer.done, answer
    pod = node.pod(node.places.root / "scratch")
    volume(node, pod, bound="mount_point", recovers=True, sees="empty")
    answer = requests.ask(node.places.run_dir, requests.Request(requests.Verb.REPLACE, "scratch"))
    assert answer.done, answer
    node.wait("scratch")
    for _ in range(2):
        assert reads(pod.path()) == "one"
        crash(node)
    assert reads(pod.path()) == "one"


def test_healed_pods_follow_later_recoveries_and_harm_nobody(
    node: Node, start: Callable[..., Path], beneath: bool
) -> None:
    mount = start(heal=True)
    pods = {
        "mount, HostToContainer": node.pod(mount),
        "mount, None": node.pod(mount, propagation="rprivate"),
        "root, None": node.pod(propagation="rprivate"),
        "users of its own": node.pod(mount, own_users=True),
    }
    read_only, folder, good = node.pod(mount, options="ro"), node.pod(mount / "ada"), node.pod()
    for pod in (*pods.values(), read_only, folder):
        volume(node, pod, recovers=False)
    places = {name: pod.path("scratch" if "root" in name else "") for name, pod in pods.items()}
    crash(node)
    for number in (1, 2):
        for name, pod in pods.items():
            healed(node, places[name])
            volume(node, pod, recovers=True, sees="current")
        healed(node, read_only.path())
        healed(node, folder.path(), "ada")
        with pytest.raises(OSError, match="Read-only"):
            read_only.path("x").write_text("")
        folder.path("mine").write_text("")
        volume(node, read_only, recovers=False, sees="current")
        if number == 1:
            crash(node)
            for name, place in places.items():
                assert reads(place) == "one", f"{name} follows by itself"
    for name, pod in pods.items():
        at = pod.at / ("scratch" if "root" in name else "")
        entries = mountinfo.at(mountinfo.read(PROC, pod.process.pid), at)
        assert all(entry.shared is None for entry in entries), name
        unmount = f"umount -l {at}; umount -l {at}; exit 0"
        inside(pod, "sh", "-c", unmount)
        assert (reads(mount), reads(good.path("scratch"))) == ("one", "one"), name
    assert node.mount("scratch")["recoveries"] == {"client_ended": 2}
    document = node.document()
    mounted = {str(pod.at) for pod in node.pods}
    healed_places = {line["place"] for line in log_lines(node, "pod healed")}
    assert {Path(place).parts[: len(node.directory.parts) + 1] for place in healed_places} <= {
        Path(place).parts for place in mounted
    }, document


def test_after_a_restart_of_the_agent_a_lost_pod_is_known_and_healed(
    node: Node, start: Callable[..., Path]
) -> None:
    mount = start(heal=True)
    pod = node.pod(mount)
    volume(node, pod, recovers=False)
    node.stop(signal.SIGKILL)
    os.kill(node.clients()[0], signal.SIGKILL)
    node.start()
    healed(node, pod.path())


class Lost:
    """A pod that sees a dead mount, and what is needed to heal it by hand."""

    def __init__(self, node: Node, pod: Pod, helper: NamespaceHelper) -> None:
        self.node, self.pod = node, pod
        self.healer = Healer(node.places.root, HostFs(), LinuxMounts(), helper)
        config = MounterConfig.model_validate({"mounts": [bindfs(node.directory / "src")]})
        self.survey = Survey(node.places, HostFs())
        self.found = next(
            one for one in self.survey.look(config.mounts) if one.who.process.pid == pod.process.pid
        )

    def attached(self, process: ProcessKey | None = None, namespace: int = 0) -> Attached:
        who = self.found.who
        return Attached(
            process or who.process, namespace or who.namespace, "", None, None, self.found.bindings
        )

    def heal(self, attached: Attached) -> None:
        (view,) = attached.views()
        assert view.sight is Sight.LOST
        copy = LinuxMounts().clone(self.node.places.root / "scratch")
        try:
            self.healer.heal(attached, view, copy)
        finally:
            os.close(copy)

    def table(self) -> list[int]:
        pid = self.pod.process.pid
        return [entry.mount_id for entry in mountinfo.at(mountinfo.read(PROC, pid), self.pod.at)]


def test_in_doubt_nobody_is_healed(node: Node, start: Callable[..., Path], beneath: bool) -> None:
    if not beneath:
        pytest.skip("older kernels cover a dead mount in most pods themselves")
    mount = start()
    pod, other = node.pod(mount), node.pod(mount)
    volume(node, pod, recovers=False)
    crash(node)
    helper = NamespaceHelper.start()
    try:
        lost = Lost(node, pod, helper)
        before = lost.table()
        wrong = ProcessKey(pod.process.pid, lost.found.who.process.start_ticks + 1)
        with pytest.raises(ProcessLookupError):
            lost.heal(lost.attached(process=wrong))  # the pid is another's by now
        elsewhere = processes.identify(PROC, other.process.pid)
        with pytest.raises(Unavailable, match="another mount namespace"):
            lost.heal(lost.attached(process=elsewhere))
        assert lost.table() == before
        inside(pod, "mount", "-t", "tmpfs", "theirs", str(pod.at))
        with pytest.raises(Unavailable, match="something else"):
            lost.heal(lost.attached())
        inside(pod, "umount", str(pod.at))
        lost.heal(lost.attached())
        assert reads(pod.path()) == "one"
        pod.process.kill()
        pod.process.wait(10)
        with pytest.raises(ProcessLookupError):
            lost.heal(lost.attached())
    finally:
        helper.close()


@pytest.fixture
def runner(node: Node) -> Iterator[ContainerRunner]:
    """Containers with roots, pid namespaces and cgroups of their own."""
    parent, directory = f"nodeshare-test-{secrets.token_hex(4)}", node.directory / "containers"
    made = ContainerRunner(directory, parent, HostFs())
    try:
        yield made
        made.close()
    finally:
        sweep(directory, parent, HostFs())


def test_containers_see_what_their_volumes_say(
    node: Node, start: Callable[..., Path], runner: ContainerRunner, beneath: bool
) -> None:
    mount = start(heal=True, publish=[{"path": "seeds", "folder": "ada", "read_only": True}])
    eventually(lambda: (node.places.root / "seeds/who").exists(), "published")
    to_container = VolumePropagation.HOST_TO_CONTAINER
    root = Volume(node.places.root, "/data", read_only=True, propagation=to_container)
    itself = Volume(mount, "/eos", propagation=to_container)
    private = Volume(node.places.root, "/private")
    one = runner.start(container(volumes=[root, itself, private]))
    inner = PROC / str(one.pid) / "root"
    places = {"/data": inner / "data/scratch", "/eos": inner / "eos"}
    places["/private"] = inner / "private/scratch"

    def known() -> dict[str, bool]:
        pods = {pod["pid"]: pod for pod in node.document().get("pods", ())}
        volumes = pods.get(one.pid, {"volumes": []})["volumes"]
        return {volume["place"]: volume["recovers"] for volume in volumes}

    expected = {"/data": True, "/eos": False, "/private": False}
    eventually(lambda: known() == expected, f"told: {expected}")
    for number in (1, 2):
        crash(node)
        for place in places.values():
            healed(node, place)
        for volume_place in ("data", "private"):
            healed(node, inner / volume_place / "seeds", "ada")
        (inner / "data/scratch/written").write_text("readOnly of a volume does not hold")
        with pytest.raises(OSError, match="Read-only"):
            (inner / "data/seeds/written").write_text("this does")
        if number == 1 and beneath:
            eventually(lambda: all(known().values()), "all of them follow now")
    events = [line["place"] for line in log_lines(node, "pod healed")]
    assert not beneath or sorted(events) == ["/eos", "/private/scratch", "/private/seeds"]
