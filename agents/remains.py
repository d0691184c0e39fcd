# SPDX-License-Identifier: Apache-2.0
"""What of an agent is on a machine although it does not run, as an agent's package declares it, for
`nodeshare uninstall`. Values; knows no agent, and removes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.mountinfo import MountEntry


def nobody_uses(_: MountEntry) -> str | None:
    """For an agent of which nothing is ever mounted in a container."""
    return None


@dataclass(frozen=True, slots=True)
class Errand:
    """Something that takes more than removing a file. `run` raises OSError or AgentError; doing it
    twice is fine.
    """

    what: str
    run: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Remains:
    """`used` says of a mount that a container has, if it is of this agent, what the container loses
    with it (None: it is not). `running` are processes of the agent itself, however it was started:
    in a pod, its socket for us may be in a directory of its own. `files` are files and whole
    directories that nobody else makes. `valuable` are those that may hold what users have nowhere
    else: they stay unless they are asked for. `directories` go when they are empty then, in this
    order. `annotations` and `labels` are keys at the node object.
    """

    used: Callable[[MountEntry], str | None] = nobody_uses
    running: Sequence[str] = ()
    files: Sequence[Path] = ()
    valuable: Sequence[Path] = ()
    directories: Sequence[Path] = ()
    errands: Sequence[Errand] = ()
    annotations: Sequence[str] = ()
    labels: Sequence[str] = ()


NOTHING = Remains()
