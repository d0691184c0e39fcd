# SPDX-License-Identifier: Apache-2.0
"""Keeps our seccomp profiles installed, and the node's label true: whether a pod that names one can
be started here. Answers no call; knows no container.

What a runtime will do is tried: the socket is connected to. Nothing waits for this, and a pod that
starts asks nobody here.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from agents.config import read
from agents.errors import AgentError, ConfigError
from agents.logs import Logger
from agents.published import Published
from agents.threads import Worker
from lxcfs_helper.affinity import profiles
from lxcfs_helper.affinity.profile_files import ProfileFiles, localhost_profile
from lxcfs_helper.affinity.profiles import Profile
from lxcfs_helper.affinity.profiles_config import ProfilesConfig

#: Of the node, with the value "true": pods with our profiles can be started on it.
LABEL = "nodeshare/affinity-ready"

_LOOK_S, _SOON_S = 5.0, 0.5
#: For so long nobody is warned that something is missing.
_PATIENCE_S = 10.0
_LIMIT_S = 10.0
_CONNECT_S = 2.0


@dataclass(frozen=True, slots=True)
class Standing:
    """What a look found. `installed`: the profiles as a pod names them. `problems`: what is wrong
    with single profiles, while the rest is there. `reason`: why no pod with one can be started
    (None: it can)."""

    installed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    reason: str | None = "starting"

    def to_json(self) -> Mapping[str, Any]:
        return {
            "ready": self.reason is None,
            "reason": self.reason,
            "installed": list(self.installed),
            "problems": list(self.problems),
        }


class ProfileKeeper:
    """`standing` is from the last look. `listener`: the socket that profiles name, as the
    runtime's mount namespace has it."""

    def __init__(
        self,
        files: ProfileFiles,
        listener: Path,
        config: ProfilesConfig,
        log: Logger,
        labels: Published[Mapping[str, str | None]],
    ) -> None:
        self._files, self._listener = files, listener
        self._log, self._labels = log, labels
        self._worker = Worker("the kubelet's directory")
        self._blamed: str | None = None
        self.config = config
        self.standing = Published(Standing())

    async def run(self) -> None:
        """Until cancelled; then the label stays, as the holder goes on listening."""
        unready_since = trio.current_time()
        while True:
            try:
                found = await self._worker.call(self._look, timeout_s=_LIMIT_S)
            except AgentError as error:
                found = Standing(reason=str(error))
            now = trio.current_time()
            if found.reason is None:
                unready_since = now
            self._tell(found, patient=now - unready_since < _PATIENCE_S)
            await trio.sleep(_LOOK_S if found.reason is None else _SOON_S)

    def _look(self) -> Standing:
        """In a worker thread."""
        wanted, problems = wanted_profiles(self.config, self._listener)
        if not wanted:
            return Standing(reason="; ".join(problems))
        try:
            written = self._files.install(wanted)
            installed = tuple(sorted(map(localhost_profile, self._files.installed())))
        except OSError as error:
            place = str(self._files.directory)
            return Standing(
                problems=problems, reason=f"cannot write into {place!r}: {error.strerror}"
            )
        if written:
            self._log.info("seccomp profiles written", profiles=list(written))
        return Standing(installed, problems, _nobody_answers(self._listener))

    def _tell(self, found: Standing, *, patient: bool) -> None:
        """One line when something changes, and the label."""
        log, before = self._log, self.standing.value
        for problem in found.problems:
            if problem not in before.problems:
                log.warning("seccomp profile refused", error=problem)
        if found.reason is None:
            if before.reason is not None:
                log.info("pods with our seccomp profiles can start here")
            self._blamed = None
        elif self._blamed is None and not patient:  # at a start the listener may come later
            self._blamed = found.reason
            log.warning("pods with our seccomp profiles cannot start here", error=found.reason)
        if found != before:
            self.standing.set(found)
            self._labels.set({LABEL: "true" if found.reason is None else None})


def wanted_profiles(
    config: ProfilesConfig, listener: Path
) -> tuple[tuple[Profile, ...], tuple[str, ...]]:
    """All that can be made, and in words why the rest cannot."""
    found, problems = [], []
    for name, make in _bases(config):
        try:
            found.append(profiles.merged(name, make(), listener, killable=config.killable))
        except ConfigError as error:
            problems.append(str(error))
    return tuple(found), tuple(problems)


def _bases(config: ProfilesConfig) -> Iterator[tuple[str, Callable[[], object]]]:
    machine = os.uname().machine
    yield "runtime-default", lambda: profiles.runtime_default(machine)
    yield "unconfined", lambda: profiles.unconfined(machine)
    for name, path in config.own.items():
        yield name, partial(_own, name, path)


def _own(name: str, path: Path) -> object:
    try:
        return json.loads(read(path))
    except ConfigError as error:
        raise ConfigError(f"seccomp profile {name!r}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"seccomp profile {name!r}: {str(path)!r} is not JSON: {error}") from None


def _nobody_answers(listener: Path) -> str | None:
    """Why a runtime could not hand us a container; None: it could."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_CONNECT_S)
        try:
            client.connect(str(listener))
            # The kernel alone would accept also where the holder hangs. It hangs up on who has said
            # everything, which without a descriptor is nothing.
            client.sendall(b"{}")
            client.recv(1)
        except OSError as error:
            return (
                f"nobody answers on {str(listener)!r} ({error.strerror or error}); look whether the"
                " holder runs"
            )
    return None
