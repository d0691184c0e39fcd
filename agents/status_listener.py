# SPDX-License-Identifier: Apache-2.0
"""Where people find a page: on the node's status address, for this machine alone unless there is a
token. Knows routes as functions, and nothing of what they answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from agents.config import NodeConfig
from agents.errors import ConfigError
from agents.listeners import Listener, Route, bind_tcp


def bind(node: NodeConfig, name: str, routes: Mapping[str, Route]) -> Listener:
    """`name` is the key of its port in `node.status.ports`. Raises ConfigError: the port cannot be
    had, or the token cannot be read.
    """
    token = _token(node)
    return bind_tcp(
        node.status.address,
        getattr(node.status.ports, name),
        routes,
        key=f"node.status.ports.{name}",
        token=token,
        local_only=token is None,
    )


def _token(node: NodeConfig) -> str | None:
    path = node.status.token_file
    if path is None:
        return None
    try:
        token = path.read_text().partition("\n")[0].strip()
    except OSError as error:
        raise ConfigError(
            f"node.status.token_file: cannot read {str(path)!r}: {error.strerror}"
        ) from error
    if not token:
        raise ConfigError(f"node.status.token_file: {str(path)!r} holds no token on its first line")
    return token
