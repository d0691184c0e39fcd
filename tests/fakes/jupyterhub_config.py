# SPDX-License-Identifier: Apache-2.0
"""The configuration of a real JupyterHub with the real KubeSpawner, for tests: what a chart would
write (the example values are executed as they are), but nobody has to type a password, and there is
no proxy. A program for the environment that has a hub (`.venv/hub`); it learns everything from
`NODESHARE_TEST_HUB`, a file of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import yaml
from jupyterhub.auth import DummyAuthenticator
from jupyterhub.proxy import Proxy

c: Any = get_config()  # type: ignore[name-defined] # noqa: F821 -- traitlets gives it to a file
TEST = json.loads(Path(os.environ["NODESHARE_TEST_HUB"]).read_text())
VALUES = yaml.safe_load(Path(TEST["values"]).read_text())


class NoProxy(Proxy):  # type: ignore[misc] # of an environment that mypy does not see
    """The tests speak to the hub itself; the real one is a program in another language."""

    should_start = False

    async def add_route(self, routespec: str, target: str, data: Any) -> None:
        pass

    async def delete_route(self, routespec: str) -> None:
        pass

    async def get_all_routes(self) -> dict[str, Any]:
        return {}


class WithNumbers(DummyAuthenticator):  # type: ignore[misc] # likewise
    """Everybody is who he says, and has the number that the test gave him, or none."""

    async def authenticate(self, handler: Any, data: Any) -> Any:
        name = data["username"]
        uid = TEST["uids"].get(name)
        return {"name": name, "auth_state": {"oauth_user": {} if uid is None else {"uid": uid}}}


c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.bind_url = f"http://127.0.0.1:{TEST['proxy_port']}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{TEST['hub_port']}"
c.JupyterHub.db_url = "sqlite://"
c.JupyterHub.cookie_secret_file = f"{TEST['directory']}/cookie_secret"
c.JupyterHub.authenticator_class = WithNumbers
c.JupyterHub.load_groups = {name: {"users": users} for name, users in TEST["groups"].items()}
c.JupyterHub.services = [{"name": "test", "api_token": TEST["api_token"]}]
SCOPES = ["admin:servers", "read:users"]
c.JupyterHub.load_roles = [{"name": "test", "services": ["test"], "scopes": SCOPES}]
c.Authenticator.allow_all = True
c.Authenticator.enable_auth_state = True
c.CryptKeeper.keys = ["0" * 64]
c.JupyterHub.spawner_class = "kubespawner.KubeSpawner"
c.JupyterHub.init_spawners_timeout = 0
c.JupyterHub.cleanup_servers = False
# An answer is what came of a start, also on a machine that is busy.
c.JupyterHub.tornado_settings = {"slow_spawn_timeout": 60}
c.KubeSpawner.http_timeout = c.KubeSpawner.start_timeout = 60
c.KubeSpawner.namespace = "jhub"
c.KubeSpawner.port = TEST["notebook_port"]
c.KubeSpawner.events_enabled = False
c.KubeSpawner.image = "registry.example.org/jupyter/base-notebook:latest"
c.KubeSpawner.cmd = ["jupyterhub-singleuser"]
c.KubeSpawner.environment = {"LANG": "C.UTF-8"}
c.KubeSpawner.extra_annotations = {"example.org/team": "hub"}

# What the chart's own configuration offers to extraConfig.
z2jh = types.ModuleType("z2jh")
VALUES["custom"]["nodeshare"].update(TEST["changes"])
z2jh.get_config = lambda key: VALUES["custom"][key.split(".")[1]]  # type: ignore[attr-defined]
sys.modules["z2jh"] = z2jh
sys.path.insert(0, TEST["package"])  # the ConfigMap of the example, where it is here
for code in VALUES["hub"]["extraConfig"].values():
    exec(code)
