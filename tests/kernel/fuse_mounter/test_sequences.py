# SPDX-License-Identifier: Apache-2.0
"""Random sequences of what goes wrong on a node, one thing into the other: in the end everything is
as the configuration says, and no process, mount or directory is left over.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agents import mountinfo
from agents.errors import AgentError
from agents.hostfs import PROC
from agents.mounts import LinuxMounts
from agents.processes import identify, signal_process
from fuse_mounter.observe import is_anchor
from fuse_mounter.places import StagingName
from fuse_mounter.requests import Request, Verb, ask
from tests.fakes.mount_node import Node, Pod, bindfs, eventually

NAMES = ("a", "b", "c")
#: `c` is a mount of the kernel's, which has no client.
KERNEL = "c"
LIMIT_S = 40.0


@dataclass
class Story:
    """A node to which things happen. `wanted`: the source of each configured mount, by name."""

    node: Node
    pod: Pod
    chance: random.Random
    wanted: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def happen(self) -> None:
        """One thing more."""
        what = self.chance.choice(EVENTS)
        self.told.append(what.__name__)
        what(self)
        time.sleep(self.chance.choice([0, 0, 0.02, 0.1, 0.3]))

    def name(self) -> str:
        return self.chance.choice(NAMES)

    def configure(self) -> None:
        mounts: list[dict[str, Any]] = []
        for name, source in self.wanted.items():
            path = self.node.directory / source
            if name == KERNEL:
                entry = {"name": name, "path": name, "driver": "bind", "source": str(path)}
                mounts.append(entry)
            else:
                mounts.append(bindfs(path, name))
        health = {"hang_after": "300ms", "probe_every": "300ms", "start_limit": "5s"}
        self.node.configure(*mounts, health=health)

    def signal(self, pids: list[int], number: signal.Signals) -> None:
        for pid in pids:
            if (key := identify(PROC, pid)) is not None:
                signal_process(PROC, key, number)

    def place(self, name: str) -> Path:
        return self.node.places.root / name


def kill_a_client(story: Story) -> None:
    story.signal(story.node.clients()[:1], signal.SIGKILL)


def stop_a_client(story: Story) -> None:
    story.signal(story.node.clients()[-1:], signal.SIGSTOP)


def terminate_a_client(story: Story) -> None:
    """It unmounts itself, and leaves whoever sees it."""
    story.signal(story.node.clients()[:1], signal.SIGTERM)


def kill_the_holder(story: Story) -> None:
    story.signal(story.node.holders(), signal.SIGKILL)


def kill_the_agent(story: Story) -> None:
    if story.node.agent is not None:
        story.node.stop(signal.SIGKILL)
    story.node.start()


def restart_the_agent(story: Story) -> None:
    if story.node.agent is not None:
        story.node.stop()
    story.node.start()


def unmount_by_hand(story: Story) -> None:
    with suppress(OSError):
        LinuxMounts().unmount(story.place(story.name()), detach=True)


def unmount_the_anchor_too(story: Story) -> None:
    place = story.place(story.name())
    for _ in range(3):
        with suppress(OSError):
            LinuxMounts().unmount(place, detach=True)


def unmount_what_is_staged(story: Story) -> None:
    for entry in mountinfo.below(mountinfo.read(PROC), story.node.places.staging)[1:2]:
        with suppress(OSError):
            LinuxMounts().unmount(Path(entry.mount_point), detach=True)


def mount_over_by_hand(story: Story) -> None:
    with suppress(OSError):
        LinuxMounts().mount("theirs", story.place(story.name()), "tmpfs", data="size=4k")


def change_the_source(story: Story) -> None:
    name = story.name()
    if name in story.wanted:
        story.wanted[name] = "two" if story.wanted[name] == "one" else "one"
        story.configure()


def take_out_or_put_in(story: Story) -> None:
    name = story.name()
    if story.wanted.pop(name, None) is None:
        story.wanted[name] = "one"
    story.configure()


def ask_for(verb: Verb) -> Callable[[Story], None]:
    def happen(story: Story) -> None:
        with suppress(AgentError):
            ask(story.node.places.run_dir, Request(verb, story.name()), 0.5)

    happen.__name__ = verb.value
    return happen


EVENTS: tuple[Callable[[Story], None], ...] = (
    kill_a_client,
    kill_a_client,
    stop_a_client,
    terminate_a_client,
    kill_the_holder,
    kill_the_agent,
    restart_the_agent,
    unmount_by_hand,
    unmount_the_anchor_too,
    unmount_what_is_staged,
    mount_over_by_hand,
    change_the_source,
    change_the_source,
    take_out_or_put_in,
    ask_for(Verb.REPLACE),
    ask_for(Verb.DRAIN),
)


def settle(story: Story) -> None:
    """What people have done, people undo; what they asked for is asked back."""
    for name in NAMES:
        while (stack := mountinfo.at(mountinfo.read(PROC), story.place(name))) and (
            stack[-1].source == "theirs"
        ):
            LinuxMounts().unmount(story.place(name), detach=True)
    eventually(lambda: story.node.document().get("mounts") is not None, "an agent", LIMIT_S)
    # Together: an agent that starts says a moment later what the one before it had drained.
    told = f"settled after {story.told}"
    eventually(lambda: brought_back(story) and not wrong(story), told, LIMIT_S)


def brought_back(story: Story) -> bool:
    """Whether no mount is away any more because somebody asked for that."""
    drained = [one["name"] for one in story.node.document().get("mounts", ()) if one["drained"]]
    for name in drained:
        with suppress(AgentError):
            ask(story.node.places.run_dir, Request(Verb.REPLACE, name), 20)
    return not drained


def wrong(story: Story) -> str:
    """What is not as it shall be; empty when everything is."""
    return wrong_to_see(story) or left_over(story)


def wrong_to_see(story: Story) -> str:
    """For pods, and for people."""
    mounts = {one["name"]: one for one in story.node.document().get("mounts", ())}
    if set(mounts) != set(story.wanted):
        return f"mounts are {sorted(mounts)}"
    for name, one in mounts.items():
        if one["state"] != "published":
            return f"{name} is {one['state']}: {one['cause']}"
        if (seen := text(story.pod.path(name, "who"))) != story.wanted[name]:
            return f"{name} shows {seen}"
    return ""


def left_over(story: Story) -> str:
    """Processes, mounts, directories."""
    node = story.node
    anchors = sorted(entry.mount_point for entry in node.table() if is_anchor(entry))
    if anchors != sorted(str(story.place(name)) for name in story.wanted):
        return f"anchors at {anchors}"
    staged = [StagingName.parse(path.name) for path in node.places.staging.iterdir()]
    if None in staged or sorted(one.name for one in staged if one) != sorted(story.wanted):
        return f"staged are {staged}"
    clients = set(story.wanted) - {KERNEL}
    # One that is killed while nothing is configured is not missed.
    holders = len(node.holders()) or not story.wanted
    if len(node.clients()) != len(clients) or holders != 1:
        return f"clients {node.clients()} of holders {node.holders()}"
    extra = {path.name for path in node.places.root.iterdir()} - set(story.wanted)
    if unmount_the_anchor_too.__name__ in story.told:
        # What is no mount any more is not known for ours to an agent that starts then.
        for name in extra:
            story.place(name).rmdir()
        extra = set()
    return f"left below the root: {extra}" if extra else ""


def text(path: Path) -> str:
    """What a pod reads, or why it cannot."""
    try:
        return path.read_text()
    except OSError as error:
        return str(error)


@pytest.fixture
def story(node: Node) -> Story:
    for name in ("one", "two"):
        node.source(name, who=name)
    made = Story(node, None, random.Random(0), dict.fromkeys(NAMES, "one"))  # type: ignore[arg-type]  # soon
    made.configure()
    node.start()
    for name in NAMES:
        node.wait(name)
    made.pod = node.pod()
    return made


@pytest.mark.timeout(900)
def test_after_whatever_happened_everything_is_as_configured(story: Story, soak: bool) -> None:
    seed = random.SystemRandom().randrange(2**32)
    story.chance = random.Random(seed)
    for number in range(100 if soak else 10):
        story.told = [f"seed {seed}, sequence {number}"]
        for _ in range(story.chance.randint(2, 6)):
            story.happen()
        try:
            settle(story)
        except AssertionError as error:
            raise AssertionError(f"{error}; {wrong(story)}\n{story.node.log()}") from error
    story.node.stop()
    story.node.drain()
    assert story.node.table() == ()
    assert story.node.marked() == []
    assert not story.node.places.root.exists()
    assert not story.node.cgroups()


def test_the_configuration_changes_while_it_recovers(story: Story) -> None:
    """A client is killed in the moment in which another one is wanted, again and again."""
    for source in ("two", "one", "two"):
        story.wanted["a"] = source
        for pid in story.node.clients():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        story.configure()
    settle(story)
