# SPDX-License-Identifier: Apache-2.0
"""Who is logged in, and with what: from a directory that a hub fills, or from the hub itself. Every
call blocks, for seconds at most: worker threads only. Renews nothing.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agents.errors import Unavailable
from fuse_mounter.credentials.config import HubSource
from fuse_mounter.credentials.http import Http
from fuse_mounter.credentials.tokens import Login, Secret, a_time, access_token, is_one_word

_LARGEST = 1 << 20
_PAGE = 200
_TIMEOUT_S = 10.0
_UID = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True)
class Found:
    """Logins by user id. `problems`: entries that could not be understood, without what they say.
    `unclear`: users of such entries, by what was known of them before; they have not left.
    """

    logins: Mapping[int, Login] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    unclear: frozenset[int] = frozenset()


class Logins(Protocol):
    """A source."""

    def look(self, now: float) -> Found:
        """Everybody who is logged in now. Raises Unavailable when that cannot be told: then nobody
        is logged out by it.
        """


class DirectoryLogins:
    """See `config.Source`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._users: dict[str, int] = {}

    def look(self, now: float) -> Found:
        looked = _Looked(self._users)
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except OSError as error:
            raise Unavailable(
                f"cannot read {str(self._directory)!r}: {error.strerror}",
                remedy="look whether the Secret or directory is mounted",
            ) from error
        for name in names:
            if name.startswith("."):  # also `..data`, through which a Secret is replaced at once
                continue
            try:
                looked.found(name, _of_file(self._directory / name, now))
            except (OSError, ValueError) as error:
                looked.failed(name, f"{name!r}: {_reason(error)}")
        return looked.done()


def _of_file(path: Path, now: float) -> Login:
    # A pipe would hold us up for ever.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError("not a file")
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError("too long")
    text = data.decode().strip()
    if path.suffix == ".json":
        return login_of(json.loads(text), now)
    if not _UID.fullmatch(path.name):
        raise ValueError("the name is neither a user id nor ends in .json")
    return login_of({"uid": int(path.name), "access_token": text}, now)


def login_of(said: Any, now: float) -> Login:
    """From the keys that `config.Source` names. Raises ValueError, which quotes no value."""
    if not isinstance(said, dict):
        raise ValueError("not a JSON object")
    uid, gid = said.get("uid"), said.get("gid")
    if isinstance(uid, bool) or not isinstance(uid, int) or not 0 < uid < (1 << 32) - 1:
        raise ValueError("uid is not the number of a user")
    if gid is not None and (isinstance(gid, bool) or not isinstance(gid, int) or gid < 0):
        raise ValueError("gid is not the number of a group")
    access, refresh = _text(said, "access_token"), _text(said, "refresh_token")
    if access is None and refresh is None:
        raise ValueError("there is neither access_token nor refresh_token")
    expires = said.get("expires_at")
    if expires is not None and (expires := a_time(expires)) is None:
        raise ValueError("expires_at is not a number (seconds of the epoch)")
    return Login(
        uid,
        _group_of(uid) if gid is None else gid,
        None if access is None else access_token(access, now, expires),
        None if refresh is None else Secret(refresh),
        str(said.get("name") or ""),
    )


def _text(said: Mapping[str, Any], key: str) -> str | None:
    value = said.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not is_one_word(value):
        raise ValueError(f"{key} is not one word of ASCII")
    return value


def _group_of(uid: int) -> int:
    """The user's own group where this node knows the user, else one of the same number."""
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


class HubLogins:
    """Users of a JupyterHub whose servers run (REST API of the hub, `/users`)."""

    def __init__(self, config: HubSource) -> None:
        self._config = config
        self._http = Http(
            f"the hub at {config.url!r}",
            ca_file=config.ca_file,
            timeout_s=_TIMEOUT_S,
            remedy="look whether it runs, and whether a network policy is in the way",
        )
        self._known: dict[str, int] = {}

    def look(self, now: float) -> Found:
        looked = _Looked(self._known)
        for user in self._users():
            name = str(user.get("name") or "?")
            state = user.get("auth_state")
            try:
                if not isinstance(state, dict):
                    raise ValueError("there is no auth_state (enable_auth_state of the hub)")
                looked.found(name, login_of(self._said(name, state), now))
            except ValueError as error:
                looked.failed(name, f"user {name!r}: {error}")
        return looked.done()

    def _said(self, name: str, state: Mapping[str, Any]) -> dict[str, Any]:
        config = self._config
        uid = _user_id(name) if config.uid_field is None else _field(state, config.uid_field)
        return {
            "uid": int(uid) if isinstance(uid, str) and _UID.fullmatch(uid) else uid,
            "access_token": _field(state, config.access_field),
            "refresh_token": _field(state, config.refresh_field),
            "expires_at": state.get("expires_at"),
            "name": name,
        }

    def _users(self) -> Iterator[Mapping[str, Any]]:
        offset: int | None = 0
        while offset is not None:
            page = self._get(f"/users?state=active&limit={_PAGE}&offset={offset}")
            users = page.get("items") if isinstance(page, dict) else page
            if not isinstance(users, list):
                raise Unavailable(
                    f"the hub at {self._config.url!r} answered no list of users",
                    remedy="url must end in the hub's API, such as http://hub:8081/hub/api",
                )
            yield from (user for user in users if isinstance(user, dict))
            following = _field(page, "_pagination.next.offset")
            offset = following if isinstance(following, int) and following > offset else None

    def _get(self, path: str) -> Any:
        config = self._config
        try:
            token = config.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise Unavailable(
                f"token_file {str(config.token_file)!r} cannot be read",
                remedy="look whether the Secret is mounted",
            ) from None
        if not is_one_word(token):
            raise Unavailable(f"token_file {str(config.token_file)!r} holds no token")
        answer = self._http.request(
            "GET",
            config.url + path,
            headers={
                "Authorization": f"token {token}",
                "Accept": "application/jupyterhub-pagination+json",
            },
        )
        if answer.status != 200:
            raise Unavailable(
                f"the hub at {config.url!r} answered {answer.status}",
                remedy=_HUB_REMEDIES.get(answer.status, "look at the log of the hub"),
            )
        try:
            return json.loads(answer.body)
        except ValueError:
            raise Unavailable(f"the hub at {config.url!r} answered no JSON") from None


class _Looked:
    """One look at a source, which remembers in `users` who an entry was of."""

    def __init__(self, users: dict[str, int]) -> None:
        self._users, self._seen = users, set[str]()
        self._logins: dict[int, Login] = {}
        self._problems: list[str] = []
        self._unclear: set[int] = set()

    def found(self, name: str, login: Login) -> None:
        """Raises ValueError when somebody else has this id."""
        if login.uid in self._logins:
            raise ValueError(f"uid {login.uid} is there twice; remove one")
        self._seen.add(name)
        self._users[name] = login.uid
        self._logins[login.uid] = login

    def failed(self, name: str, problem: str) -> None:
        self._seen.add(name)
        self._problems.append(problem)
        uid = int(name) if _UID.fullmatch(name) else self._users.get(name)
        if uid is not None:
            self._unclear.add(uid)

    def done(self) -> Found:
        for gone in self._users.keys() - self._seen:
            del self._users[gone]
        unclear = frozenset(self._unclear - self._logins.keys())
        return Found(self._logins, tuple(self._problems), unclear)


_HUB_REMEDIES = {
    401: "the hub does not know the token in token_file",
    403: "the token in token_file needs the scopes list:users and admin:auth_state",
    404: "url must end in the hub's API, such as http://hub:8081/hub/api",
}


def _user_id(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def _field(state: Any, path: str) -> Any:
    """`oauth_user.uid`: a field of a field."""
    here: Any = state
    for part in path.split("."):
        here = here.get(part) if isinstance(here, dict) else None
    return here


def _reason(error: Exception) -> str:
    """Without the text of what could not be understood: it may be a token."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, json.JSONDecodeError):
        return "not valid JSON"
    if isinstance(error, UnicodeDecodeError):
        return "not text"
    return str(error)
