# SPDX-License-Identifier: Apache-2.0
"""Refresh tokens that a provider gave in the place of those that users logged in with: without them
a later agent could renew nothing. For root alone, on the tmpfs of the token files; so they are gone
after a reboot, and who needs one then has to log in again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from fuse_mounter.credentials.tokens import Login, Secret

_DIRECTORY = ".refresh"


@dataclass(frozen=True, slots=True)
class RefreshMemory:
    """`directory` is that of the token files. Raises OSError."""

    directory: Path

    def recall(self, provider: str, login: Login) -> Secret | None:
        """None: the login's own is the newest."""
        try:
            kept = json.loads(self._path(provider, login.uid).read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(kept, dict) or kept.get("login") != _digest(login):
            return None
        refresh = kept.get("refresh")
        return Secret(refresh) if isinstance(refresh, str) and refresh else None

    def keep(self, provider: str, login: Login, refresh: Secret) -> None:
        path = self._path(provider, login.uid)
        path.parent.parent.mkdir(mode=0o700, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(aside, flags, 0o600), "w") as file:
                json.dump({"login": _digest(login), "refresh": refresh.reveal()}, file)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def forget(self, provider: str, uid: int) -> None:
        with contextlib.suppress(OSError):
            self._path(provider, uid).unlink()

    def _path(self, provider: str, uid: int) -> Path:
        return self.directory / _DIRECTORY / provider / f"{uid}.json"


def _digest(login: Login) -> str:
    """Which login it followed from: after a new one the old chain means nothing."""
    own = login.refresh.reveal() if login.refresh is not None else ""
    return hashlib.sha256(own.encode()).hexdigest()
