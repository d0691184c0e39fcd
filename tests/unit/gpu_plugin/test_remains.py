# SPDX-License-Identifier: Apache-2.0
"""What of the device plugin is left on a node, and when one is still at work."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agents import config
from agents.errors import AgentError
from gpu_plugin.agent import AGENT
from gpu_plugin.endpoint import socket_path
from gpu_plugin.remains import remains


def test_who_serves(tmp_path: Path) -> None:
    plugins = tmp_path / "device-plugins"
    plugins.mkdir()
    text = (
        f"node: {{kubelet_dir: {tmp_path}, state_dir: {tmp_path}/state}}\n"
        "gpu_plugin: {resources: [{name: a.b/c, select: {mig: none}, chunk: 1GiB}]}"
    )
    loaded = config.parse(text, {AGENT.section: AGENT.model})
    path = socket_path(plugins, "a.b/c")
    with socket.socket(socket.AF_UNIX) as plugin:
        plugin.bind(str(path))
        plugin.listen()
        found = remains(loaded.node, loaded.sections[AGENT.section])
        assert found.running == (f"process {os.getpid()}, which serves {str(path)!r}",)
        with pytest.raises(AgentError, match="is served by process"):
            found.errands[0].run()
    found = remains(loaded.node, loaded.sections[AGENT.section])
    assert found.running == ()
    found.errands[0].run()
    assert not path.exists()
