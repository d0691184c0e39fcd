# SPDX-License-Identifier: Apache-2.0
"""A small OpenID provider on loopback, over TLS: Authlib's authorization server in Flask. It gives
JWTs, renews them (with new refresh tokens, or with the same), exchanges them for an audience,
revokes, answers slowly, dies and comes back.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flask
from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import (
    BaseGrant,
    ClientMixin,
    RefreshTokenGrant,
    TokenEndpointMixin,
    TokenMixin,
)
from authlib.oauth2.rfc6749.errors import InvalidRequestError, InvalidScopeError
from joserfc import jwt
from joserfc.jwk import ECKey
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from tests.fakes.certificates import Certificates

CLIENT, CLIENT_SECRET = "hub", "a client's secret + more/="
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_LIMIT_S = 10.0


class _Client(ClientMixin):
    def get_client_id(self) -> str:
        return CLIENT

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in ("client_secret_basic", "client_secret_post")

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in ("refresh_token", EXCHANGE)

    def get_allowed_scope(self, scope: Collection[str] | str) -> str:
        return str(scope)


@dataclass
class _Session(TokenMixin):
    """What began with one login."""

    user: str
    alive: bool = True

    def get_scope(self) -> str:
        return "openid offline_access"

    def check_client(self, client: ClientMixin) -> bool:
        return True


@dataclass
class OpenIdProvider:
    """`life_s` of what it gives; `rotate`: each refresh token is good once, and one that is used
    twice ends its session. `slow_s`: how long it takes; `broken`: it answers 503. `asked` counts by
    grant; `out`: how many are being answered, `most` the most that ever were.
    """

    certificates: Certificates
    life_s: float = 3600.0
    rotate: bool = True
    slow_s: float = 0.0
    broken: bool = False
    exchanges: bool = True
    audiences: tuple[str, ...] = ("eos", "rucio")
    asked: Counter[str] = field(default_factory=Counter)
    most: int = 0
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "k1"}))
    _sessions: dict[str, _Session] = field(default_factory=dict)
    _used: dict[str, _Session] = field(default_factory=dict)
    _access: dict[str, _Session] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _out: int = 0
    _server: BaseWSGIServer | None = None
    _thread: threading.Thread | None = None
    port: int = 0

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.port}/realm"

    def entry(self, **more: object) -> dict[str, Any]:
        """Of the configuration."""
        secret = self.certificates.key.with_name("client-secret")
        secret.write_text(CLIENT_SECRET + "\n")
        return {
            "name": "iam",
            "issuer": self.issuer,
            "client_id": CLIENT,
            "client_secret_file": str(secret),
            "ca_file": str(self.certificates.authority),
            "timeout": "2s",
            **more,
        }

    def login(self, user: str, life_s: float | None = None) -> dict[str, str]:
        """As a hub has it afterwards."""
        session = _Session(user)
        return {
            "access_token": self._new_access(session, None, life_s),
            "refresh_token": self._new_refresh(session),
        }

    def revoke(self, user: str) -> None:
        """All that he ever logged in for."""
        with self._lock:
            for session in (*self._sessions.values(), *self._access.values()):
                if session.user == user:
                    session.alive = False

    def revoke_access(self) -> None:
        """All access tokens that are out; sessions go on."""
        with self._lock:
            self._access.clear()

    def claims(self, token: str) -> dict[str, Any]:
        """Of one that it signed itself."""
        return dict(jwt.decode(token, self.key, algorithms=["ES256"]).claims)

    def start(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        files = (str(self.certificates.certificate), str(self.certificates.key))
        self._server = make_server(
            "127.0.0.1",
            self.port,
            self._application(),
            threaded=True,
            ssl_context=files,
            request_handler=_Quiet,
        )
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])
        self._thread.start()

    def stop(self) -> None:
        """Nobody listens any more; its memory stays."""
        if self._server is not None:
            assert self._thread is not None
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(_LIMIT_S)
            self._server = None

    # ----- what the grants need

    def _new_access(self, session: _Session, audience: str | None, life_s: float | None) -> str:
        now = time.time()
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": session.user,
            "iat": int(now),
            "nbf": int(now) - 5,
            "exp": _end(now, self.life_s if life_s is None else life_s),
            "jti": secrets.token_hex(8),
            "wlcg.ver": "1.0",
            "scope": "storage.read:/",
        }
        if audience is not None:
            claims["aud"] = audience
        text = jwt.encode({"alg": "ES256", "kid": "k1"}, claims, self.key)
        if audience is None:
            self._access[text] = session
        return text

    def _new_refresh(self, session: _Session) -> str:
        text = f"refresh-{session.user}-{secrets.token_hex(16)}"
        self._sessions[text] = session
        return text

    def session_of_refresh(self, text: str) -> _Session | None:
        with self._lock:
            if (session := self._used.get(text)) is not None:
                session.alive = False  # somebody stole it, it must think
            session = self._sessions.get(text)
            if session is None or not session.alive:
                return None
            if self.rotate:
                self._used[text] = self._sessions.pop(text)
            return session

    def session_of_access(self, text: str) -> _Session | None:
        with self._lock:
            session = self._access.get(text)
        if session is None or not session.alive or self.claims(text)["exp"] <= time.time():
            return None
        return session

    def _generate(self, grant_type: str, user: _Session, form: Any) -> dict[str, Any]:
        audience = form.get("audience")
        answer: dict[str, Any] = {
            "token_type": "Bearer",
            "access_token": self._new_access(user, audience, None),
            "expires_in": self.life_s,
        }
        if grant_type == EXCHANGE:
            answer["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
        elif self.rotate:
            answer["refresh_token"] = self._new_refresh(user)
        return answer

    # ----- HTTP

    def _application(self) -> flask.Flask:
        app = flask.Flask(__name__)
        server = AuthorizationServer(
            app, lambda name: _Client() if name == CLIENT else None, lambda token, request: None
        )
        provider = self

        def generate(grant_type: str, user: _Session, **_: object) -> dict[str, Any]:
            return provider._generate(grant_type, user, flask.request.form)

        # Any callable will do, says its documentation.
        server.register_token_generator("default", generate)  # type: ignore[arg-type]
        server.register_grant(_refresh_grant(self))
        if self.exchanges:
            server.register_grant(_exchange_grant(self))

        @app.get("/realm/.well-known/openid-configuration")
        def discovery() -> dict[str, str]:
            provider.asked["discovery"] += 1
            return {"issuer": provider.issuer, "token_endpoint": f"{provider.issuer}/token"}

        @app.post("/realm/token")
        def token() -> Any:
            if provider.broken:
                return "down for maintenance", 503
            with provider._lock:
                provider.asked[flask.request.form["grant_type"]] += 1
                provider._out += 1
                provider.most = max(provider.most, provider._out)
            try:
                time.sleep(provider.slow_s)
                return server.create_token_response()
            finally:
                with provider._lock:
                    provider._out -= 1

        return app


class _Quiet(WSGIRequestHandler):
    """A client that went away is nothing to tell."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def _end(now: float, life_s: float) -> float:
    """Whole seconds where the life is such: not all who check tokens read others."""
    return math.ceil(now) + life_s if isinstance(life_s, int) else now + life_s


def _refresh_grant(provider: OpenIdProvider) -> type[BaseGrant]:
    class Refresh(RefreshTokenGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]  # noqa: RUF012

        def authenticate_refresh_token(  # type: ignore[override]  # None is its documented answer
            self, refresh_token: str
        ) -> _Session | None:
            return provider.session_of_refresh(refresh_token)

        def authenticate_user(self, refresh_token: TokenMixin) -> TokenMixin:
            return refresh_token

        def revoke_old_credential(self, refresh_token: TokenMixin) -> None:
            """It is used up already."""

    return Refresh


def _exchange_grant(provider: OpenIdProvider) -> type[BaseGrant]:
    class Exchange(BaseGrant, TokenEndpointMixin):
        GRANT_TYPE = EXCHANGE
        TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_basic", "client_secret_post"]  # noqa: RUF012

        def validate_token_request(self) -> None:
            self.request.client = self.authenticate_token_endpoint_client()
            session = provider.session_of_access(self.request.form.get("subject_token", ""))
            if session is None:  # RFC 8693, 2.2.2
                raise InvalidRequestError("the subject token is not valid")
            if self.request.form.get("audience") not in provider.audiences:
                raise InvalidScopeError("there is no such audience")
            self.request.user = session

        def create_token_response(self) -> Any:  # a dict, where its annotation says str
            token = self.generate_token(user=self.request.user, include_refresh_token=False)
            return 200, token, self.TOKEN_RESPONSE_HEADER

    return Exchange


def started(directory: Path, **settings: Any) -> OpenIdProvider:
    """On any port, with certificates in this directory."""
    from tests.fakes import certificates

    provider = OpenIdProvider(certificates.make(directory), **settings)
    provider.start()
    return provider
