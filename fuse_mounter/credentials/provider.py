# SPDX-License-Identifier: Apache-2.0
"""New tokens from an OpenID Connect provider: by a refresh token (RFC 6749 §6), and one token for
another of a given audience (RFC 8693). oauthlib makes and reads the messages; it is loaded at the
first call.

Every call blocks, for seconds at most: worker threads only. Nothing that is said here holds a
token: not an error, not a log line.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from agents.errors import AgentError, Unavailable
from fuse_mounter.credentials.config import ClientAuthentication, Provider
from fuse_mounter.credentials.http import Answer, Http
from fuse_mounter.credentials.tokens import Secret, Token, a_time, access_token, is_one_word

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 -- a type, no token
_KNOWN_FOR_S = 3600.0
_FORM = "application/x-www-form-urlencoded"
#: What a provider answers when only the user can help (RFC 6749 §5.2, OIDC Core §3.1.2.6).
_LOGIN_NEEDED = frozenset(
    {"invalid_grant", "invalid_token", "login_required", "interaction_required", "consent_required"}
)
#: About this user and what is wanted for him; everything else is everybody's trouble.
_OF_ONE_USER = frozenset({"access_denied", "invalid_scope", "invalid_target"})


class LoginNeeded(AgentError):
    """The provider does not accept any more what the user logged in with."""


class Refused(AgentError):
    """The provider does not give this user what is asked for; to log in again would not help."""


@dataclass(frozen=True, slots=True)
class Renewed:
    """`refresh` None: the old one goes on."""

    access: Token
    refresh: Secret | None = None


class Tokens(Protocol):
    """A provider. Both raise LoginNeeded or Refused, which concern this user, or Unavailable, which
    concerns everybody.
    """

    def refresh(self, refresh: Secret, scope: tuple[str, ...] = ()) -> Renewed:
        """A new access token, and perhaps a new refresh token: then the old one may be dead."""

    def exchange(self, subject: Secret, audience: str, scope: tuple[str, ...] = ()) -> Token:
        """A token for this audience, by an access token. LoginNeeded: that one is not accepted."""


class OpenIdProvider:
    """See `config.Provider`. For one thread at a time."""

    def __init__(self, config: Provider) -> None:
        self._config = config
        self._http = Http(
            f"provider {config.name!r}",
            ca_file=config.ca_file,
            timeout_s=config.timeout,
            remedy="tokens that are out stay good until they end",
        )
        self._endpoint: str | None = None
        self._known_until = 0.0

    def refresh(self, refresh: Secret, scope: tuple[str, ...] = ()) -> Renewed:
        said = self._ask("refresh_token", scope, refresh_token=refresh.reveal())
        new = said.get("refresh_token")
        return Renewed(_token(said), Secret(new) if isinstance(new, str) and new else None)

    def exchange(self, subject: Secret, audience: str, scope: tuple[str, ...] = ()) -> Token:
        said = self._ask(
            _EXCHANGE,
            scope,
            subject_token=subject.reveal(),
            subject_token_type=_ACCESS_TOKEN,
            requested_token_type=_ACCESS_TOKEN,
            audience=audience,
        )
        return _token(said)

    def _ask(self, grant: str, scope: tuple[str, ...], **parameters: str) -> dict[str, Any]:
        from oauthlib.oauth2 import OAuth2Error
        from oauthlib.oauth2.rfc6749.parameters import parse_token_response, prepare_token_request

        endpoint, secret, config = self._token_endpoint(), self._secret(), self._config
        basic = secret is not None and config.client_authentication is ClientAuthentication.BASIC
        if secret is not None and not basic:
            parameters["client_secret"] = secret
        body = prepare_token_request(
            grant,
            client_id=config.client_id,
            include_client_id=not basic,
            scope=" ".join(scope) or None,
            **parameters,
        )
        # Each part is encoded before both are joined (RFC 6749 §2.3.1).
        user = (quote(config.client_id, safe=""), quote(secret or "", safe="")) if basic else None
        try:
            answer = self._http.request(
                "POST",
                endpoint,
                headers={"Accept": "application/json", "Content-Type": _FORM},
                body=body,
                user=user,
            )
        except Unavailable:
            self._endpoint = None  # it may have moved
            raise
        try:
            return dict(parse_token_response(answer.body.decode()))
        except OAuth2Error as error:
            raise self._refused(str(error.error or ""), answer.status, grant) from None
        except (ValueError, KeyError, TypeError):  # no JSON; its text may hold anything
            raise self._no_token(answer) from None

    def _refused(self, error: str, status: int, grant: str) -> AgentError:
        name = self._config.name
        # What was wrong with the token that was to be exchanged (RFC 8693 §2.2.2).
        subject = grant == _EXCHANGE and error == "invalid_request"
        if error in _LOGIN_NEEDED or subject:
            return LoginNeeded(
                f"provider {name!r} does not accept the login any more ({error})",
                remedy="the user must log in again",
            )
        remedy = _REMEDIES.get(error, "look at the log of the provider")
        # Only what is in the standards is repeated: the rest may be anything.
        what = error if error in _REMEDIES else "another error"
        kind = Refused if error in _OF_ONE_USER else Unavailable
        return kind(f"provider {name!r} answered {status}: {what}", remedy=remedy)

    def _no_token(self, answer: Answer) -> Unavailable:
        return Unavailable(
            f"provider {self._config.name!r} answered {answer.status}, and no token",
            remedy="look at its log",
        )

    def _token_endpoint(self) -> str:
        """By discovery, asked anew now and then: a provider may be moved."""
        if self._endpoint is None or time.monotonic() > self._known_until:
            url = f"{self._config.issuer}/.well-known/openid-configuration"
            answer = self._http.request("GET", url, headers={"Accept": "application/json"})
            self._endpoint = self._endpoint_in(answer)
            self._known_until = time.monotonic() + _KNOWN_FOR_S
        return self._endpoint

    def _endpoint_in(self, answer: Answer) -> str:
        issuer = self._config.issuer
        try:
            said = json.loads(answer.body)
            endpoint, told = str(said["token_endpoint"]), str(said["issuer"])
        except (ValueError, KeyError, TypeError):
            raise Unavailable(
                f"{issuer!r} is no OpenID provider: it answered {answer.status}",
                remedy="issuer must be the address before /.well-known/openid-configuration",
            ) from None
        if told.rstrip("/") != issuer:
            raise Unavailable(
                f"the provider calls itself {told[:200]!r}, and the configuration {issuer!r}",
                remedy="write the issuer as the provider has it",
            )
        if issuer.startswith("https:") and not endpoint.startswith("https:"):
            raise Unavailable(
                f"provider {self._config.name!r} would have tokens sent in the clear",
                remedy="its token_endpoint must begin with https",
            )
        return endpoint

    def _secret(self) -> str | None:
        """Read anew each time: it may be replaced."""
        path = self._config.client_secret_file
        if path is None:
            return None
        try:
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise Unavailable(
                f"client_secret_file {str(path)!r} cannot be read: {reason}",
                remedy="look whether the Secret is mounted",
            ) from None


def _token(said: dict[str, Any]) -> Token:
    now = time.time()
    text = str(said["access_token"])
    if not is_one_word(text):
        raise Unavailable("the provider gave a token that is not one word of ASCII")
    # By our own clock where we may, which need not be that of the provider.
    return access_token(text, now, _end(said.get("expires_in"), now), obtained=now)


def _end(seconds: object, now: float) -> float | None:
    try:
        return a_time(now + float(str(seconds)))
    except ValueError:
        return None


_REMEDIES = {
    "invalid_client": "look at client_id and client_secret_file",
    "invalid_request": "look at client_authentication, and at the log of the provider",
    "unauthorized_client": "the client needs the right to refresh, or to exchange, tokens",
    "unsupported_grant_type": "the provider has no token exchange, or it is switched off",
    "invalid_target": "the provider does not know the audience",
    "invalid_scope": "the provider does not know the scope, or the user may not have it",
    "access_denied": "the client may not exchange tokens for this audience",
    "missing_token": "look at the log of the provider",
}
