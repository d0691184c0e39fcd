# SPDX-License-Identifier: Apache-2.0
"""How this kubelet behaves: limits, rhythms, and traps that are switched on one by one.

Values only. The defaults are a healthy kubelet of Kubernetes 1.34 (whose node status does not lag).
"""

from __future__ import annotations

from dataclasses import dataclass

from agents import unix_grpc


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Each field says which fact it reproduces."""

    #: Largest message taken from a plugin. A list over it ends the stream; the plugin is told
    #: nothing.
    receive_bytes: int = unix_grpc.DEFAULT_RECEIVE_BYTES
    #: How long Register waits for the plugin to answer the call-back.
    dial_timeout_s: float = 10.0
    #: Limit of PreStartContainer. Allocate and GetPreferredAllocation have none.
    pre_start_timeout_s: float = 30.0
    #: A container that could not be made (PreStartContainer failed) is tried again after this time.
    retry_s: float = 10.0
    #: First pause before the second restart of a container; doubled each time, 300 s at most.
    restart_pause_s: float = 10.0
    #: The capacity of a dead plugin stays this long, then it is 0. Its allocatable is 0 at once.
    endpoint_grace_s: float = 300.0
    #: The node object (what the scheduler believes) is brought up to date this often; 0: always.
    #: A real node: 10 s, in which a pod can be bound to devices that are no longer healthy.
    node_status_period_s: float = 0.0
    #: podresources calls a second, and how many may come at once; above: `rejected by rate limit`.
    podresources_per_s: float = 100.0
    podresources_burst: int = 10
    #: A call that is out for longer is noted in the events. The kubelet has no such limit.
    slow_call_s: float = 1.0
    #: Rhythm of looking at containers, retries and pods that wait.
    tick_s: float = 0.1

    #: Trap: a busy node. Register returns late, and nothing is listed until then.
    dial_back_delay_s: float = 0.0
    #: Trap: Register is accepted, but nobody ever calls back or reads the list.
    dial_back: bool = True
    #: Trap: the plugin is read by two ListAndWatch streams at once, as when an old connection
    #: lingers. A plugin with one worker thread per stream and none to spare answers nothing any
    #: more.
    duplicate_stream: bool = False
    #: Trap: after a second registration the first stream stays open; when either of them ends, the
    #: resource is dropped. Two plugins of one name then take each other down for ever.
    keep_replaced_stream: bool = False
    #: Trap when False: a kubelet that starts leaves the plugins' sockets where they are. Only the
    #: new kubelet.sock (device and inode) shows the restart.
    clear_sockets: bool = True
    #: Trap: a kubelet that starts makes its directory anew and moves the old one aside: no inotify
    #: watch on the directory sees anything, as on overlay setups that lose events.
    replace_directory: bool = False
    #: Trap when False: the plugin is not asked which ids it prefers, although its options say so
    #: (topology alignment does this when the aligned ids are exactly enough).
    ask_preferred: bool = True
    #: Trap: the topology manager aligns to this NUMA node. Ids of the node are offered first or
    #: included by force; the plugin may see only a part of the free ids. None: no alignment.
    numa_node: int | None = None
    #: A restarted node admits its pods again in any order. This much later, so that plugins
    #: come first; trap when 0: pods with devices come first, and are rejected for good.
    readmit_delay_s: float = 0.0
    #: Trap: Allocate comes only when the container starts, not at admission (as after a node
    #: restart). Its error then does not reject the pod; it waits with CreateContainerConfigError.
    late_allocate: bool = False
