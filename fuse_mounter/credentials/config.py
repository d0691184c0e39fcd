# SPDX-License-Identifier: Apache-2.0
"""The section `fuse_mounter.credentials`: from where tokens of users come, who renews them, and in
which files they lie. Names of files with secrets, never secrets.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from agents import hostfs
from agents.config import Duration, HostPath, OwnDirectory, Section
from fuse_mounter.credentials.tokens import Format

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SHORTEST_S = 1.0
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name; use lower-case letters, digits and '-'")
    return value


def _file_name(value: str) -> str:
    if not _FILE.fullmatch(value):
        raise ValueError(f"{value!r} is not the name of a file, such as 'eos.token'")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{value!r} is not an address such as https://iam.example.org/")
    if parts.username or parts.password:
        raise ValueError("an address holds no user and no password; name a file with the secret")
    return value.rstrip("/")


def _secure(value: str) -> str:
    """Tokens travel there: only loopback may do without TLS."""
    parts = urlsplit(_url(value))
    if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"{value!r} would send tokens in the clear; use https")
    return value.rstrip("/")


def _positive(value: float) -> float:
    if value < _SHORTEST_S:
        raise ValueError(f"{value:g} s would never let it rest; write 1s or more")
    return value


Positive = Annotated[Duration, AfterValidator(_positive)]
Name = Annotated[str, AfterValidator(_name)]
Url = Annotated[str, AfterValidator(_url)]
SecureUrl = Annotated[str, AfterValidator(_secure)]


class HubSource(Section):
    """JupyterHub's user API: `auth_state` of the users whose servers run. `token_file` holds an API
    token of the hub that may read `admin:auth_state` and `list:users`.

    `uid_field` names the field of `auth_state` with the user id, with dots for a field of a field
    (`oauth_user.uid`); None: the user database of this node knows the user's name.
    """

    url: Url
    token_file: HostPath
    every: Positive = 60.0
    uid_field: str | None = None
    access_field: str = "access_token"
    refresh_field: str = "refresh_token"
    ca_file: HostPath | None = None


class Source(Section):
    """One of `directory` and `jupyterhub`.

    A directory holds a file for each user, called by his uid (its content is the token), or any
    name that ends in `.json`, with the keys `uid`, `access_token` or `refresh_token`, and, as one
    likes, `gid`, `name`, `expires_at`. A Secret that is mounted as a volume is such a directory.
    """

    name: Name
    directory: HostPath | None = None
    jupyterhub: HubSource | None = None

    @model_validator(mode="after")
    def _one(self) -> Source:
        if (self.directory is None) is (self.jupyterhub is None):
            raise ValueError(f"{self.name!r}: name one of directory and jupyterhub")
        return self


class ClientAuthentication(enum.Enum):
    """How the client says its secret (OpenID Connect Core §9)."""

    BASIC = "client_secret_basic"
    POST = "client_secret_post"


class Provider(Section):
    """An OpenID Connect provider, found by its `issuer` (OpenID Connect Discovery). The client is
    the hub's, or one that may exchange its tokens; `client_secret_file` None: a public client.
    """

    name: Name
    issuer: SecureUrl
    client_id: Annotated[str, Field(min_length=1)]
    client_secret_file: HostPath | None = None
    client_authentication: ClientAuthentication = ClientAuthentication.BASIC
    ca_file: HostPath | None = None
    timeout: Positive = 10.0
    #: So many requests of this node may be out in the same moment.
    at_once: Annotated[int, Field(ge=1, le=64, strict=True)] = 4


class Proof(Section):
    """After a new token, `path` below the published `mount` is opened as its user, with the
    environment that his pod has.
    """

    mount: Annotated[str, Field(min_length=1)]
    path: str = "."
    timeout: Positive = 10.0

    @field_validator("path")
    @classmethod
    def _below(cls, value: str) -> str:
        if value.startswith("/") or ".." in value.split("/") or "\0" in value:
            raise ValueError(f"{value!r} must be a path below the mount, without '..'")
        return value


class TokenFile(Section):
    """A class of tokens: one file in each user's directory.

    `provider` None: the access token as the source has it, which somebody else renews. With one, it
    is renewed by the refresh token, and with `audience` exchanged for one of that audience
    (RFC 8693), such as EOS or Rucio want it.
    """

    name: Name
    source: Name
    file: Annotated[str, AfterValidator(_file_name)]
    format: Format = Format.BEARER
    #: For `format: eos`: where the MGM asks who the user is, such as `iam.example.org/userinfo`.
    endpoint: str | None = None
    provider: Name | None = None
    audience: str | None = None
    scope: tuple[str, ...] = ()
    prove: Proof | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TokenFile:
        if (self.endpoint is not None) is not (self.format is Format.EOS):
            raise ValueError(
                f"{self.name!r}: format eos needs an endpoint, such as iam.example.org/userinfo, "
                "and no other format has one"
            )
        if self.provider is None and (self.audience is not None or self.scope):
            raise ValueError(f"{self.name!r}: audience and scope are asked of a provider; name one")
        return self


class Keytab(Section):
    """A file with a key, kept readable for those alone who need it: `owner` and mode 0400 are set,
    and set again when somebody changes them. `source`: where it is copied from, and again when
    that changes, such as a Secret volume, which holds links that no client takes.
    """

    path: HostPath
    source: HostPath | None = None
    owner: Annotated[int, Field(ge=0, strict=True)] = 0
    group: Annotated[int, Field(ge=0, strict=True)] = 0


class Credentials(Section):
    """`directory` is made a tmpfs; pods bind `<directory>/<uid>`, read-only, HostToContainer."""

    directory: OwnDirectory = hostfs.RUN_DIR / "credentials"
    sources: tuple[Source, ...] = ()
    providers: tuple[Provider, ...] = ()
    tokens: tuple[TokenFile, ...] = ()
    keytabs: tuple[Keytab, ...] = ()
    #: Whether metrics have a series for each user, with the user's id as a label.
    user_metrics: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Credentials:
        for what, names in (
            ("sources", [one.name for one in self.sources]),
            ("providers", [one.name for one in self.providers]),
            ("tokens", [one.name for one in self.tokens]),
            ("file names of tokens", [one.file for one in self.tokens]),
        ):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what}: {twice[0]!r} is there twice; names must differ")
        for one in self.tokens:
            self._known(one.name, "source", one.source, [each.name for each in self.sources])
            if one.provider is not None:
                known = [each.name for each in self.providers]
                self._known(one.name, "provider", one.provider, known)
        self._one_source_each()
        return self

    def _one_source_each(self) -> None:
        """A refresh token may be good for one use: two sources would spoil each other's."""
        for provider in self.providers:
            used = {one.source for one in self.tokens if one.provider == provider.name}
            if len(used) > 1:
                raise ValueError(
                    f"tokens: those of provider {provider.name!r} come from the sources "
                    f"{', '.join(sorted(used))}; use one, or name the provider twice"
                )

    @staticmethod
    def _known(token: str, what: str, name: str, known: list[str]) -> None:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"tokens: {token!r}: there is no {what} {name!r}; there are {there}")
