# SPDX-License-Identifier: Apache-2.0
"""The real KubeSpawner with our hooks, without a hub: what a spawner is after them, or what they
refused, as JSON. A program for the environment that has a hub (`.venv/hub`).

It finds a cluster by `KUBECONFIG`, and reads a list of cases from standard input, each with
`settings`, `config` (of KubeSpawner), `callable` (traits that become functions), `groups`,
`auth_state`, and `starts`, a list of user options with which one spawner is started.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import types
from typing import Any

import nodeshare_hub
from kubespawner import KubeSpawner
from tornado.web import HTTPError
from traitlets.config import Config


class User:
    """As much of a user as KubeSpawner looks at."""

    def __init__(self, groups: list[str], auth_state: Any) -> None:
        self.name = self.escaped_name = "ada"
        self.id, self.url = 1, "/user/ada/"
        self.settings: dict[str, Any] = {}
        self.groups = [types.SimpleNamespace(name=name) for name in groups]
        self._auth_state = auth_state

    async def get_auth_state(self) -> Any:
        return self._auth_state


async def run(case: dict[str, Any]) -> list[Any]:
    c = Config()
    for name, value in case.get("config", {}).items():
        setattr(c.KubeSpawner, name, value)
    for name, value in case.get("callable", {}).items():
        setattr(c.KubeSpawner, name, lambda _, value=value: value)
    if case.get("former"):
        c.Spawner.pre_spawn_hook = former
    try:
        nodeshare_hub.configure(c, case["settings"])
    except nodeshare_hub.SettingsError as error:
        return [{"settings": str(error)}]
    spawner = KubeSpawner(_mock=True, config=c)
    spawner.log.setLevel(logging.CRITICAL)
    spawner.user = User(case.get("groups", []), case.get("auth_state"))
    return [await start(spawner, options) for options in case["starts"]]


async def start(spawner: Any, options: Any) -> Any:
    spawner.user_options = options
    try:
        await spawner.pre_spawn_hook(spawner)
    except HTTPError as error:
        return {"status": error.status_code, "message": error.jupyterhub_message}
    pod = await spawner.get_pod_manifest()
    return {"pod": spawner.api.api_client.sanitize_for_serialization(pod)}


async def former(spawner: Any) -> None:
    started = int(spawner.environment.get("FORMER", "0")) + 1
    spawner.environment = {**spawner.environment, "FORMER": str(started)}


async def main() -> list[list[Any]]:
    return [await run(case) for case in json.load(sys.stdin)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main())))
