# SPDX-License-Identifier: Apache-2.0
"""Our seccomp profiles in the kubelet's directory: written, and taken away. Decides nothing about
their content.

One file a name, replaced in one step: a runtime reads it when it makes a container, keeps what it
read for every later exec, and the kernel keeps the filter, so no old version is needed. What is no
longer configured stays until everything is taken away: a pod that names it could not be started
again. Files that are not ours are never touched.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.errors import Unavailable
from agents.replacing import replace_file
from lxcfs_helper.affinity.profiles import Marked, Profile, marked

#: Below the kubelet's directory; a pod names a profile by its path below the first of them.
_SECCOMP, _OURS = "seccomp", "nodeshare"
_SUFFIX = ".json"
#: Runtimes run as root, and nothing in a profile is a secret.
_MODE = 0o644


def localhost_profile(name: str) -> str:
    """What a pod writes for this profile."""
    return f"{_OURS}/{name}{_SUFFIX}"


class ProfileFiles:
    """Those of one kubelet."""

    def __init__(self, kubelet_dir: Path) -> None:
        self._kubelet_dir = kubelet_dir
        self.directory = kubelet_dir / _SECCOMP / _OURS

    def install(self, profiles: Iterable[Profile]) -> tuple[str, ...]:
        """Write those that are missing or differ; their names. Raises Unavailable, after all that
        could be written was."""
        written, problems = [], []
        with self._opened(make=True) as directory:
            if directory is None:
                raise Unavailable(
                    f"there is no kubelet's directory {str(self._kubelet_dir)!r}",
                    remedy="set node.kubelet_dir, and mount it (its folder seccomp) into the agent",
                )
            for profile in profiles:
                try:
                    if _install(directory, profile):
                        written.append(profile.name)
                except (OSError, Unavailable) as error:
                    place = str(self.directory / (profile.name + _SUFFIX))
                    problems.append(f"{place!r}: {error}")
        if problems:
            raise Unavailable("; ".join(problems))
        return tuple(written)

    def installed(self) -> dict[str, Marked]:
        """Every profile of ours that is there, by name."""
        with self._opened() as directory:
            return {} if directory is None else dict(_ours(directory))

    def remove(self) -> tuple[str, ...]:
        """Take all of ours away; their names. Raises OSError."""
        with self._opened() as directory:
            if directory is None:
                return ()
            found = tuple(sorted(dict(_ours(directory))))
            for name in found:
                os.unlink(name + _SUFFIX, dir_fd=directory)
            for name in os.listdir(directory):
                if name.startswith(".") and name.endswith(_SUFFIX):  # left by a crash
                    os.unlink(name, dir_fd=directory)
        for path in (self.directory, self.directory.parent):
            try:
                path.rmdir()
            except OSError:  # somebody else has something there
                break
        return found

    @contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int | None]:
        """A descriptor of our directory; None: there is none."""
        if make and self._kubelet_dir.is_dir():
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            directory = os.open(self.directory, flags)
        except FileNotFoundError:
            yield None
            return
        try:
            yield directory
        finally:
            os.close(directory)


def _install(directory: int, profile: Profile) -> bool:
    name = profile.name + _SUFFIX
    there = _read(directory, name)
    if there == profile.text:
        return False
    if there is not None and _mark(there) is None:
        raise Unavailable(
            "there is a file that is not ours", remedy="move it away, or rename the profile"
        )
    replace_file(directory, name, profile.text, mode=_MODE, scratch=f".{name}")
    return True


def _ours(directory: int) -> Iterator[tuple[str, Marked]]:
    for name in os.listdir(directory):
        if name.endswith(_SUFFIX) and not name.startswith("."):
            found = _mark(_read(directory, name) or b"")
            if found is not None:
                yield name.removesuffix(_SUFFIX), found


def _read(directory: int, name: str) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _mark(text: bytes) -> Marked | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return marked(document.get("listenerMetadata")) if isinstance(document, dict) else None
