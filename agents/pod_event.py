# SPDX-License-Identifier: Apache-2.0
"""What is said of a pod in a Kubernetes Event: a value. Knows no API server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodEvent:
    """One container of a pod. `reason` is one word in CamelCase, `message` for people; `wall` is
    when it happened, in seconds of the epoch. `normal`: nothing to worry about.

    Of a node (`of_node`), `container` names the part of it that something happened to.
    """

    namespace: str
    pod: str
    pod_uid: str
    container: str
    reason: str
    message: str
    wall: float
    normal: bool = False
    about_node: bool = False

    @staticmethod
    def of_node(
        node: str, part: str, reason: str, message: str, wall: float, *, normal: bool
    ) -> PodEvent:
        """As the kubelet tells its own: in the namespace `default`, with the name for a uid."""
        return PodEvent("default", node, node, part, reason, message, wall, normal, True)


def tell_nobody(_: PodEvent) -> None:
    """Without an API server."""
