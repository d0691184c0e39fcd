# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes API server, in the few verbs that node agents need. The only importer of
`kubernetes`, and not before the first connection: an agent without API access never loads it.

Every call blocks, for seconds at most: worker threads only. Objects are read as the JSON they are
(a `test` in a patch has to repeat a value exactly). Decides nothing, and tries nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agents.errors import ConfigError, Unavailable
from agents.event_record import EventRecord

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

#: Seconds to connect, and between two pieces of an answer.
_TIMEOUT_S = (3.0, 10.0)
_PAGE = 500
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

#: One operation of a JSON patch (RFC 6902).
Operation = Mapping[str, Any]


class Conflict(Unavailable):
    """The object is not any more what the request took it for; read it again."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """What agents look at in a node object. `taints` are whole, as the API server has them."""

    name: str
    resource_version: str
    taints: tuple[Mapping[str, Any], ...]
    annotations: Mapping[str, str] | None
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class FailedPod:
    """A pod that has failed for good. `resources` are all that its containers ask for."""

    namespace: str
    name: str
    uid: str
    reason: str
    message: str
    created: str
    resources: frozenset[str]


class Cluster(Protocol):
    """Blocking; all raise Unavailable."""

    def node(self, name: str) -> NodeState:
        """The node object now."""

    def patch_node(self, name: str, operations: Sequence[Operation]) -> None:
        """All operations or none. Raises Conflict when a `test` among them fails."""

    def failed_pods(self, node: str) -> Iterator[FailedPod]:
        """All on this node, page by page."""

    def delete_pod(self, pod: FailedPod) -> bool:
        """This very pod (by uid), never another of its name. False: it was gone already."""

    def create_event(self, record: EventRecord) -> None:
        """A new Event about a pod."""

    def count_event(self, record: EventRecord) -> bool:
        """Bring one up to date that was told again. False: it is not there any more."""


def connect(kubeconfig: Path | None) -> KubeCluster:
    """By a kubeconfig file, or (None) as the service account of the pod we run in. Touches no
    network. Raises ConfigError for a bad file, Unavailable outside a cluster. (A kubeconfig
    may name a program that tells the credentials; then the library runs it.)
    """
    from kubernetes import client, config

    settings = client.Configuration()
    settings.retries = False  # whoever calls decides when to try again
    if kubeconfig is None:
        try:
            config.load_incluster_config(settings)  # type: ignore[no-untyped-call] # theirs
        except (config.ConfigException, OSError) as error:
            raise Unavailable(
                f"no service account to talk to the API server with: {error}",
                remedy="run in a pod with a service account, or name a kubeconfig file",
            ) from error
    else:
        try:
            config.load_kube_config(  # type: ignore[no-untyped-call] # theirs
                str(kubeconfig), client_configuration=settings, persist_config=False
            )
        except Exception as error:  # a wrong file makes that library raise anything
            raise ConfigError(f"cannot use the kubeconfig {str(kubeconfig)!r}: {error}") from error
    return KubeCluster(client.ApiClient(settings), settings.host)


class KubeCluster:
    """`Cluster` through the official client. One call at a time.

    Below its generated classes: those would take 22 MiB more, to say what three paths say.
    """

    def __init__(self, client: ApiClient, server: str) -> None:
        self._client, self._server = client, server

    def close(self) -> None:
        self._client.close()  # type: ignore[no-untyped-call] # theirs

    def node(self, name: str) -> NodeState:
        found = self._ask(f"get node {name!r}", "GET", "/api/v1/nodes/{name}", {"name": name})
        meta, spec = _object(found, "metadata"), _object(found, "spec")
        return NodeState(
            name=name,
            resource_version=str(meta.get("resourceVersion", "")),
            taints=tuple(spec.get("taints") or ()),
            annotations=meta.get("annotations"),
            labels=meta.get("labels"),
        )

    def patch_node(self, name: str, operations: Sequence[Operation]) -> None:
        self._ask(
            f"patch node {name!r}",
            "PATCH",
            "/api/v1/nodes/{name}",
            {"name": name},
            body=[dict(operation) for operation in operations],
            kind="application/json-patch+json",
        )

    def failed_pods(self, node: str) -> Iterator[FailedPod]:
        query = {
            "fieldSelector": f"spec.nodeName={node},status.phase=Failed",
            "limit": str(_PAGE),
        }
        while True:
            what = f"list the failed pods of node {node!r}"
            found = self._ask(what, "GET", "/api/v1/pods", {}, query=query)
            yield from map(_failed_pod, found.get("items") or ())
            more = _object(found, "metadata").get("continue")
            if not more:
                return
            query["continue"] = str(more)

    def delete_pod(self, pod: FailedPod) -> bool:
        try:
            self._ask(
                f"delete pod {pod.namespace}/{pod.name}",
                "DELETE",
                "/api/v1/namespaces/{namespace}/pods/{name}",
                {"namespace": pod.namespace, "name": pod.name},
                body={"preconditions": {"uid": pod.uid}},
            )
        except (Conflict, _NotFound):  # another uid has the name now, or nobody
            return False
        return True

    def create_event(self, record: EventRecord) -> None:
        event = record.event
        self._ask(
            f"create an event about pod {event.namespace}/{event.pod}",
            "POST",
            "/api/v1/namespaces/{namespace}/events",
            {"namespace": event.namespace},
            body=record.document(),
        )

    def count_event(self, record: EventRecord) -> bool:
        event = record.event
        try:
            self._ask(
                f"update an event about pod {event.namespace}/{event.pod}",
                "PATCH",
                "/api/v1/namespaces/{namespace}/events/{name}",
                {"namespace": event.namespace, "name": record.name},
                body=record.news(),
                kind="application/merge-patch+json",
            )
        except _NotFound:
            return False
        return True

    def lease(self, namespace: str, name: str) -> dict[str, Any] | None:
        """See `agents.lease`."""
        try:
            return self._ask(
                f"get lease {namespace}/{name}",
                "GET",
                f"{_LEASES}/{{name}}",
                {"namespace": namespace, "name": name},
            )
        except _NotFound:
            return None

    def put_lease(self, namespace: str, name: str, lease: Mapping[str, Any]) -> dict[str, Any]:
        """See `agents.lease`."""
        new = "resourceVersion" not in lease["metadata"]
        return self._ask(
            f"{'create' if new else 'update'} lease {namespace}/{name}",
            "POST" if new else "PUT",
            _LEASES if new else f"{_LEASES}/{{name}}",
            {"namespace": namespace} if new else {"namespace": namespace, "name": name},
            body=dict(lease),
        )

    def _ask(
        self,
        what: str,
        method: str,
        path: str,
        names: Mapping[str, str],
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        kind: str = "application/json",
    ) -> dict[str, Any]:
        """The answer as JSON. Translates every error, once."""
        from kubernetes.client.exceptions import OpenApiException
        from kubernetes.config import ConfigException
        from urllib3.exceptions import HTTPError

        try:
            request = self._client.param_serialize(
                method,
                path,
                path_params=dict(names),
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
                collection_formats={},
            )
            answer = self._client.call_api(*request, _request_timeout=_TIMEOUT_S)
            text = answer.read()  # type: ignore[no-untyped-call] # theirs
        except (ConfigException, OpenApiException, HTTPError, OSError) as error:
            # Also a token file that cannot be read anew, and a certificate that is not trusted.
            problem = " ".join(str(error).split())
            raise Unavailable(
                f"cannot {what}: no answer from {self._server}: {problem}",
                remedy="look whether the API server can be reached from this node",
            ) from error
        if not 200 <= answer.status < 300:
            raise _refused(f"cannot {what}: {self._server}", answer.status, answer.reason, text)
        return self._decoded(what, text)

    def _decoded(self, what: str, text: bytes) -> dict[str, Any]:
        try:
            document = json.loads(text)
        except ValueError as error:
            raise Unavailable(f"cannot {what}: {self._server} did not answer JSON") from error
        if not isinstance(document, dict):
            raise Unavailable(f"cannot {what}: {self._server} did not answer an object")
        return document


class _NotFound(Unavailable):
    """No such object."""


def _refused(who: str, status: int, reason: str | None, body: bytes) -> Unavailable:
    text = f"{who} answered {status}: {_reason(reason, body)}"
    match status:
        case 401:
            remedy = "look whether the token or certificate has expired"
        case 403:
            remedy = (
                "grant the service account get and patch of nodes, list and delete of pods, create "
                "and patch of events, get, create and update of leases"
            )
        case 404:
            return _NotFound(text, remedy="set node.name to the node's name in the cluster")
        case 409 | 422:
            return Conflict(text)
        case _:
            return Unavailable(text)
    return Unavailable(text, remedy=remedy)


def _reason(reason: str | None, body: bytes) -> str:
    """The API server's own sentence, when its answer is a Status object."""
    try:
        message = json.loads(body)["message"]
    except (ValueError, TypeError, KeyError):
        message = reason
    return " ".join(str(message).split())[:500]


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _failed_pod(document: Mapping[str, Any]) -> FailedPod:
    meta, status = _object(document, "metadata"), _object(document, "status")
    spec = _object(document, "spec")
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return FailedPod(
        namespace=str(meta.get("namespace", "")),
        name=str(meta.get("name", "")),
        uid=str(meta.get("uid", "")),
        reason=str(status.get("reason") or ""),
        message=str(status.get("message") or ""),
        created=str(meta.get("creationTimestamp") or ""),
        resources=frozenset(
            name for one in containers for name in _object(_object(one, "resources"), "limits")
        ),
    )
