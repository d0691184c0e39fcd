# SPDX-License-Identifier: Apache-2.0
"""An embedded kubelet: what a device plugin can observe of a node, on real sockets.

    kubelet        pods: admit, create, delete, restart
    housekeeping   notices ends, starts what has become due
    session        one run of it: directories, sockets, everything a restart forgets
    registration   kubelet.sock: checks a request, lets the plugin be called back
    plugins        endpoints by resource: read their lists, replace them, drop them
    endpoint       calls to one plugin, with the kubelet's limits and error texts
    admission      devices for a pod; `choice` picks the ids, `answers` merges what Allocate said
    workers        containers of admitted pods: PreStartContainer, start, restart, end
    state          one lock around `devices` and who holds them (`allocations`), with a `checkpoint`
    node           the node object: numbers that lag, pods that wait
    podresources_server
    behaviour      limits, and the traps that can be switched on one by one
    events         what it noticed about plugins

Imported by the demonstration and by tests; by no agent.
"""

from agents.standin.kubelet.behaviour import Behaviour
from agents.standin.kubelet.events import Event, EventKind
from agents.standin.kubelet.kubelet import EmbeddedKubelet
from agents.standin.kubelet.node import NodeStatus
from agents.standin.kubelet.pods import ContainerStateName, ContainerStatus, PodStatus
from agents.standin.kubelet.state import ResourceState

__all__ = [
    "Behaviour",
    "ContainerStateName",
    "ContainerStatus",
    "EmbeddedKubelet",
    "Event",
    "EventKind",
    "NodeStatus",
    "PodStatus",
    "ResourceState",
]
