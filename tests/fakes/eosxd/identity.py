# SPDX-License-Identifier: Apache-2.0
"""On whose behalf a process asks: its environment, the file that is named there, and the checks
that eosxd makes before it believes that file.

A token says its own user here: `oauth2:user alice:endpoint`, or `user alice` as a bearer token.
"""

from __future__ import annotations

import ctypes
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.eosxd.configuration import Configuration

NOBODY = "nobody"
_LIBC = ctypes.CDLL(None)
#: Of every part of the path: a link would lead out of the container.
_PART = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDONLY


class Refused(Exception):
    """The file is not what eosxd accepts; the text goes into its log."""


@dataclass(frozen=True)
class Asker:
    pid: int
    uid: int


class Identities:
    """Remembers what it found by the file's own time: a file that changed is a new login."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self.log: list[str] = []

    def of(self, asker: Asker) -> str:
        """The user of the first usable credential of the process, then of its parent."""
        for pid in (asker.pid, _parent(asker.pid)):
            for name, path in _named(pid):
                user = self._user(name, path, Asker(pid, asker.uid))
                if user is not None:
                    return user
        return NOBODY

    def _user(self, name: str, path: str, asker: Asker) -> str | None:
        c = self._configuration
        if name == "OAUTH2_TOKEN":
            if not c.oauth2 or not c.sss or not c.keytab.exists():
                return None
        elif not c.ztn:
            return None
        try:
            text = _content(path, asker)
        except (OSError, Refused) as error:
            self.log.append(f"{path}: {error}")
            return None
        copy = c.credentials / f"uid{asker.uid}.{name.lower()}"
        copy.write_text(text)
        copy.chmod(0o600)
        return _said(name, text)


def _said(name: str, text: str) -> str | None:
    if name == "OAUTH2_TOKEN":
        parts = text.strip().split(":")
        if len(parts) < 3 or parts[0] != "oauth2":
            return None
        text = parts[1]
    word, _, user = text.strip().partition(" ")
    return user if word == "user" and user else None


def _named(pid: int) -> list[tuple[str, str]]:
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
    variables = dict(word.partition("=")[::2] for word in words if "=" in word)
    found = []
    for name in ("BEARER_TOKEN_FILE", "OAUTH2_TOKEN"):
        if value := variables.get(name):
            found.append((name, value.removeprefix("FILE:")))
    return found


def _parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def _content(path: str, asker: Asker) -> str:
    """Raises OSError or Refused."""
    if not path.startswith("/") or ".." in path.split("/"):
        raise Refused("not an absolute path without '..'")
    root = Path(f"/proc/{asker.pid}/root")
    jailed = not os.path.samestat(root.stat(), Path("/").stat())
    place = os.open(root, os.O_PATH | os.O_DIRECTORY)
    _LIBC.setfsuid(asker.uid)  # what he may not read himself is not his
    try:
        descriptor = _open_in_jail(place, path) if jailed else _open_here(path)
    finally:
        _LIBC.setfsuid(0)
        os.close(place)
    with os.fdopen(descriptor) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Refused("not a regular file")
        if found.st_uid != asker.uid:
            raise Refused(f"it belongs to uid {found.st_uid}, and uid {asker.uid} asks")
        if found.st_mode & 0o077 or not found.st_mode & 0o400:
            raise Refused(f"mode {stat.S_IMODE(found.st_mode):04o}")
        return file.read()


def _open_in_jail(root: int, path: str) -> int:
    directory = os.dup(root)
    try:
        *parts, last = [part for part in path.split("/") if part]
        for part in parts:
            below = os.open(part, _PART | os.O_DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = below
        return os.open(last, _PART, dir_fd=directory)
    finally:
        os.close(directory)


def _open_here(path: str) -> int:
    """One link is followed, and not as relative to where it lies."""
    place = Path(path)
    return os.open(place.readlink() if place.is_symlink() else place, _PART)
