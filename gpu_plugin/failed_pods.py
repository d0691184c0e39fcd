# SPDX-License-Identifier: Apache-2.0
"""Pods of this node that were rejected for lack of our devices, and stay Failed until somebody
deletes them. A controller makes new ones without a pause, so there can be hundreds.

Only what is ours beyond doubt: the kubelet's reason, a message that names our resource, and a pod
that asks for it. Blocks: for commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from agents.errors import AgentError
from agents.kube import Cluster, FailedPod
from agents.report import Report
from agents.tables import Table, lines
from gpu_plugin import rejection

_COLUMNS = ("namespace", "pod", "since", "resource", "")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A failed pod and the resource of ours that it could not get. `done` says what became of it:
    kept, deleted, gone, or the error.
    """

    pod: FailedPod
    resource: str
    done: str = "kept"


def rejected(pods: Iterable[FailedPod], resources: Sequence[str]) -> tuple[Rejected, ...]:
    """Those that are ours, by namespace and name."""
    found = [
        Rejected(pod, name)
        for pod in pods
        if pod.reason == rejection.REASON
        and (name := rejection.named_resource(pod.message, resources)) is not None
        and name in pod.resources
    ]
    return tuple(sorted(found, key=lambda one: (one.pod.namespace, one.pod.name)))


def delete(cluster: Cluster, found: Iterable[Rejected]) -> tuple[Rejected, ...]:
    """Each by its uid: a pod that has taken the name meanwhile stays. One that cannot be deleted
    does not keep the others.
    """
    return tuple(Rejected(one.pod, one.resource, _delete(cluster, one.pod)) for one in found)


def _delete(cluster: Cluster, pod: FailedPod) -> str:
    try:
        return "deleted" if cluster.delete_pod(pod) else "gone"
    except AgentError as error:
        return str(error)


def report(node: str, found: Sequence[Rejected], *, deleting: bool) -> Report:
    """A row for each pod, with the kubelet's words below the table, each text once."""
    rows = [
        (one.pod.namespace, one.pod.name, one.pod.created, one.resource, one.done) for one in found
    ]
    said = dict.fromkeys(one.pod.message for one in found)
    text = [f"no pod of node {node} has failed for lack of our devices"]
    if found:
        text = [*lines([Table(f"Failed pods of node {node}", _COLUMNS, rows)]), *said]
        if not deleting:
            text += ["", "nothing was deleted; --delete does it"]
    return Report(text, {"node": node, "pods": [_entry(one) for one in found]})


def _entry(one: Rejected) -> dict[str, str]:
    pod = one.pod
    return {
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "created": pod.created,
        "resource": one.resource,
        "message": pod.message,
        "done": one.done,
    }
