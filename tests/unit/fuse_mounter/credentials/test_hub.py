# SPDX-License-Identifier: Apache-2.0
"""JupyterHub's user API, as a few routes on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flask
import pytest
from werkzeug.serving import make_server

from agents.errors import Unavailable
from fuse_mounter.credentials import sources
from fuse_mounter.credentials.config import HubSource
from fuse_mounter.credentials.http import Http, Later
from fuse_mounter.credentials.sources import HubLogins
from fuse_mounter.credentials.tokens import Secret

NOW = 1000.0


@dataclass
class Hub:
    directory: Path
    users: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""
    answer: Any = None

    def logins(self, **more: Any) -> HubLogins:
        (self.directory / "token").write_text("the-api-token\n")
        config = {"url": self.url, "token_file": str(self.directory / "token"), **more}
        return HubLogins(HubSource.model_validate(config))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    one, app = Hub(tmp_path), flask.Flask(__name__)

    @app.get("/hub/api/users")
    def users() -> Any:
        if one.answer is not None:
            return one.answer
        if flask.request.headers["Authorization"] != "token the-api-token":
            return {}, 403
        assert flask.request.args["state"] == "active"
        offset, limit = int(flask.request.args["offset"]), int(flask.request.args["limit"])
        page: dict[str, Any] = {"items": one.users[offset : offset + limit], "_pagination": {}}
        if offset + limit < len(one.users):
            page["_pagination"]["next"] = {"offset": offset + limit}
        return page

    server = make_server("127.0.0.1", 0, app, threaded=True)
    one.url = f"http://127.0.0.1:{server.server_port}/hub/api"
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield one
    server.shutdown()
    server.server_close()
    thread.join(10)


def user(name: str, uid: object, **state: object) -> dict[str, Any]:
    said = {"access_token": f"a-{name}", "oauth_user": {"uid": uid}, **state}
    return {"name": name, "auth_state": said}


def test_all_pages_of_users(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PAGE", 2)
    hub.users = [user(f"u{n}", 1000 + n, refresh_token=f"r{n}") for n in range(5)]
    hub.users[3]["auth_state"]["oauth_user"]["uid"] = "1003"
    found = hub.logins(uid_field="oauth_user.uid").look(NOW)
    assert sorted(found.logins) == [1000, 1001, 1002, 1003, 1004]
    assert found.logins[1002].refresh == Secret("r2")
    assert found.logins[1002].name == "u2"


def test_who_has_no_state_now_has_not_left(hub: Hub) -> None:
    logins = hub.logins(uid_field="oauth_user.uid")
    hub.users = [user("ada", 1000), user("bob", 1001), user("eve", 1000)]
    found = logins.look(NOW)
    assert sorted(found.logins) == [1000, 1001]
    assert found.problems == ("user 'eve': uid 1000 is there twice; remove one",)
    hub.users = [user("ada", 1000), {"name": "bob", "auth_state": None}]
    found = logins.look(NOW)
    assert sorted(found.logins) == [1000]
    assert found.unclear == {1001}
    hub.users = [user("ada", 1000)]
    assert logins.look(NOW).unclear == frozenset()


def test_users_whom_this_node_knows(hub: Hub) -> None:
    hub.users = [user("daemon", None), user("nobody-knows-him", None)]
    found = hub.logins().look(NOW)
    assert list(found.logins) == [1]
    assert "uid is not the number of a user" in found.problems[0]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (({}, 401), "does not know the token"),
        (({}, 403), "needs the scopes"),
        (({}, 404), "url must end in the hub's API"),
        (({}, 500), "answered 500"),
        (("<html>", 200), "answered no JSON"),
        (({"version": "5"}, 200), "answered no list of users"),
        (("", 302, {"Location": "https://elsewhere.example.org/"}), "answered 302"),
    ],
)
def test_what_a_hub_may_answer(hub: Hub, answer: Any, expected: str) -> None:
    hub.answer = answer
    with pytest.raises(Unavailable, match=expected) as raised:
        hub.logins().look(NOW)
    assert "the-api-token" not in str(raised.value)


def test_a_hub_that_is_not_there(tmp_path: Path) -> None:
    gone = Hub(tmp_path, url="http://127.0.0.1:9/hub/api").logins()
    with pytest.raises(Unavailable, match="does not answer: ConnectionError; look whether it runs"):
        gone.look(NOW)


def test_a_hub_that_says_too_much_or_wants_peace(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    http = Http("it", ca_file=None, timeout_s=5, remedy="wait")
    hub.answer = ("", 429, {"Retry-After": "7"})
    with pytest.raises(Later) as raised:
        http.request("GET", f"{hub.url}/users", headers={})
    assert raised.value.after_s == 7
    monkeypatch.setattr("fuse_mounter.credentials.http._LARGEST", 10)
    hub.answer = ("x" * 100, 200)
    with pytest.raises(Unavailable, match="it answers more than"):
        http.request("GET", f"{hub.url}/users", headers={})
